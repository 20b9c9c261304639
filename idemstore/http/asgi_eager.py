"""Tasks that begin at once, on Python 3.11: what ``asyncio.Task(..., eager_start=True)`` is from 3.12 on.

A task takes its first step when the loop gets to it, and asks for that by ``loop.call_soon`` as it is made. Here that
one call is caught (it is known by its context, so nothing else is: a signal handler may ask for something just then),
and the step is taken within the task that is running, which is left meanwhile as documented for task implementations
of one's own (https://docs.python.org/3.11/library/asyncio-extending.html#task-lifetime-support). So a request whose
application waits for nothing needs no turn of the loop, which is a seventh of what such a request costs.

To be deleted together with support for Python 3.11.
"""

from __future__ import annotations  # they stand in a function that every request calls: not to be evaluated there

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context


def start(  # noqa: C901 - in one piece: a signal handler may raise wherever a function is called
    loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, None], name: str
) -> asyncio.Task[None]:
    """A task that has taken its first step; on a loop that cannot be watched, one that takes it with the next turn."""
    outer, own, step = asyncio.current_task(loop), copy_context(), None
    call_soon = loop.call_soon

    def caught(callback: Callable[..., object], *args: object, context: Context | None = None) -> object:
        nonlocal step
        if context is not own:
            return call_soon(callback, *args, context=context)
        step = callback
        return None

    try:
        if outer is not None:
            loop.call_soon = caught  # type: ignore[method-assign, assignment]
            # no look at its ``__dict__``, which would make all its attributes slower
    except AttributeError:
        outer = None
    if outer is None:
        return asyncio.Task(work, loop=loop, name=name, context=own)
    try:
        task = asyncio.Task(work, loop=loop, name=name, context=own)
    except BaseException:  # a signal handler raised, once it was made: a task that never ends would keep the loop
        if step is not None:
            call_soon(step, context=own)
        raise
    finally:
        del loop.call_soon
        if loop.call_soon != call_soon:  # somebody else watches this loop in the same way
            loop.call_soon = call_soon  # type: ignore[method-assign]
    if step is None:
        return task
    try:
        _leave_task(loop, outer)  # in here: where a signal handler raises right after it, ``outer`` is entered again
        first, step = step, None
        own.run(first)
    finally:
        _enter_task(loop, outer)
        if step is not None:
            call_soon(step, context=own)
    return task
