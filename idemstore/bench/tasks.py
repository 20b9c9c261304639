"""Callers as tasks: the async mode."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from idemstore.bench.bare import Caller
from idemstore.bench.job import clock
from idemstore.bench.threads import LIMIT
from idemstore.bench.waiting import PATIENCE


class TaskMeeting:
    """A meeting point of tasks."""

    def __init__(self, parties: int) -> None:
        self._barrier = asyncio.Barrier(parties)

    async def meet(self) -> None:
        """Wait for the others."""
        async with asyncio.timeout(PATIENCE):
            await self._barrier.wait()

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


async def drive(caller: Caller, failures: tuple[type[Exception], ...]) -> None:
    """Run a caller to its end: await what it yields; its own failures are for it to handle."""
    try:
        awaitable = next(caller)
        while True:
            try:
                answer = await cast("Awaitable[object]", awaitable)
            except failures as error:
                awaitable = caller.throw(error)
            else:
                awaitable = caller.send(answer)
    except StopIteration:
        pass


async def run_all(
    callers: Sequence[Caller], failures: tuple[type[Exception], ...], at: float, begin: Callable[[], None]
) -> float:
    """As ``threads.run_all``."""
    await asyncio.sleep(max(0.0, at - clock()))
    begin()
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(drive(caller, failures))
    return clock()


async def awaited(awaitable: object) -> object:
    """The answer of a call of an async client whose type says nothing of the mode."""
    return await cast("Awaitable[object]", awaitable)
