"""What is the WSGI middleware's alone: ``write``, ``start_response`` called twice, the body, threads, forks."""

import io
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import idemstore
from idemstore import Claimed
from idemstore.errors import ConfigurationError, LeaseLostError
from idemstore.http import Fate, HttpPolicy, LargeRequest, Response, keep_everything
from idemstore.http.wsgi import IdempotencyMiddleware
from idemstore.http.wsgi_types import Environ, WsgiApp
from idemstore.machine import State
from idemstore.store import Store
from idemstore.testing.adapter_clients import WsgiServed
from idemstore.testing.adapter_desk import Got

POLICY = HttpPolicy(scope=lambda request: "ann")
KEY = POLICY.key("ann", "k")
HEADERS = (("idempotency-key", "k"),)


@pytest.fixture
def store() -> Iterator[Store]:
    """In memory."""
    with idemstore.open("memory://") as made:
        yield made


def post(app: WsgiApp, body: bytes = b"{}") -> Got:
    """A POST with a key."""
    return WsgiServed(app).request("POST", "/orders", HEADERS, body)


def environ(body: bytes = b"{}", **more: Any) -> Environ:
    """The environ of that POST."""
    return {**WsgiServed.environ("POST", "/orders", HEADERS, body), **more}


def state(store: Store) -> State | None:
    """What the store says of the key."""
    found = store.get(KEY)
    return None if found is None else found.record.state


def test_it_takes_a_sync_store_and_a_policy(store: Store):
    """Said when it is made, not at the first request."""
    with pytest.raises(ConfigurationError, match=r"idemstore.open\(url\)"):
        IdempotencyMiddleware(print, idemstore.open_async("memory://"), POLICY)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="HttpPolicy"):
        IdempotencyMiddleware(print, store, None)  # type: ignore[arg-type]


def test_the_record_is_completed_before_the_last_part_goes_out(store: Store):
    """With the part that fulfils the declared length, or else before the end."""
    for length in ([("Content-Length", "4")], []):

        def app(environ: Environ, start_response: Any, length: Any = length) -> Iterable[bytes]:
            start_response("200 OK", length)
            return iter([b"ab", b"cd"])

        found = IdempotencyMiddleware(app, store, POLICY)(environ(), lambda *_: lambda _: None)
        states = [(part, state(store)) for part in found]
        assert states[0] == (b"ab", State.IN_FLIGHT)
        assert states[1][1] is (State.COMPLETED if length else State.IN_FLIGHT)
        assert state(store) is State.COMPLETED
        store.forget(KEY)


def test_the_old_write_is_recorded_too(store: Store):
    """Parts that are written, and those that are returned after them."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"wr")
        write(b"itten")
        return [b" and returned"]

    wrapped = IdempotencyMiddleware(app, store, POLICY)
    assert [post(wrapped).body for _ in range(2)] == [b"written and returned"] * 2


def test_start_response_may_be_called_again_for_an_error(store: Store):
    """Before anything is sent it replaces what was said; after that it raises, as PEP 3333 has it."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        try:
            raise ValueError("broken")
        except ValueError as error:
            start_response("500 Sorry", [], (type(error), error, error.__traceback__))
        return [b"sorry"]

    policy = HttpPolicy(scope=lambda request: "ann", fate=keep_everything)
    wrapped = IdempotencyMiddleware(app, store, policy)
    assert [(post(wrapped).status, post(wrapped).body) for _ in range(2)] == [(500, b"sorry")] * 2

    def late(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"half"
        error = ValueError("broken")
        start_response("500 Sorry", [], (type(error), error, None))

    store.forget(KEY)
    assert not post(IdempotencyMiddleware(late, store, POLICY)).whole
    assert state(store) is None


def test_an_application_that_says_nothing_frees_the_key(store: Store):
    """No start_response: the server complains, and the retry runs."""
    assert post(IdempotencyMiddleware(lambda environ, start_response: [], store, POLICY)).status == 500
    assert state(store) is None


def test_a_worker_that_is_stopped_frees_the_key(store: Store):
    """SystemExit in the application, as servers raise when they stop a worker."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise SystemExit

    with pytest.raises(SystemExit):
        post(IdempotencyMiddleware(app, store, POLICY))
    claim = store.claim(KEY)
    assert isinstance(claim, Claimed)
    assert claim.attempt == 2


def test_close_is_called_once_and_after_the_record(store: Store):
    """As the application's own iterable expects."""
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"ok"])

        def close(self) -> None:
            closed.append(state(store))

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    assert post(IdempotencyMiddleware(app, store, POLICY)).body == b"ok"
    assert closed == [State.COMPLETED]


def test_a_client_that_leaves_an_infinite_response(store: Store):
    """What is larger than what is kept is not read to its end."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        while True:
            yield b"x" * 1000

    policy = HttpPolicy(scope=lambda request: "ann", max_response=5000)
    found = IdempotencyMiddleware(app, store, policy)(environ(), lambda *_: lambda _: None)
    assert next(iter(found))
    found.close()  # type: ignore[attr-defined]
    assert state(store) is State.COMPLETED


@pytest.mark.parametrize("chunked", [True, False])
def test_the_application_finds_the_whole_body(store: Store, chunked: bool):
    """Also where it is larger than what is compared, and where the server does not say how long it is."""
    seen = []

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        first = environ["wsgi.input"].read(3)
        seen.append(first + environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"ok"]

    policy = HttpPolicy(scope=lambda request: "ann", max_request=5, large_request=LargeRequest.PREFIX)
    for body in (b"", b"abc", b"abcde", b"abcdefgh" * 5000):
        given = environ(body)
        given["wsgi.input"] = io.BytesIO(body + (b"" if chunked else b"next request"))
        if chunked:
            del given["CONTENT_LENGTH"]
            given["wsgi.input_terminated"] = True
        list(IdempotencyMiddleware(app, store, policy)(given, lambda *_: lambda _: None))
        assert seen.pop() == body
        store.forget(KEY)


def test_half_a_request_binds_nothing(store: Store):
    """The client went away while it was sending: by a short read, or an error."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError

    for source in (io.BytesIO(b"{"), Broken()):
        given = environ(b"{}", **{"wsgi.input": source})
        statuses = []
        wrapped = IdempotencyMiddleware(lambda *_: [], store, POLICY)
        list(wrapped(given, lambda status, headers, statuses=statuses: statuses.append(status)))
        assert statuses == ["400 Bad Request"]
        assert state(store) is None


def test_paths_are_text(store: Store):
    """Whatever bytes they hold; two of them are never taken for one."""
    seen = []
    policy = HttpPolicy(scope=lambda request: seen.append(request.path) or "ann")
    wrapped = IdempotencyMiddleware(lambda *_: [], store, policy)
    for raw in (b"/caf\xc3\xa9", b"/caf\xe9", b"/caf\xff"):
        list(wrapped(environ(PATH_INFO=raw.decode("latin-1")), lambda *_: lambda _: None))
    assert seen == ["/café", "/caf\\xe9", "/caf\\xff"]


def test_a_request_longer_than_its_lease_is_not_taken_over(store: Store):
    """The heartbeat renews it; whoever waits gets its response."""
    running, lost = threading.Event(), []

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        running.set()
        threading.Event().wait(3.5)
        lost.append(environ["idemstore.operation"].lease_lost or idemstore.operation().lease_lost)
        start_response("200 OK", [])
        return [b"slow"]

    policy = HttpPolicy(scope=lambda request: "ann", lease=3, wait=30)
    wrapped = IdempotencyMiddleware(app, store, policy)
    got = []
    first = threading.Thread(target=lambda: got.append(post(wrapped)))
    first.start()
    assert running.wait(20)
    got.append(post(wrapped))
    first.join(20)
    assert [one.body for one in got] == [b"slow", b"slow"]
    assert lost == [False]


def test_a_stream_that_lost_its_lease_is_cut_off(store: Store):
    """Its client must not take it for whole."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "8")])
        yield b"half"
        store.forget(KEY)
        yield b"rest"

    found = iter(IdempotencyMiddleware(app, store, POLICY)(environ(), lambda *_: lambda _: None))
    assert next(found) == b"half"
    with pytest.raises(LeaseLostError):
        next(found)


def test_an_async_rewrite_is_refused(store: Store):
    """There is no event loop here."""

    async def today(stored: Response, request: object) -> Response:
        return stored

    policy = HttpPolicy(scope=lambda request: "ann", rewrite=today)
    with pytest.raises(ConfigurationError, match="async"):
        IdempotencyMiddleware(print, store, policy)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [[], [("Content-Length", "2")]])
@pytest.mark.parametrize("left", [False, True])
def test_a_response_that_cannot_be_recorded_is_a_failure(store: Store, length: list[tuple[str, str]], left: bool):
    """The server is told of the error; the key does not stay in flight until its lease is over. As under ASGI."""

    def fate(status: int) -> Fate:
        if status < 300:
            raise ValueError("no such status")
        return keep_everything(status)

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", length)
        return [b"ok"]

    wrapped = IdempotencyMiddleware(app, store, HttpPolicy(scope=lambda request: "ann", fate=fate))
    found: Any = wrapped(environ(), lambda *_: lambda _: None)
    if not left:
        with pytest.raises(ValueError, match="no such status"):
            list(found)
        found.close()
    else:
        with pytest.raises(ValueError, match="no such status"):
            found.close()
    assert state(store) is State.FAILED


def test_a_claim_lost_by_an_application_that_writes_is_told_whole(store: Store):
    """By the old ``write``, and as long as the answer says it is."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", "2")])
        store.forget(KEY)
        write(b"ok")
        return []

    sent: list[bytes] = []
    said: dict[str, str] = {}

    def begin(status: str, headers: list[tuple[str, str]]) -> Any:
        said.update(headers, status=status)
        return sent.append

    sent += IdempotencyMiddleware(app, store, POLICY)(environ(), begin)
    assert said["status"].startswith("409")
    assert b"lease-lost" in b"".join(sent)
    assert len(b"".join(sent)) == int(said["Content-Length"])


def test_a_middleware_that_stands_twice_says_so(store: Store, caplog: pytest.LogCaptureFixture):
    """Each request would find itself in flight, and to try again would never help."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise AssertionError("it is not reached")

    once = IdempotencyMiddleware(app, store, POLICY)
    assert post(IdempotencyMiddleware(once, store, POLICY)).problem == "misconfigured"
    assert "add it once" in caplog.text
    assert state(store) is None


def test_a_worker_that_is_stopped_leaves_the_key_to_an_operator(store: Store, caplog: pytest.LogCaptureFixture):
    """Where nothing may run twice by itself: the operator hears of it, as under ASGI."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise SystemExit

    policy = HttpPolicy(scope=lambda request: "ann", takeover=False)
    with pytest.raises(SystemExit):
        post(IdempotencyMiddleware(app, store, policy))
    assert state(store) is State.IN_FLIGHT
    assert "half-way: settle it" in caplog.text


def test_a_part_that_is_none_is_no_end(store: Store):
    """It is an error of the application: half a response is not recorded as all of it."""

    def app(environ: Environ, start_response: Any) -> Iterable[Any]:
        start_response("200 OK", [])
        return [b"half", None, b"rest"]

    found: Any = IdempotencyMiddleware(app, store, POLICY)(environ(), lambda *_: lambda _: None)
    with pytest.raises(TypeError):
        list(found)
    found.close()
    assert state(store) is None
