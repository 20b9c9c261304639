"""How long to go on trying: one deadline per call, and pauses with jitter between attempts that met a lock."""

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from idemstore.backends.sqlite.translate import Busy
from idemstore.errors import StoreTimeout

Q = TypeVar("Q")
T = TypeVar("T")

FIRST_PAUSE: Final = 0.0002
LAST_PAUSE: Final = 0.01
"""Seconds. A write lock is held for some 50 microseconds; a process that finds it taken asks again soon, and goes on
asking often, since whoever asks rarely loses to those who have just come.
"""


class Patience:
    """The deadline of one call, and its next pause."""

    __slots__ = ("_pause", "_timeout", "deadline")

    def __init__(self, timeout: float) -> None:
        self.deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._pause = FIRST_PAUSE

    def left(self) -> float:
        """Seconds left; at least 0."""
        return max(self.deadline - time.monotonic(), 0.0)

    def pause(self, met: Busy) -> float:
        """Seconds to wait after an attempt that met a lock, or ``StoreTimeout`` where the time is up."""
        left = self.left()
        if not left:
            raise self.over(str(met)) from met
        return min(self.next_pause(), left)

    def next_pause(self) -> float:
        """Seconds to wait, a little longer each time."""
        seconds = self._pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
        self._pause = min(self._pause * 1.5, LAST_PAUSE)
        return seconds

    def over(self, why: str) -> StoreTimeout:
        """The error for a call whose time is up."""
        return StoreTimeout(
            f"{why}; gave up after {self._timeout:g} s. Repeating the call is safe; "
            "look for a long transaction in another process"
        )

    def run(self, attempt: Callable[[Q, float], T], requests: Q) -> T:
        """Try until it works, the time is up, or something else is wrong."""
        while True:
            try:
                return attempt(requests, self.left())
            except Busy as met:
                seconds = self.pause(met)
            time.sleep(seconds)
