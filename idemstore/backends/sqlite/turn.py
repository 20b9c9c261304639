"""A lock for one call at a time that nothing can leave taken.

Signal handlers may raise anywhere (a task queue's soft time limit, a watchdog), even between ``lock.acquire()`` and
the ``try`` behind it. A plain lock is lost then, and with it the store. This one knows its owner: the release in
``finally`` is tried in any case, and refused by the lock itself where it was not taken.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from idemstore.errors import StoreUnavailable

T = TypeVar("T")


class Taken(Exception):
    """Another thread has the turn, and kept it for the whole time."""


class Turn:
    """Whose turn it is."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holder: object | None = None

    def run(self, work: Callable[[], T], timeout: float) -> T:
        """Do the work alone; ``Taken`` if that cannot begin within ``timeout`` seconds."""
        mine = object()
        try:
            if not self._lock.acquire(timeout=max(timeout, 0.0)):
                raise Taken
            if self._holder is not None:
                raise StoreUnavailable(
                    "the SQLite store was called by a signal handler or finalizer in the middle of another call of the "
                    "same thread: let the handler set a flag, and make the call outside of it"
                )
            self._holder = mine
            return work()
        finally:
            if self._holder is mine:
                self._holder = None
            try:  # noqa: SIM105 - any call before the release is a place for a signal handler to raise
                self._lock.release()
            except RuntimeError:
                pass  # it was not taken

    def enter(self, timeout: float) -> bool:
        """Take the turn until ``leave``; False if it cannot be had within ``timeout`` seconds."""
        if not self._lock.acquire(timeout=max(timeout, 0.0)):
            return False
        if self._holder is not None:
            self._lock.release()
            return False
        self._holder = self
        return True

    def leave(self) -> None:
        """Give back what ``enter`` took."""
        self._holder = None
        self._lock.release()

    def taken(self) -> bool:
        """Whether somebody has it."""
        return self._holder is not None
