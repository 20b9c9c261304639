"""One request whose application runs: what it has answered so far, and what the server has been given."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, Self

from idemstore.errors import IdemstoreError
from idemstore.http.choices import Fate
from idemstore.http.core import OPERATION, Ask, HttpCore, log
from idemstore.http.facts import Headers, read_length
from idemstore.http.policy import HttpPolicy
from idemstore.http.wsgi_types import Environ, ExcInfo, StartResponse, WsgiApp, send_response
from idemstore.insist import insist
from idemstore.keepalive import Keepalive
from idemstore.keys import redact
from idemstore.outcomes import Claimed, LeaseLost, SettleOutcome
from idemstore.running import Operation, current
from idemstore.store import Store


class Home(Protocol):
    """What a running request needs of its middleware."""

    core: HttpCore
    store: Store
    policy: HttpPolicy
    heartbeat: Keepalive


class Running:
    """The application's ``start_response`` and ``write``, and the iterable that the server gets.

    Nothing goes to the server before the first part of the body is there; the part that fulfils the declared length,
    or the end of the iteration, waits for the record.
    """

    def __init__(self, home: Home, ask: Ask, claimed: Claimed, start_response: StartResponse) -> None:
        self._home, self._ask, self._start_response = home, ask, start_response
        self.operation = Operation(home.core.home, home.store, ask.guarded.key, ask.stored, claimed)
        self.operation.live = True
        self._line, self._pairs = "", list[tuple[str, str]]()
        self._status = 0
        self._headers: Headers = ()
        self._declared: int | None = None
        self._parts: list[bytes] | None = []
        self._size = 0
        self._begun = self._started = self._settled = self._muted = False
        self._write: Callable[[bytes], object] | None = None
        self._found: Iterable[bytes] = ()
        self._left: Iterator[bytes] = iter(())
        if self.operation.beat is not None:
            home.heartbeat.add(self.operation.beat)

    def run(self, app: WsgiApp, environ: Environ) -> Iterable[bytes]:
        """Call the application, and look at the first part of what it answers."""
        environ[OPERATION] = self.operation
        with Inside(self):
            self._found = app(environ, self._begin)
            self._left = iter(self._found)
        return self

    # -- the response ------------------------------------------------------------------------------------------------

    def _begin(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """``start_response``: held back until there is a part of the body."""
        if exc_info is not None and self._started:
            raise exc_info[1] if exc_info[1] is not None else RuntimeError("the response has begun")
        if self._begun and exc_info is None:
            raise AssertionError("start_response was called twice without exc_info")
        self._begun, self._line, self._pairs = True, status, headers
        self._status = int(status[:3])
        self._headers = tuple([(name.lower(), value) for name, value in headers])
        self._declared = None
        for name, value in self._headers:
            if name == "content-length":
                self._declared = read_length(value)
        return self._written

    def _written(self, data: bytes) -> None:
        """The old ``write``: straight to the server, once the record allows it."""
        for part in self._take(data):
            if self._write is not None:
                self._write(part)

    def __iter__(self) -> Self:
        """The server asks for parts."""
        return self

    def __next__(self) -> bytes:
        """The next part for the server."""
        while not self._muted:
            with Inside(self):
                part = self._next()
                if part is None:
                    return self._end()
            for taken in self._take(part):
                return taken
        raise StopIteration

    def _next(self) -> bytes | None:
        """The application's next part; None at the end, which a part that is None is not."""
        found: Iterator[bytes | None] = self._left
        try:
            part = next(found)
        except StopIteration:
            return None
        if part is None:
            raise TypeError("the application gave None as a part of its response")
        return part

    def _take(self, part: bytes) -> Sequence[bytes]:
        """Note a part; what the server gets for it: nothing, the part, or the answer to a lost claim."""
        if not part or self._muted:
            return ()
        self._size += len(part)
        if self._size > self._home.core.keeps:
            self._parts = None
        elif self._parts is not None:
            self._parts.append(part)
        if self._declared is not None and self._size >= self._declared and not self._settled and not self._settle():
            return self._lose()
        self._start()
        return (part,)

    def _end(self) -> bytes:
        """The application has nothing more; raises StopIteration once that is recorded."""
        if not self._settled and not self._settle():
            for part in self._lose():
                return part
        self._start()
        raise StopIteration

    def _start(self) -> None:
        """Give the server status and headers."""
        if self._begun and not self._started and not self._muted:
            self._started = True
            self._write = self._start_response(self._line, self._pairs)

    def close(self) -> None:
        """The server is done. Where that is because its client went away, the rest is still recorded; but for a
        response that is too large to be kept anyway.
        """
        try:
            while not self._settled and self._parts is not None:
                with Inside(self):
                    part = self._next()
                if part is None:
                    break
                self._size += len(part)
                self._parts.append(part)
                if self._size > self._home.core.keeps:
                    self._parts = None
            if not self._settled:
                self._settle()
        finally:
            self._quiet()
            close = getattr(self._found, "close", None)
            if close is not None:
                close()

    # -- the record --------------------------------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Tell the store what was answered; False where somebody else owns the key."""
        if not self._begun:
            return self.failed()
        try:
            return self._tell(self._status, self._headers, self._parts)
        except Exception:
            if not self._settled:  # the policy raised: the request counts as failed, as under ASGI
                self.failed()
            raise

    def failed(self) -> bool:
        """The application raised, or ended without an answer: that counts as 500."""
        failure = self._home.policy.failure()
        return self._tell(failure.status, failure.headers, [failure.body or b""])

    def _tell(self, status: int, headers: Headers, parts: Sequence[bytes] | None) -> bool:
        """Complete, fail or release."""
        home, ask, beat = self._home, self._ask, self.operation.beat
        store, key, token = home.store, ask.stored, ask.token
        fate, data, kept = home.policy.settle(status, headers, parts, ask.guarded, home.core.limit)
        self._settled = True  # not before: where the policy raises, nothing has been told
        self._parts = None
        self._quiet()

        def tell() -> SettleOutcome:
            match fate:
                case Fate.COMPLETE:
                    return store.complete(key, token, data, retention=kept)
                case Fate.FAIL:
                    return store.fail(key, token, data, retention=kept)
                case Fate.RELEASE:
                    return store.release(key, token)

        now = time.monotonic()
        try:
            answer = insist(tell, min(now + home.core.patience, now if beat is None else beat.until))
        except IdemstoreError as error:
            home.core.unrecorded(ask, error)
            return True
        if isinstance(answer, LeaseLost) and fate is not Fate.RELEASE:
            home.core.lost(ask)
            return False
        return True

    def _lose(self) -> Sequence[bytes]:
        """Somebody else owns the key: its answer counts, so this one must not look like a success."""
        self._muted = True
        if self._started:
            raise self._home.core.cut_off()
        request = self._ask.guarded.request
        self._started = True
        return send_response(self._answer, self._home.policy.lost(request), request.method)

    def _answer(self, line: str, pairs: list[tuple[str, str]]) -> Callable[[bytes], object]:
        """``start_response`` of an answer that is not the application's; by the old ``write``, too."""
        self._write = self._start_response(line, pairs)
        return self._write

    def interrupted(self) -> None:
        """A worker that is stopped: the next request with the key runs at once."""
        self._settled = True
        if not self._home.policy.takeover:
            return log.warning("%s was interrupted half-way: settle it", redact(self._ask.stored))
        try:
            kept = self._home.policy.failure_retention
            self._home.store.fail(self._ask.guarded.key, self._ask.token, b"", retention=kept, retry_after=0)
        except IdemstoreError as error:
            log.warning("interrupted %s could not be given back: %s", redact(self._ask.stored), error)

    def raised(self, error: BaseException) -> None:
        """What the application raised goes on to the server; the record says that it failed."""
        if not self._settled:
            if isinstance(error, Exception):
                self.failed()
            else:
                self.interrupted()
        self._quiet()

    def _quiet(self) -> None:
        """The operation has ended: no heartbeat, no checkpoints."""
        self.operation.live = False
        if self.operation.beat is not None:
            self._home.heartbeat.drop(self.operation.beat)


class Inside:
    """While the application's code runs: its operation is the current one, and what it raises is recorded."""

    __slots__ = ("_outer", "_running")

    def __init__(self, running: Running) -> None:
        self._running = running

    def __enter__(self) -> None:
        """Enter."""
        self._outer = current.set(self._running.operation)

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        """Leave."""
        current.reset(self._outer)
        if error is not None and not isinstance(error, StopIteration):
            self._running.raised(error)
