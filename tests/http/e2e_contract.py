"""What every example shows end to end. A module per column of the table of real APIs in ``docs/http.md`` subclasses
``EndToEnd``; a row of the table is a test of that name (``test_e2e_table.py`` sees to it that none is missing).
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import ClassVar

import httpx
import pytest
from e2e_support import LEASE, App, at_once, new_key, status

from idemstore.exchange import Snapshot
from idemstore.machine import State
from idemstore.testing.families import names

PARALLEL = 20
TOKENS = {"ann": "Bearer key-of-ann", "bob": "Bearer key-of-bob"}
KINDS = {"uvicorn": ("uvicorn", "fastapi"), "gunicorn": ("gunicorn", "flask")}


class EndToEnd:
    """The behaviours that all examples share; what differs is said by attributes."""

    kind: ClassVar[str]
    """uvicorn or gunicorn."""
    family: ClassVar[str]
    """The store."""
    example: ClassVar[str]
    outside: ClassVar[str]
    """The functions of the example that reach the outside world."""
    env: ClassVar[Mapping[str, str]] = {}
    header: ClassVar[str] = "Idempotency-Key"
    path: ClassVar[str]
    body: ClassVar[dict[str, object]]
    other: ClassVar[dict[str, object]]
    """Another payload."""
    created: ClassVar[int] = 201
    people: ClassVar[Mapping[str, str]] = {"ann": "ann", "bob": "bob"}
    """What the scope says of who asks."""
    kept: ClassVar[float | None]
    """Seconds that a success is kept."""
    good: ClassVar[tuple[str, ...]]
    """Keys; ``{}`` is what makes them unique."""
    absent: ClassVar[tuple[str, ...]] = ("", "  ", "\t")
    bad: ClassVar[tuple[str, ...]] = ()

    # -- to be said by a preset --------------------------------------------------------------------------------------

    def scope(self, user: str = "ann", method: str = "POST", path: str | None = None) -> tuple[str, ...]:
        """The scope in the store's key."""
        raise NotImplementedError

    def on_the_wire(self, key: str) -> str:
        """A key as it stands in the header."""
        return key

    def assert_replay(self, first: httpx.Response, again: httpx.Response) -> None:
        """``again`` is the replay of ``first``."""
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["content-type"] == first.headers["content-type"]

    def problem(self, response: httpx.Response) -> str:
        """What kind of problem is said."""
        assert response.headers["content-type"] == "application/problem+json"
        return str(response.json()["type"]).rpartition("/")[2]

    # -- fixtures ----------------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls, make_subject) -> Iterator[App]:
        """The example, for all tests of the class."""
        if cls.family not in names():
            pytest.skip(f"{cls.family} is not among IDEMSTORE_SUBJECTS")
        for package in KINDS[cls.kind]:
            if find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        app = App(cls.kind, cls.example, cls.outside, make_subject(cls.family), **cls.env)
        yield app
        app.close()

    @pytest.fixture
    def app(self, running: App) -> Iterator[App]:
        """The same, with nothing counted yet; a failing test shows what the server said meanwhile."""
        running.world.start_over()
        said = running.server.log.stat().st_size
        yield running
        print(running.server.output(said))  # noqa: T201 - pytest captures it

    # -- the client --------------------------------------------------------------------------------------------------

    def headers(self, key: str | None, user: str | None = "ann") -> dict[str, str]:
        """Credentials and key."""
        found = {} if user is None else {"Authorization": TOKENS.get(user, user)}
        return found if key is None else {**found, self.header: self.on_the_wire(key)}

    def post(
        self,
        app: App,
        key: str | None,
        body: object = None,
        *,
        user: str | None = "ann",
        path: str | None = None,
        method: str = "POST",
    ) -> httpx.Response:
        """One request."""
        payload = self.body if body is None else body
        return app.send(method, path or self.path, self.headers(key, user), payload)

    def record(self, app: App, key: str, path: str | None = None, method: str = "POST") -> Snapshot | None:
        """The record of Ann's key."""
        return app.get(self.scope("ann", method, path), key)

    def assert_once(self, app: App, key: str, body: object = None, *, path: str | None = None, method: str = "POST"):
        """Two requests: one runs, the other gets its response."""
        before = app.runs
        first, again = (self.post(app, key, body, path=path, method=method) for _ in range(2))
        assert first.is_success, first.text
        assert app.runs == before + 1
        self.assert_replay(first, again)

    def assert_each(self, app: App, *keys: str | None, body: object = None, path: str | None = None, **how: str):
        """Each of these requests runs."""
        for key in keys:
            before = app.runs
            answer = self.post(app, key, body, path=path, **how)
            assert answer.is_success, answer.text
            assert app.runs == before + 1, key

    # -- rows of the table -------------------------------------------------------------------------------------------

    def test_header(self, app: App):
        """Its name in any case is the same header."""
        key = new_key()
        answers = [
            app.send("POST", self.path, {**self.headers(None), name: self.on_the_wire(key)}, self.body)
            for name in (self.header, self.header.lower(), self.header.upper())
        ]
        assert app.runs == 1
        for again in answers[1:]:
            self.assert_replay(answers[0], again)

    def test_key(self, app: App):
        """What is a key, what counts as none, what is refused."""
        unique = new_key()
        for key in self.good:
            before = app.runs
            sent = [key.format(unique), f"  {key.format(unique)} "]
            first, again = [app.raw(self.headers(one), self.path, self.body) for one in sent]
            assert (first.status_code, app.runs) == (self.created, before + 1), key
            self.assert_replay(first, again)
        runs, plain = app.runs, self.headers(None)
        for key in self.bad:
            answer = app.raw({**plain, self.header: key}, self.path, self.body)
            assert (answer.status_code, self.problem(answer)) == (400, "invalid-key"), key
        assert app.runs == runs
        for key in self.absent:
            for _ in range(2):
                assert app.raw({**plain, self.header: key}, self.path, self.body).status_code == self.created, key
        assert app.runs == runs + 2 * len(self.absent)

    def test_same_again(self, app: App):
        """Retries in sequence: one execution, and its response each time."""
        key = new_key()
        first, *retries = [self.post(app, key) for _ in range(4)]
        assert first.status_code == self.created
        for again in retries:
            self.assert_replay(first, again)
        assert app.runs == 1
        found = self.record(app, key)
        assert found is not None
        assert (found.state, found.record.attempt) == (State.COMPLETED, 1)

    def test_in_flight(self, app: App):
        """While one runs nineteen others get 409 and do nothing; afterwards they get its response."""
        key = new_key()
        with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
            first = pool.submit(self.post, app, key)
            gate.begun()
            answers = at_once(PARALLEL - 1, lambda: self.post(app, key))
            assert {(one.status_code, self.problem(one)) for one in answers} == {(409, "in-flight")}
            assert {one.headers["retry-after"] for one in answers} == {"1"}
            assert app.runs == 1
            gate.go()
            done = first.result(60)
        assert done.status_code == self.created
        self.assert_replay(done, self.post(app, key))
        assert app.runs == 1

    def test_kept_for(self, app: App):
        """As long as is promised, counted from the completion; then the key is free."""
        key, kept = new_key(), self.kept
        assert kept is not None
        first = self.post(app, key)
        found = self.record(app, key)
        assert found is not None
        assert kept - 30 < (found.expires_in or 0) <= kept
        app.age(self.scope(), key, kept - 60)
        self.assert_replay(first, self.post(app, key))
        assert app.runs == 1
        app.age(self.scope(), key, 61)
        self.assert_each(app, key)

    def test_no_key(self, app: App):
        """It runs unprotected."""
        self.assert_each(app, None, None)

    def test_store_down(self, app: App):
        """Nothing is run unprotected: 503; once the store is back, the key is as free as it was."""
        key = new_key()
        with app.without_store():
            answer = self.post(app, key)
        assert (answer.status_code, self.problem(answer)) == (503, "store-unavailable")
        assert answer.headers["retry-after"] == "1"
        assert app.runs == 0
        self.assert_once(app, key)

    def test_no_credentials(self, app: App):
        """Refused before the key is looked at: nothing is bound, and no word of a key that is none."""
        key = new_key()
        for user in (None, "Bearer wrong"):
            for sent in (key, "k" * 300, "null"):
                assert self.post(app, sent, user=user).status_code == 401
        assert app.runs == 0
        assert self.record(app, key) is None
        first = self.post(app, key)
        assert first.status_code == self.created
        assert self.post(app, key, user="Bearer wrong").status_code == 401  # not even the replay
        assert app.runs == 1

    # -- beyond the table --------------------------------------------------------------------------------------------

    def test_twenty_retries_at_once(self, app: App):
        """Exactly one execution; the others get its response, at once or with their next retry."""
        key = new_key()
        answers = at_once(PARALLEL, lambda: self.post(app, key))
        assert app.runs == 1
        busy = [one for one in answers if one.status_code == 409]
        assert {self.problem(one) for one in busy} <= {"in-flight"}
        whole = [one for one in answers if one.status_code == self.created]
        assert len(whole) + len(busy) == PARALLEL
        again = self.post(app, key)
        for one in whole:
            self.assert_replay(one, again)
        assert app.runs == 1

    def test_server_killed_mid_request(self, app: App):
        """SIGKILL while the handler runs. The successor leaves the key alone until the lease is over; then it runs."""
        key = new_key()
        with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
            first = pool.submit(self.post, app, key)
            gate.begun()
            app.server.kill()
            with pytest.raises(httpx.TransportError):
                first.result(60)
        app.server.restart()
        early = self.post(app, key)
        assert (early.status_code, self.problem(early)) == (409, "in-flight")
        assert app.runs == 1
        app.age(self.scope(), key, LEASE + 1)
        done = self.post(app, key)
        assert done.status_code == self.created
        found = self.record(app, key)
        assert found is not None
        assert (app.runs, found.state, found.record.attempt) == (2, State.COMPLETED, 2)
        self.assert_replay(done, self.post(app, key))
        assert app.runs == 2

    def test_a_client_that_leaves_loses_nothing(self, app: App):
        """It hangs up while the handler runs; the retry gets what the handler answered."""
        key = new_key()
        with app.world.hold() as gate:
            with app.leaving(self.headers(key), self.path, self.body):
                gate.begun()
            gate.go()
            found = app.finished(self.scope(), key)
        assert found is not None
        self.assert_stored(found, self.post(app, key))
        assert app.runs == 1

    def assert_worker_killed(self, app: App) -> None:
        """SIGKILL to the one gunicorn worker that runs a request; gunicorn itself lives on."""
        key = new_key()
        with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
            first = pool.submit(self.post, app, key)
            gate.begun()
            app.server.kill_worker(gate.pid)
            with pytest.raises(httpx.TransportError):
                first.result(60)
        early = self.post(app, key)
        assert (early.status_code, self.problem(early)) == (409, "in-flight")
        app.age(self.scope(), key, LEASE + 1)
        done = self.post(app, key)
        assert (done.status_code, app.runs) == (self.created, 2)
        assert app.world.calls[0].pid != app.world.calls[1].pid
        self.assert_replay(done, self.post(app, key))

    def assert_stored(self, stored: bytes, again: httpx.Response) -> None:
        """``again`` is the replay of what is stored."""
        assert again.status_code == self.created
        assert stored.endswith(again.content)

    def assert_freed(self, app: App, code: int) -> None:
        """A failure of this status leaves the key free: the retry runs."""
        key = new_key()
        app.world.order(status(code))
        assert self.post(app, key).status_code == code
        assert self.record(app, key) is None
        runs = app.runs
        self.assert_once(app, key)
        assert app.runs == runs + 1

    def assert_failure_kept(self, app: App, code: int, kept: float) -> None:
        """A failure of this status is replayed for so long."""
        key, runs = new_key(), app.runs
        app.world.order(status(code))
        first = self.post(app, key)
        assert first.status_code == code
        self.assert_replay(first, self.post(app, key))
        assert app.runs == runs + 1
        found = self.record(app, key)
        assert found is not None
        assert found.state is State.FAILED
        assert kept - 30 < (found.expires_in or 0) <= kept
