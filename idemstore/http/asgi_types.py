"""ASGI's own names, as Starlette and others write them; and the few steps that every message takes."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from idemstore.http.facts import Headers, Request, Response, new_request, read_length, values

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODILESS: Final = frozenset({204, 304})
"""Statuses whose responses have no body, so no length either."""
UNSEEN: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers"})
"""Ways to answer that would go past the record: applications that are not offered them send the body itself."""


def read_request(scope: Scope) -> Request:
    """The facts of a scope; its header names are in lower case (ASGI says so)."""
    headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
    query = scope.get("query_string", b"").decode("latin-1")
    return new_request((scope["method"], scope["path"], headers, query, None, b"", False, scope))


def response_headers(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a response; applications may write their names in any case."""
    return tuple([(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in pairs])


def declared_length(headers: Headers) -> int | None:
    """The length that a response says it has."""
    declared = values(headers, "content-length")
    return read_length(declared[-1]) if declared else None


async def send_response(send: Send, response: Response, method: str) -> None:
    """A whole response, its length counted."""
    body = response.body or b""
    headers = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in response.headers
    ]
    if response.status not in BODILESS:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


class Incoming:
    """The request body: what was read for the fingerprint, then what the server still has."""

    __slots__ = ("_receive", "_waiting", "body", "cut", "ended", "truncated")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: Message | None = None
        self.body = b""
        """What was read, at most the limit."""
        self.truncated = False
        """Whether it was more than the limit."""
        self.ended = False
        """Whether the application has been given the end of it."""
        self.cut = False
        """Whether the client went away before that."""

    async def read(self, limit: int) -> bool:
        """Read the body up to the limit; False where the client went away before its end."""
        message = await self._receive()
        body = message.get("body", b"")
        if message["type"] == "http.disconnect":
            return False
        if message.get("more_body", False) and len(body) <= limit:
            message = await self._whole(body, limit)
            body = message["body"]
        self.truncated = len(body) > limit
        self.body = body[:limit] if self.truncated else body
        self._waiting = message
        return bool(message["type"] != "http.disconnect")

    async def _whole(self, first: bytes, limit: int) -> Message:
        """The parts in one message, up to the limit; or that the client went away before the end of them."""
        parts, size, more = [first], len(first), True
        while more and size <= limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return {"type": "http.disconnect", "body": b""}
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            more = message.get("more_body", False)
        return {"type": "http.request", "body": b"".join(parts), "more_body": more}

    def waiting(self) -> Message | None:
        """What was read for the fingerprint, once."""
        message, self._waiting = self._waiting, None
        if message is not None:
            self.ended = not message.get("more_body", False)
        return message

    async def receive(self) -> Message:
        """The next message of the body."""
        message = self.waiting()
        if message is not None:
            return message
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.cut = True
        elif not message.get("more_body", False):
            self.ended = True
        return message

    async def after(self) -> Message:
        """What the server says once the body is over: that the client went away."""
        return await self._receive()
