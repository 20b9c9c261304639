"""Calls whose caller leaves while PyMongo connects for them: they are carried out all the same.

PyMongo's asyncio client does not close the socket of a connection when its task is cancelled while it connects
(PYTHON-5867 in its tracker); Python reports that as an unclosed socket, whenever it collects it. So every call runs in
a task of its own, which its caller may leave at any time. The task is cancelled then, unless it is connecting: that
goes on to its end, which is its deadline at the latest.
"""

import asyncio
from typing import TypeAlias

from pymongo import monitoring

from idemstore.backends.mongodb.dialect import Reply

Call: TypeAlias = "asyncio.Task[Reply]"


class Connecting(monitoring.ConnectionPoolListener):
    """Which tasks of one client are connecting. PyMongo calls it in the very task."""

    def __init__(self) -> None:
        self._now: set[object] = set()
        self._left: set[Call] = set()

    def leave(self, call: Call) -> None:
        """Nobody waits for the call any more."""
        self._left.add(call)
        call.add_done_callback(self._ended)
        if call not in self._now:
            call.cancel()

    def _ended(self, call: Call) -> None:
        """Nobody is there to be told how."""
        self._left.discard(call)
        if not call.cancelled():
            call.exception()

    async def close(self, limit: float) -> None:
        """Wait for those that were left, but not longer than this."""
        if self._left:
            _, late = await asyncio.wait(self._left, timeout=limit)
            for call in late:
                call.cancel()

    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        """A task begins to connect."""
        self._now.add(asyncio.current_task())

    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None:
        """It has connected."""
        self._now.discard(asyncio.current_task())

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        """It has failed to; or another connection was closed, by a task that is not connecting."""
        self._now.discard(asyncio.current_task())

    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None:
        """Nothing to note."""

    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None:
        """Nothing to note."""

    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None:
        """Nothing to note."""

    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None:
        """Nothing to note."""

    def connection_check_out_started(self, event: monitoring.ConnectionCheckOutStartedEvent) -> None:
        """Nothing to note."""

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        """Nothing to note."""

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        """Nothing to note."""

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        """Nothing to note."""
