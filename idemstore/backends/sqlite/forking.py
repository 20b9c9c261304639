"""No SQLite connection survives ``fork()``: all are closed before it, and opened again when next used.

Opening new connections in the child is not enough. SQLite keeps one entry per file and process, with the locks that
the process holds; a child inherits the entry but not the locks. So the first other process to close the file would take
itself for the last user and delete the write-ahead log beneath the child, whose later commits nobody would ever see.
A child forked while a call was stuck in SQLite is told so rather than let loose on the file.
"""

import os
import threading
import time
import weakref
from typing import Final, Protocol

PATIENCE: Final = 5.0
"""Seconds for which a fork waits for calls in progress, all together."""


class Forkable(Protocol):
    """Something with a connection."""

    path: str

    def suspend(self, timeout: float) -> bool:
        """Wait for the call in progress and close the connection, until ``resume``; False: not within the time."""
        ...

    def resume(self) -> None:
        """Allow connections again."""
        ...

    def connected(self) -> bool:
        """Whether there is a connection."""
        ...


lost: Final[set[str]] = set()
"""Files on which this child process must not open connections."""

_known: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_suspended: Final[list[Forkable]] = []
_lock: Final = threading.RLock()


def register(one: Forkable) -> None:
    """Have ``one`` suspended during forks from now on."""
    with _lock:
        _known.add(one)


def _before() -> None:
    """Close all; nobody connects until the fork is over."""
    _lock.acquire()
    deadline = time.monotonic() + PATIENCE
    for one in list(_known):
        if one.suspend(max(deadline - time.monotonic(), 0.0)):
            _suspended.append(one)


def _after() -> None:
    """Go on."""
    for one in _suspended:
        one.resume()
    _suspended.clear()
    _lock.release()


def _after_in_child() -> None:
    """Go on, but not with files that a call was at work on."""
    lost.update(one.path for one in _known if one not in _suspended and one.connected())
    _after()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
