"""Tasks that outlive the call that happens to start them."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def aside(
    loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, T], name: str | None = None
) -> "asyncio.Task[T]":
    """A task in a context of its own: it must not carry what its caller carries, such as the running operation. Not by
    an argument of ``create_task``, which not every task factory takes.
    """
    return contextvars.Context().run(loop.create_task, work, name=name)
