"""Append-only files: what workers did, line by line, as they did it. The verdict reads nothing else.

A line is written with one ``write`` on a descriptor opened with ``O_APPEND``. A process that is killed inside that call
can leave half a line: whoever writes next ends it, and readers take a line that is not whole for one that was never
written.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class What(StrEnum):
    """What a worker did."""

    STARTED = "started"
    TRIED = "tried"
    BUSY = "busy"
    CLAIMED = "claimed"
    REACHED = "reached"
    CHARGED = "charged"
    FOUND = "found"
    REFUSED = "refused"
    LOST = "lost"
    ANSWERED = "answered"
    REPLAYED = "replayed"
    TROUBLE = "trouble"
    BROKE = "broke"
    FINISHED = "finished"


class Entry(NamedTuple):
    """One line of a worker's journal.

    ``number`` is the caller (``TRIED``, ``ANSWERED``, ``REPLAYED``), or the attempt that the store counted
    (``CLAIMED``, ``FOUND``, ``REFUSED``, ``LOST``); ``detail`` is a receipt, a point, a fence or a message.
    """

    what: What
    worker: int
    key: str = ""
    number: int = 0
    detail: str = ""


class Charge(NamedTuple):
    """One line of the ledger: a charge, or (``receipt`` empty) a question, which shuts older fences out, too."""

    key: str
    fence: int
    worker: int
    receipt: str


class Journal:
    """The writing end of one worker's journal. A restarted worker goes on where its predecessor was killed."""

    def __init__(self, path: Path, worker: int) -> None:
        self._worker = worker
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        end_line(self._file)

    def write(self, what: What, key: str = "", number: int = 0, detail: str = "") -> None:
        """Append a line."""
        os.write(self._file, _line([what, self._worker, key, number, detail]))


class Tail:
    """The reading end of a file that grows: each call brings the whole lines that are new."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def rows(self) -> list[list[str | int]]:
        """New lines; those cut short by a kill are skipped."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for row in map(_row, whole.splitlines()) if row is not None]

    def entries(self) -> list[Entry]:
        """New lines of a worker's journal."""
        found = []
        for what, worker, key, number, detail in self.rows():
            found.append(Entry(What(str(what)), int(worker), str(key), int(number), str(detail)))
        return found

    def charges(self) -> list[Charge]:
        """New lines of the ledger."""
        return [Charge(str(key), int(fence), int(worker), str(receipt)) for key, fence, worker, receipt in self.rows()]


def _line(row: list[str | int]) -> bytes:
    """One row as a line; JSON has no line break inside."""
    return json.dumps(row).encode() + b"\n"


def _row(line: bytes) -> list[str | int] | None:
    """A line as a row; None where a kill cut it short, since what was not written whole did not happen."""
    try:
        row: list[str | int] = json.loads(line)
    except ValueError:
        return None
    return row


def append_durably(file: int, row: list[str | int]) -> None:
    """Append a line and see it on the disk."""
    os.write(file, _line(row))
    os.fsync(file)


def end_line(file: int) -> None:
    """End a line that a killed process left half written."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """The file, open for appending, to this process alone; the kernel gives the lock back when a holder is killed."""
    import fcntl  # POSIX only, as SIGKILL is

    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        end_line(file)
        yield file
    finally:
        os.close(file)
