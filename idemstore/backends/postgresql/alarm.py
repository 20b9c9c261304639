"""Deadlines of calls, one timer for many of them.

A timer per call is made and cancelled some thousand times a second and hardly ever rings; on an event loop that costs
as much as a tenth of the round trip. A line carries one call at a time, so one timer is enough: when it rings, it looks
whether the call that is under way *now* is late, and if not, is set for that one's deadline.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable


class Alarm:
    """One line's timer."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """``ring`` is called when a call comes to its deadline."""
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()
        """The timer's own: it outlives the call that set it, and must not keep what that one carries."""
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def set(self, deadline: float) -> None:
        """A call begins. The timer that runs already will do, unless it would ring too late."""
        self._deadline = deadline
        if self._timer is None or deadline < self._due:
            self._start(deadline)

    def clear(self) -> None:
        """The call is over."""
        self._deadline = None

    def stop(self) -> None:
        """The line is closed."""
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, deadline: float) -> None:
        """Ring at the deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        left = max(0.0, deadline - time.monotonic())
        self._timer = self._loop.call_later(left, self._look, context=self._context)

    def _look(self) -> None:
        """Is the present call late?"""
        self._timer = None
        if self._deadline is None:
            return
        if self._deadline <= time.monotonic():
            self._deadline = None
            self._ring()
        else:
            self._start(self._deadline)
