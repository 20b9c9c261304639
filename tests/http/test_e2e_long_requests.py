"""Behind real servers: requests longer than their lease, clients that leave, owners that are replaced."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from e2e_support import PATIENCE, App, new_key

from idemstore.machine import MICROSECONDS, State
from idemstore.testing.families import names

LEASE = 3
"""Short, but longer than a machine stands still between two renewals."""


def post(client: httpx.Client, key: str | None, timeout: float = PATIENCE) -> httpx.Response:
    """One request."""
    return client.post("/", headers={} if key is None else {"Idempotency-Key": key}, timeout=timeout)


def problem(response: httpx.Response) -> str:
    """What kind of problem it is."""
    return str(response.json()["type"]).rpartition("/")[2]


ASGI, WSGI = ("uvicorn", "e2e_slow_asgi", "redis"), ("gunicorn --preload", "e2e_slow_wsgi", "sqlite")


@pytest.fixture(scope="module", params=[ASGI, WSGI], ids=["asgi", "wsgi"])
def running(request: pytest.FixtureRequest, make_subject) -> Iterator[App]:
    """ASGI and WSGI, with a lease of three seconds."""
    kind, example, family = request.param
    if family not in names():
        pytest.skip(f"{family} is not among IDEMSTORE_SUBJECTS")
    pytest.importorskip(kind.partition(" ")[0])
    app = App(kind, example, "work", make_subject(family))
    yield app
    app.close()


@pytest.fixture
def app(running: App) -> Iterator[App]:
    """The same, with nothing counted yet."""
    running.world.start_over()
    said = running.server.log.stat().st_size
    yield running
    print(running.server.output(said))  # noqa: T201 - pytest captures it


def lease_until(app: App, key: str) -> int:
    """When the lease ends, in microseconds."""
    found = app.get((), key)
    assert found is not None
    return found.record.lease_until or 0


def test_a_request_longer_than_its_lease_is_not_taken_over(app: App):
    """Its heartbeat renews the lease, so after two leases a retry is still told to come back later."""
    key = new_key()
    with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
        first = pool.submit(post, app.server.client, key)
        gate.begun()
        begun, deadline = lease_until(app, key), time.monotonic() + 10 * LEASE
        while lease_until(app, key) < begun + 2 * LEASE * MICROSECONDS:
            assert time.monotonic() < deadline, "the lease is not renewed"
            time.sleep(LEASE / 20)  # here time itself has to pass
        early = post(app.server.client, key)
        assert (early.status_code, problem(early)) == (409, "in-flight")
        gate.go()
        done = first.result(60)
    again = post(app.server.client, key)
    assert (done.status_code, again.status_code) == (201, 201)
    assert again.content == done.content
    found = app.get((), key)
    assert found is not None
    assert (app.runs, found.record.attempt) == (1, 1)


def test_a_client_that_leaves_does_not_stop_the_work(app: App):
    """The application would give up at once if it heard of it; the retry gets its answer."""
    key = new_key()
    with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
        first = pool.submit(post, app.server.client, key, timeout=0.5)
        gate.begun()
        with pytest.raises(httpx.ReadTimeout):
            first.result(60)
        assert problem(post(app.server.client, key)) == "in-flight"
        gate.go()
        stored = app.finished((), key)
    assert stored is not None
    again = post(app.server.client, key)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert stored.endswith(again.content)
    assert app.runs == 1


def test_a_client_that_leaves_half_way_through_the_response(app: App):
    """The rest of the stream is recorded all the same; the retry gets the whole."""
    key = new_key()

    def retry() -> httpx.Response:
        return app.server.client.post("/stream", headers={"Idempotency-Key": key}, json={})

    with app.world.hold() as gate:
        with app.leaving({"Idempotency-Key": key}, "/stream", {}) as connection:
            assert connection.getresponse().read(4) == b"part"
            gate.begun()
        assert problem(retry()) == "in-flight"  # by now the server has seen that the first one is gone
        gate.go()
        stored = app.finished((), key)
    again = retry()
    assert again.content == b"part" * 51_000 + b"end"
    assert stored is not None
    assert stored.endswith(again.content)
    assert (again.status_code, app.runs) == (201, 1)


@pytest.mark.parametrize("running", [ASGI], indirect=True, ids=["asgi"])  # WSGI has no word for it
def test_without_a_key_the_application_hears_that_its_client_has_left(app: App):
    """What the test before would see if nobody kept it from the application."""
    size = app.server.log.stat().st_size
    with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
        first = pool.submit(post, app.server.client, None, timeout=0.5)
        gate.begun()
        with pytest.raises(httpx.ReadTimeout):
            first.result(60)
        deadline = time.monotonic() + PATIENCE
        while "the work is given up" not in app.server.output(size):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_server_that_is_told_to_stop_ends_its_requests_first(app: App):
    """SIGTERM: the client has its answer, and the successor replays it."""
    key = new_key()
    with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
        first = pool.submit(post, app.server.client, key)
        gate.begun()
        app.server.terminate()
        gate.go()
        done = first.result(60)
    app.server.wait()
    app.server.restart()
    again = post(app.server.client, key)
    assert (done.status_code, again.status_code, again.content) == (201, 201, done.content)
    assert app.runs == 1


@pytest.mark.parametrize(
    "running", [("gunicorn --timeout 2", "e2e_slow_wsgi", "sqlite")], indirect=True, ids=["wsgi-timeout"]
)
def test_a_worker_that_gunicorn_stops_gives_its_key_back(app: App):
    """A request that takes longer than gunicorn's time-out: the retry need not wait until the lease is over."""
    key = new_key()
    with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
        assert pool.submit(post, app.server.client, key).result(60).status_code == 500  # gunicorn's own
        gate.go()
    found = app.get((), key)
    assert found is not None
    assert (found.state, found.record.attempt) == (State.FAILED, 1)
    assert (found.retry_in or 0) < 0
    app.server.renew()
    assert post(app.server.client, key).status_code == 201
    assert app.runs == 2


def test_an_owner_that_wakes_up_too_late_is_refused(app: App):
    """It is frozen past its lease, another server takes over; its own answer is 409, and the other's is what counts."""
    key = new_key()
    with app.second() as other, ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
        first = pool.submit(post, app.server.client, key)
        gate.begun()
        app.server.tell(signal.SIGSTOP)
        try:
            app.age((), key, 60)
            done = post(other.client, key)
        finally:
            app.server.tell(signal.SIGCONT)
        assert (done.status_code, app.runs) == (201, 2)
        gate.go()
        late = first.result(60)
        assert (late.status_code, problem(late)) == (409, "lease-lost")
        again = post(app.server.client, key)
    assert (again.status_code, again.content) == (201, done.content)
    assert app.runs == 2
