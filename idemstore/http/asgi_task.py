"""The task that an application runs in: how it begins."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Final

if sys.version_info < (3, 12):
    from idemstore.http import asgi_eager

NAME: Final = "idemstore-request"
"""Of the tasks. A name that all share is made once."""
STOPS: Final = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
"""What a task raises to its loop; the loop hears of it in any case."""


def start(loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
    """A task of its own, which begins at once: a request that waits for nothing, waits for no loop. Where the program
    makes its tasks itself (a task factory), they begin as it likes.
    """
    if loop.get_task_factory() is not None:
        return loop.create_task(work)
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, name=NAME, eager_start=True)
    return asgi_eager.start(loop, work, NAME)


def as_told(error: BaseException) -> BaseException:
    """What whoever waits for the task is told of its end. What stops the loop is told to that, and only once; and a
    ``GeneratorExit`` would not reach a coroutine that waits, but close it.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return asyncio.CancelledError()
    if isinstance(error, GeneratorExit):
        told = RuntimeError("the application raised GeneratorExit")
        told.__cause__ = error
        return told
    return error


def stop_loop(error: BaseException) -> None:
    """Called by the loop: what stops it."""
    raise error
