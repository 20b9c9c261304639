"""The server's clock, as far as a client can know it: DynamoDB has none in its expressions, but dates every response.

Owns what is learnt from ``Date`` headers, and the rule that makes it safe: a reading is an interval, ``early`` to
``late``, that holds the server's true time. **What is written is written late, what is judged is judged early.** So a
lease is never written too short and never judged over too soon, whatever two clients know or do not know of the clock.

The local clock only measures how much time has passed since a response; what it shows never matters, nor does a jump.
"""

import time
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NamedTuple

from idemstore.errors import StoreUnavailable
from idemstore.machine import MICROSECONDS

DRIFT: Final = 500
"""How far the local clock may run off while no response corrects it (parts per million; computers manage 100)."""
STALE: Final = 300 * MICROSECONDS
"""A clock that nothing corrected for so long is asked for anew before it is used."""

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)
"""Runs on while the machine sleeps; ``time.monotonic`` does not, on Linux."""


class Reading(NamedTuple):
    """The server's time lies between these (microseconds since the epoch)."""

    early: int
    late: int

    def until(self, moment: int) -> float:
        """Seconds until a moment; once it may have come, seconds until it surely has."""
        return (moment - (self.late if moment > self.late else self.early)) / MICROSECONDS


UNKNOWN: Final = Reading(0, 0)
"""For requests that need no clock."""


class Window(NamedTuple):
    """Server time minus local time lies between ``low`` and ``high``, as known at local time ``at``."""

    low: int
    high: int
    at: int

    def drift(self, local: int) -> int:
        """By how much either side has become uncertain since."""
        return max(0, local - self.at) * DRIFT // 1_000_000


def local_clock() -> int:
    """Microseconds of a local clock that never jumps."""
    return (time.monotonic_ns() if _CLOCK is None else time.clock_gettime_ns(_CLOCK)) // 1000


@lru_cache(maxsize=16)
def parse_date(header: str) -> int | None:
    """A ``Date`` header in microseconds since the epoch; None where it does not read as one. Cached: one per second."""
    try:
        return int(parsedate_to_datetime(header).timestamp()) * MICROSECONDS
    except ValueError:
        return None


class ServerClock:
    """One server's clock. Safe for many threads: a window is replaced as a whole; a lost update only costs width."""

    def __init__(self, margin: int) -> None:
        """``margin`` (microseconds): how far a ``Date`` header may be off, either way, beyond its resolution."""
        self._margin = margin
        self._window: Window | None = None

    def fresh(self, local: int) -> bool:
        """Whether it is known well enough to be used without asking first."""
        window = self._window
        return window is not None and local - window.at < STALE

    def observe(self, date: int, sent: int, received: int) -> None:
        """Learn from a response that was dated ``date`` (a whole second) between these local times.

        The header is cut to the second, so the clock stood between it and one second later while the request was
        under way. What several responses say is true at once; where it cannot be, the latest is believed.
        """
        low, high = date - received, date + MICROSECONDS - sent
        known = self._window
        if known is not None:
            drift = known.drift(received)
            closer = max(low, known.low - drift), min(high, known.high + drift)
            if closer[0] <= closer[1]:
                low, high = closer
        self._window = Window(low, high, received)

    def read(self, local: int) -> Reading:
        """The server's time at a local time; raises where no response has told of it yet."""
        window = self._window
        if window is None:
            raise StoreUnavailable("the server's clock is not known yet: call ping() once, then repeat the call")
        spread = window.drift(local) + self._margin
        return Reading(local + window.low - spread, local + window.high + spread)
