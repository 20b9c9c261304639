"""What the tests of the ASGI middleware share: one caller with one key, and requests at a chosen turn of the loop."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from idemstore.async_store import AsyncStore
from idemstore.http import HttpPolicy
from idemstore.http.asgi import IdempotencyMiddleware
from idemstore.http.asgi_types import Scope
from idemstore.machine import State
from idemstore.testing.adapter_clients import Visit

POLICY = HttpPolicy(scope=lambda request: "ann")
KEY = POLICY.key("ann", "k")


async def state(store: AsyncStore) -> State | None:
    """What the store says of the key."""
    found = await store.get(KEY)
    return None if found is None else found.record.state


async def until(true: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def at_turn(
    wrapped: IdempotencyMiddleware, connection: Scope, visit: Visit, turns: int
) -> "asyncio.Future[None]":
    """The server's task of a request, after so many turns of the loop."""
    task = asyncio.ensure_future(wrapped(connection, visit.receive, visit.send))
    for _ in range(turns):
        await asyncio.sleep(0)
    return task


async def ended(wrapped: IdempotencyMiddleware, task: "asyncio.Future[None]") -> BaseException | None:
    """What the server is told, soon; and when that is done, so is the application."""
    (told,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 1)
    await until(lambda: not wrapped.tasks)
    return told


@contextlib.contextmanager
def loop_of_its_own(loop: asyncio.AbstractEventLoop | None = None) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that may be stopped half-way: what it leaves behind is cancelled, and ends, before it is closed."""
    loop = loop or asyncio.new_event_loop()
    try:
        yield loop
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with contextlib.suppress(BaseException):
                loop.run_until_complete(task)
        loop.close()
