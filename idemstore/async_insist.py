"""``insist`` for async, and what must be carried to its end although its task is cancelled."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, TypeVar

from idemstore.errors import IdemstoreError
from idemstore.insist import pauses

log: Final = logging.getLogger("idemstore.guard")

T = TypeVar("T")


async def async_insist(tell: Callable[[], Awaitable[T]], until: float) -> T:
    """As ``insist``; cancellation is the business of ``to_the_end``."""
    waiting = pauses(until)
    while True:
        try:
            return await tell()
        except IdemstoreError as error:
            pause = next(waiting, None) if error.retryable else None
            if pause is None:
                raise
        await asyncio.sleep(pause)


async def to_the_end(start: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a step that must not be cut short, and that may be run twice: where it is cancelled, it is started again as a
    task of its own, and the cancellation waits for that one's end (it is bounded) before it goes on.

    No task is made where nothing is cancelled, which is nearly always.
    """
    try:
        return await start()
    except asyncio.CancelledError:
        await outlast(start)
        raise


async def outlast(start: Callable[[], Coroutine[object, object, object]]) -> None:
    """Run a step to its end however often this task is cancelled meanwhile. It must not raise what matters: nobody is
    going to see it but the log. Some cancel scopes repeat themselves at every step of the loop until they are obeyed.
    """
    task = asyncio.create_task(_stubborn(start))
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


_under_way: set["asyncio.Task[None]"] = set()
"""Keeps the tasks: the loop itself holds them only weakly."""


async def _stubborn(start: Callable[[], Coroutine[object, object, object]]) -> None:
    """A loop that shuts down cancels every task, this one too, once."""
    try:
        try:
            await start()
        except asyncio.CancelledError:
            await start()
    except IdemstoreError as error:
        log.warning("cancelled while the store was being told what had been done: %s", error)
