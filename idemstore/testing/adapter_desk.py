"""What an adapter under test serves and how it is asked: the ``Desk`` behind the application, and ``Served``.

A desk answers as the test orders, and counts. It is sync and may block: an async application asks it in a thread.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from idemstore.http.facts import Headers
from idemstore.testing.faults import Stop


@dataclass(frozen=True, slots=True)
class Reply:
    """What the application answers: its body in parts, more than one where it streams. ``error``: it raises instead,
    or, where there are parts, once they are sent.
    """

    status: int = 201
    headers: Headers = (("content-type", "text/plain"),)
    parts: Sequence[bytes] = ()
    declared: bool = True
    """Whether it declares its length."""
    error: Exception | None = None
    stop: Stop | None = None
    """Where it stands still before it answers."""

    @property
    def all_headers(self) -> Headers:
        """The headers, with the length where it is declared."""
        length = (("content-length", str(sum(map(len, self.parts)))),) if self.declared else ()
        return (*self.headers, *length)


@dataclass(frozen=True, slots=True)
class Got:
    """What a client got. ``whole``: the response came to its end."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    whole: bool = True

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next((value for found, value in self.headers if found == name.lower()), None)

    @property
    def problem(self) -> str | None:
        """The last part of a problem's type, or None where it is no problem document."""
        if self.header("content-type") != "application/problem+json":
            return None
        return str(json.loads(self.body)["type"]).rpartition("/")[2]


class Desk:
    """Behind the application: every request that reaches it is answered as ordered, else with its number."""

    def __init__(self) -> None:
        self.runs = 0
        self.bodies: list[bytes] = []
        self._orders: deque[Reply] = deque()
        self._lock = threading.Lock()

    def order(self, reply: Reply) -> None:
        """Answer the next request that is not spoken for like this."""
        self._orders.append(reply)

    def stop(self, reply: Reply | None = None) -> Stop:
        """Let the next request stand in the application until told to go on."""
        stop, base = Stop(), reply or Reply(parts=[b"stopped"])
        self.order(Reply(base.status, base.headers, base.parts, base.declared, base.error, stop))
        return stop

    def answer(self, body: bytes) -> Reply:
        """Called by the application for each request that reaches it. Raises where that was ordered."""
        with self._lock:
            self.runs += 1
            self.bodies.append(body)
            reply = self._orders.popleft() if self._orders else Reply(parts=[b"run %d" % self.runs])
        if reply.stop is not None:
            reply.stop.stand()
        if reply.error is not None and not reply.parts:
            raise reply.error
        return reply

    def parts(self, reply: Reply) -> Iterator[bytes]:
        """The body, part by part; raises at its end where that was ordered."""
        yield from reply.parts
        if reply.error is not None:
            raise reply.error

    def release(self) -> None:
        """Let everything that stands go on, whatever order."""
        for reply in self._orders:
            if reply.stop is not None:
                reply.stop.go()


class Served(Protocol):
    """An application behind an adapter, and a client of it. Calls may come from many threads at once."""

    def request(self, method: str, path: str, headers: Headers, body: bytes = b"") -> Got:
        """Send a request and read its response. An error of the application gives status 500, as servers do."""
        ...

    def leave(self, method: str, path: str, headers: Headers, body: bytes, reached: Callable[[], object]) -> None:
        """Send a request, and go away once ``reached`` has returned. Returns when the application has come to its end.
        Raises ``NotImplementedError`` where the adapter cannot be made to.
        """
        ...

    def close(self) -> None:
        """Stop serving."""
        ...
