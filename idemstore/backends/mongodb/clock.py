"""The server's clock as its last heartbeats told it: the source of ``InFlight.retry_after``, and of no decision.

PyMongo watches every server with ``hello``, whose reply holds the server's time, once when it connects and then about
every ten seconds. Carried on by this process's monotonic clock, that costs no round trip. A heartbeat is noticed late,
if anything, so of several the one that puts the server furthest ahead is the best.
"""

import time
from datetime import UTC, datetime
from typing import Final

from pymongo import monitoring

KEPT: Final = 12
"""Heartbeats to choose from; two minutes, in which clocks drift apart by a few milliseconds."""
MILLION: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class HeartbeatClock(monitoring.ServerHeartbeatListener):
    """Listens to one client's heartbeats, in PyMongo's own threads; ``now`` may be called by any thread."""

    def __init__(self) -> None:
        self._primary: object = None
        self._offsets: tuple[int, ...] = ()
        self._ahead: int | None = None
        self._asking: set[object] = set()

    @property
    def asking(self) -> bool:
        """Whether a heartbeat is under way that connects, or waits for an answer that should come at once."""
        return bool(self._asking)

    def now(self) -> int | None:
        """Milliseconds since the epoch by the primary's clock; None where no primary has been heard of."""
        ahead = self._ahead
        return None if ahead is None else time.monotonic_ns() // MILLION + ahead

    def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None:
        """One is under way; one that is awaited has its connection, and may take long."""
        if not event.awaited:
            self._asking.add(event.connection_id)

    def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:
        """Nothing to learn."""
        self._asking.discard(event.connection_id)

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
        """A primary, or a router, tells its time; another one than before has a clock of its own."""
        self._asking.discard(event.connection_id)
        told = event.reply.document.get("localTime")
        if not event.reply.is_writable or not isinstance(told, datetime):
            return
        if self._primary != event.connection_id:
            self._primary = event.connection_id
            self._offsets = ()
        millis = round((told.replace(tzinfo=UTC) - _EPOCH).total_seconds() * 1000)
        self._offsets = (*self._offsets[1 - KEPT :], millis - time.monotonic_ns() // MILLION)
        self._ahead = max(self._offsets)
