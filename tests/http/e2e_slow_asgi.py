"""An ASGI application for the tests of long requests: it gives up as soon as it hears that its client has left."""

import asyncio
import os

import idemstore
from idemstore.http import HttpPolicy, single_tenant
from idemstore.http.asgi import IdempotencyMiddleware

PART = b"part" * 1000


async def work() -> None:
    """The outside world."""


async def unless_left(receive, job) -> None:
    """Do it, unless the client leaves first, as Starlette does with streams."""
    while (await receive()).get("more_body"):
        pass
    leaving, working = asyncio.ensure_future(receive()), asyncio.ensure_future(job)
    await asyncio.wait({leaving, working}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        working.cancel()
        raise RuntimeError("the client has left, so the work is given up")
    leaving.cancel()
    working.result()


async def stream(send) -> None:
    """A first part, work, fifty others."""
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": PART, "more_body": True})
    await work()
    for _ in range(50):
        await send({"type": "http.response.body", "body": PART, "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})


async def plain(scope, receive, send) -> None:
    """Answer."""
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/stream":
        return await unless_left(receive, stream(send))
    if scope["method"] == "POST":
        await unless_left(receive, work())
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"done by %d" % os.getpid()})
    return None


store = idemstore.open_async(os.environ["IDEMSTORE_URL"])
app = IdempotencyMiddleware(plain, store, HttpPolicy(scope=single_tenant(), lease=3))
