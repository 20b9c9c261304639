"""An ASGI application for the tests of long requests: it gives up as soon as it hears that its client has left."""

import asyncio
import os

import idemstore
from idemstore.http import HttpPolicy, single_tenant
from idemstore.http.asgi import IdempotencyMiddleware


async def work() -> None:
    """The outside world."""


async def work_or_give_up(receive) -> None:
    """Work, unless the client leaves first."""
    while (await receive()).get("more_body"):
        pass
    leaving, working = asyncio.ensure_future(receive()), asyncio.ensure_future(work())
    await asyncio.wait({leaving, working}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        raise RuntimeError("the client has left, so the work is given up")
    leaving.cancel()
    working.result()


async def plain(scope, receive, send) -> None:
    """Answer."""
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["method"] == "POST":
        await work_or_give_up(receive)
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"done by %d" % os.getpid()})


store = idemstore.open_async(os.environ["IDEMSTORE_URL"])
app = IdempotencyMiddleware(plain, store, HttpPolicy(scope=single_tenant(), lease=1))
