"""Kills the servers of a test run that was itself killed.

A tiny process of its own, started with the first server (as a script, with nothing but the standard library): it reads
from a pipe which processes and directories the test run owns. When the pipe ends or its parent is gone, whatever is
still listed is stopped and removed. A death signal (`PR_SET_PDEATHSIG`) would not do: it fires when the *thread* that
started the server ends. The walk over process trees lives here, too, because both sides need it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time

_GRACE = 3.0
"""Seconds between the polite signal and SIGKILL."""


def _parents_from_proc() -> dict[int, int]:
    """Map every process to its parent, from /proc."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if len(fields) > 1:
            parents[int(entry)] = int(fields[1])
    return parents


def _parents_from_ps() -> dict[int, int]:
    """Map every process to its parent, from ps (where there is no /proc)."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = (line.split() for line in table.splitlines())
    return {int(pid): int(parent) for pid, parent in pairs}


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    parents = _parents_from_proc() if os.path.isdir("/proc/self") else _parents_from_ps()
    found = [pid]
    for ancestor in found:
        found.extend(child for child, parent in parents.items() if parent == ancestor)
    return found[1:]


def deliver(pid: int, signum: int) -> bool:
    """Signal one process; False if it is gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def signal_tree(pid: int, signum: int) -> None:
    """Signal a process and all below it; it is stopped first, so that it cannot fork meanwhile.

    Process groups would not do: every backend of PostgreSQL leads a group of its own.
    """
    if not deliver(pid, signal.SIGSTOP):
        return
    for member in [pid, *descendants(pid)]:
        deliver(member, signum)


def _sweep(processes: dict[int, int], directories: set[str]) -> None:
    """Stop what is left, politely at first, and remove its directories."""
    for pid, polite in processes.items():
        signal_tree(pid, signal.SIGCONT)
        deliver(pid, polite)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline and any(deliver(pid, 0) for pid in processes):
        time.sleep(0.05)
    for pid in processes:
        signal_tree(pid, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _note(line: str, processes: dict[int, int], directories: set[str]) -> None:
    """Take one line of the pipe: `run PID SIGNAL`, `end PID`, `dir PATH` or `gone PATH`."""
    verb, _, rest = line.partition(" ")
    match verb:
        case "run":
            pid, _, polite = rest.partition(" ")
            processes[int(pid)] = int(polite)
        case "end":
            processes.pop(int(rest), None)
        case "dir":
            directories.add(rest)
        case "gone":
            directories.discard(rest)
        case _:
            raise ValueError(line)


def main() -> None:
    """Listen until the parent is gone, then sweep."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    parent = os.getppid()
    processes: dict[int, int] = {}
    directories: set[str] = set()
    pending = b""
    while os.getppid() == parent:
        # A forked child of the test run holds the pipe open, too: hence the look at the parent.
        if not select.select([sys.stdin.fileno()], [], [], 1.0)[0]:
            continue
        chunk = os.read(sys.stdin.fileno(), 65536)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        if b"quit" in lines:
            break
        for line in lines:
            _note(os.fsdecode(line), processes, directories)
    _sweep(processes, directories)


if __name__ == "__main__":
    main()
