"""Knows everything that this test run has started, so that nothing outlives it.

A normal exit stops and removes what is left; the guard, a process of its own, does it for a run that was killed.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from idemstore.testing.servers import guard


class Keeper:
    """What one process has started; a forked child has a keeper of its own."""

    def __init__(self) -> None:
        """Start the guard; it ends when this process does."""
        self.owner = os.getpid()
        self._stops: dict[int, Callable[[], None]] = {}
        self._directories: set[Path] = set()
        self._lock = threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self._close)

    def _tell(self, line: str) -> None:
        """Tell the guard; if somebody killed it, the normal exit still cleans up."""
        pipe = self._guard.stdin
        if pipe is None:
            return
        with self._lock:
            try:
                pipe.write(os.fsencode(line) + b"\n")
                pipe.flush()
            except BrokenPipeError:
                return

    def started(self, pid: int, polite: int, stop: Callable[[], None]) -> None:
        """Take charge of a process."""
        self._stops[pid] = stop
        self._tell(f"run {pid} {polite}")

    def ended(self, pid: int) -> None:
        """Forget a process that is gone."""
        if self._stops.pop(pid, None) is not None:
            self._tell(f"end {pid}")

    def made(self, directory: Path) -> None:
        """Take charge of a directory."""
        self._directories.add(directory)
        self._tell(f"dir {directory}")

    def removed(self, directory: Path) -> None:
        """Forget a directory that is gone."""
        self._directories.discard(directory)
        self._tell(f"gone {directory}")

    def _close(self) -> None:
        """Stop and remove all that is left (at exit, and only in the process that started it)."""
        if os.getpid() != self.owner:
            return
        for stop in list(self._stops.values()):
            stop()
        for directory in list(self._directories):
            remove(directory)
        self._tell("quit")
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()


_keepers: list[Keeper] = []
_keepers_lock = threading.Lock()


def keeper() -> Keeper:
    """Return the keeper of this process, making it on first use."""
    with _keepers_lock:
        if not _keepers or _keepers[-1].owner != os.getpid():
            _keepers.append(Keeper())
        return _keepers[-1]


def workspace(name: str) -> Path:
    """Make a temporary directory of short name (socket paths are limited), removed at exit at the latest."""
    directory = Path(tempfile.mkdtemp(prefix=f"idem-{name}-"))
    keeper().made(directory)
    return directory


def remove(directory: Path) -> None:
    """Remove a workspace; no error if it is gone already."""
    shutil.rmtree(directory, ignore_errors=True)
    keeper().removed(directory)
