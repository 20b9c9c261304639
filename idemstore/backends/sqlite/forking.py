"""No SQLite connection survives ``fork()``: all are closed before it, and opened again when next used.

Opening new connections in the child is not enough. SQLite keeps one entry per file and process, with the locks that
the process holds; a child inherits the entry but not the locks. So the first other process to close the file would take
itself for the last user and delete the write-ahead log beneath the child, whose later commits nobody would ever see.
A child forked while a call was stuck in SQLite is told so rather than let loose on the file.

Nor may a fork meet a connection that is just being closed because its session was collected, in whatever thread that
happens: SQLite's own locks would be taken in the child for ever, and its next call would hang. So they are closed here.
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


class Closable(Protocol):
    """A connection."""

    def close(self) -> None:
        """Close it."""
        ...


_known: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_suspended: Final[list[Forkable]] = []
_buried: Final[list[tuple[str, Closable]]] = []
_lock = threading.RLock()
_held = False
_closing: str | None = None


def register(one: Forkable) -> None:
    """Have ``one`` suspended during forks from now on."""
    with _lock:
        _known.add(one)


def bury(path: str, connection: Closable) -> None:
    """Close the connection of a session that is no more: now, or behind the fork that is being made. Never waits, since
    finalizers run in the middle of anything.
    """
    _buried.append((path, connection))
    if _lock.acquire(blocking=False):
        try:
            _close_buried()
        finally:
            _lock.release()


def _close_buried() -> None:
    """Close what is buried; the lock is held."""
    global _closing
    while _buried:
        _closing, connection = _buried.pop()
        try:
            connection.close()
        finally:
            _closing = None


def _before() -> None:
    """Close all; nobody connects until the fork is over."""
    global _held
    deadline = time.monotonic() + PATIENCE
    _held = _lock.acquire(timeout=PATIENCE)
    for one in list(_known):
        if one.suspend(max(deadline - time.monotonic(), 0.0)):
            _suspended.append(one)
    if _held:
        _close_buried()


def _after() -> None:
    """Go on."""
    for one in _suspended:
        one.resume()
    _suspended.clear()
    if _held:
        _close_buried()
        _lock.release()


def _after_in_child() -> None:
    """Go on, but not with files that a call was at work on, or whose connection was inherited."""
    global _lock
    lost.update(one.path for one in _known if one not in _suspended and one.connected())
    lost.update(path for path, _ in _buried)
    if _closing is not None:
        lost.add(_closing)
    inherited.extend(_buried)
    _buried.clear()
    if not _held:
        _lock = threading.RLock()
    _after()


inherited: Final[list[tuple[str, Closable]]] = []
"""The parent's connections, which must not be closed here."""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
