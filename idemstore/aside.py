"""Tasks that outlive the call that happens to start them."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def aside(
    loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, T], name: str | None = None
) -> "asyncio.Task[T]":
    """A task in a context of its own: it must not carry what its caller carries, such as the running operation. Context
    and name are no arguments of ``create_task``, which some versions of asyncio hand on to the task factory.
    """
    task = contextvars.Context().run(loop.create_task, work)
    if name is not None:
        task.set_name(name)
    return task
