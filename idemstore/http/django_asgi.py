"""Django's async mode on the ASGI engine: the request becomes a scope, what it answers a response of Django.

The view runs in a task of its own, as the engine has it: where the client goes away Django cancels the request, and the
view goes on to its end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from io import BufferedReader, BytesIO
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse

from idemstore.http import asgi
from idemstore.http.asgi_types import AsgiApp, Message, Receive, Scope, Send
from idemstore.http.core import OPERATION
from idemstore.http.django_parts import OPERATION_KEY, REQUEST, VISIT, hand_on, header_pairs, made, pending, stream_of
from idemstore.http.views import POLICY, TEMPLATE
from idemstore.http.wsgi_types import CHUNK, Body

AHEAD: Final = 64
"""Parts of a streamed response that the view may be ahead of the server."""
UNREAD: Final = 30.0
"""Seconds after which a stream that nobody has begun to read counts as left: Django forgets it where it cannot send the
first part, without closing it.
"""


class Visit:
    """One request."""

    def __init__(self, request: HttpRequest) -> None:
        self.request, self._stream = request, stream_of(request)
        self._read = False
        self._front: list[bytes] = []
        self.response: HttpResponseBase | None = None
        self.own: Message | None = None
        """The start of the view's response;"""
        self.started: Message | None = None
        """and what the engine starts its answer with: the same message, or its own."""
        self.bodies: list[bytes] = []
        self.parts: asyncio.Queue[bytes | None] | None = None
        """Where the parts of a streamed response go."""
        self.streams, self.begun = asyncio.Event(), asyncio.Event()
        """Whether there is a stream, and whether somebody reads it."""
        self.gone = False

    async def receive(self) -> Message:
        """The body, which Django has read into a file; then nothing."""
        if self._read:
            await asyncio.Event().wait()
        data = self._stream.read(CHUNK)
        self._front.append(data)
        self._read = len(data) < CHUNK
        return {"type": "http.request", "body": data, "more_body": not self._read}

    def hand_on(self) -> None:
        """The view finds the body from its beginning. Where all of it was read the view gets that: Django closes its
        own file once the client is gone, and the view may go on.
        """
        if self._front:
            front = b"".join(self._front)
            whole = self._read
            hand_on(self.request, BytesIO(front) if whole else BufferedReader(Body(front, self._stream, None)))

    async def send(self, message: Message) -> None:
        """What the engine answers."""
        if self.gone:
            raise OSError("the client went away")
        if message["type"] == "http.response.start":
            self.started = message
            if message is self.own and isinstance(self.response, StreamingHttpResponse):
                self.parts = asyncio.Queue(AHEAD)
                self.streams.set()
        elif self.parts is not None:
            await self._part(self.parts, message.get("body", b""))
        else:
            self.bodies.append(message.get("body", b""))

    async def _part(self, parts: "asyncio.Queue[bytes | None]", part: bytes) -> None:
        """A part of a stream, once there is room for it."""
        if parts.full() and not self.begun.is_set():
            try:
                await asyncio.wait_for(self.begun.wait(), UNREAD)
            except TimeoutError as error:
                self.leave()
                raise OSError("nobody reads the response") from error
        await parts.put(part)

    def leave(self) -> None:
        """Nobody reads the stream any more."""
        self.gone = True
        self.begun.set()
        while self.parts is not None and not self.parts.empty():
            self.parts.get_nowait()


def inner(get_response: Callable[[HttpRequest], Any]) -> AsgiApp:
    """What the engine takes for the application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        visit: Visit = scope[VISIT]
        visit.hand_on()
        setattr(visit.request, OPERATION_KEY, scope.get(OPERATION))
        response: HttpResponseBase = await get_response(visit.request)
        render = pending(response)
        if render is not None:
            response = await sync_to_async(render)()
        visit.response = response
        pairs = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in header_pairs(response)]
        visit.own = {"type": "http.response.start", "status": response.status_code, "headers": pairs}
        await send(visit.own)
        if isinstance(response, StreamingHttpResponse):
            async for part in response:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        body = response.content if isinstance(response, HttpResponse) else b""
        await send({"type": "http.response.body", "body": body})

    return app


async def guarded(engine: asgi.IdempotencyMiddleware, request: HttpRequest, template: str) -> HttpResponseBase:
    """Let the engine answer a request."""
    visit = Visit(request)
    scope = scope_of(request, template, visit)
    scope[POLICY] = engine.policy
    task = asyncio.ensure_future(engine(scope, visit.receive, visit.send))
    streams = asyncio.ensure_future(visit.streams.wait())
    try:
        await asyncio.wait({task, streams}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        visit.leave()
        task.cancel()
        raise
    finally:
        streams.cancel()
    response = visit.response
    if isinstance(response, StreamingHttpResponse) and visit.parts is not None:
        response.streaming_content = stream(visit, visit.parts, task)
        return response
    await task
    if response is not None and visit.started is visit.own:
        return response
    if response is not None:
        response.close()
    started = visit.started or {"status": 500, "headers": ()}
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in started["headers"]]
    return made(started["status"], pairs, b"".join(visit.bodies))


def scope_of(request: HttpRequest, template: str, visit: Visit) -> Scope:
    """The scope of a request, whichever server it came from."""
    own: Scope = getattr(request, "scope", None) or {
        "type": "http",
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in request.headers.items()],
    }
    return {
        **own,
        "method": request.method,
        "path": request.path,
        "query_string": request.META.get("QUERY_STRING", "").encode("utf-8", "surrogatepass"),
        REQUEST: request,
        TEMPLATE: template,
        VISIT: visit,
    }


async def stream(
    visit: Visit, parts: "asyncio.Queue[bytes | None]", task: "asyncio.Future[None]"
) -> AsyncIterator[bytes]:
    """A streamed response on its way through the engine; what breaks it is raised here."""
    visit.begun.set()
    task.add_done_callback(lambda _: asyncio.ensure_future(parts.put(None)))
    try:
        while (part := await parts.get()) is not None:
            if part:
                yield part
        await task
    finally:
        visit.leave()
        if not task.done():
            task.cancel()
