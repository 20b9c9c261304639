"""Deadlines of many calls on one event loop, with one timer for all of them.

``asyncio.timeout`` makes a timer for each call, and cancels it when the call is over: on a server near by that takes a
tenth of the whole round trip. Deadlines hardly ever come, so here one timer waits for the next of them, and when it
rings, looks who is late by then.
"""

import asyncio
import contextvars
import math
import time
from types import TracebackType
from typing import Self


class Bound:
    """One call's deadline, as a context manager: the task is cancelled when it comes, and ``TimeoutError`` is raised in
    place of that cancellation, unless somebody else has cancelled the task, too (as ``asyncio.timeout`` does it).
    """

    __slots__ = ("_before", "_deadlines", "_task", "deadline", "late")

    def __init__(self, deadlines: "Deadlines", deadline: float) -> None:
        self._deadlines, self.deadline, self.late = deadlines, deadline, False
        task = asyncio.current_task()
        assert task is not None, "stores are used by tasks"
        self._task = task
        self._before = task.cancelling()

    def __enter__(self) -> Self:
        self._deadlines.watch(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._deadlines.open.discard(self)
        if self.late and self._task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def expire(self) -> None:
        """The deadline has come."""
        self.late = True
        self._task.cancel()


class Deadlines:
    """Those of all calls that are under way. Belongs to the loop of the first one."""

    def __init__(self) -> None:
        self.open = set[Bound]()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._context = contextvars.Context()
        """The timer's own: it outlives the call that started it, and must not keep what that one carries."""

    def bound(self, deadline: float) -> Bound:
        """The present task must not stay in the block for longer than until then (monotonic clock)."""
        return Bound(self, deadline)

    def watch(self, bound: Bound) -> None:
        """A call begins. The timer that runs already will do, unless it would ring too late."""
        self.open.add(bound)
        if bound.deadline < self._due:
            self._start(bound.deadline)

    def close(self) -> None:
        """No more calls, but for those that are under way: they keep their deadlines, and the timer with them."""
        if self._timer is not None and not self.open:
            self._timer.cancel()
            self._timer, self._due = None, math.inf

    def _start(self, deadline: float) -> None:
        """Ring at the deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._ring, context=self._context)

    def _ring(self) -> None:
        """Tell those who are late, and wait for the next one."""
        self._timer, self._due = None, math.inf
        now, ahead = time.monotonic(), math.inf
        for bound in self.open:
            if bound.late:
                continue
            if bound.deadline <= now:
                bound.expire()
            else:
                ahead = min(ahead, bound.deadline)
        if ahead < math.inf:
            self._start(ahead)
