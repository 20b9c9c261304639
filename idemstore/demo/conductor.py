"""Runs the workers: starts them, watches their journals, kills, puts to sleep, starts again, and ends them all.

Whatever happens (finish, time-out, Ctrl-C, an error of the store) every worker is dead when ``run`` is left.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from random import Random
from typing import Final

from idemstore.demo import worker as work
from idemstore.demo.journal import Entry, Tail, What
from idemstore.demo.plan import STRIKES, Fault, Point, Settings, faults, moments
from idemstore.demo.tally import Tally
from idemstore.errors import StoreError

TICK: Final = 0.02
RESTART: Final = 0.25
STALL: Final = 1.5
"""How long a worker is put to sleep, in leases."""


class End(Enum):
    """How a run ended."""

    FINISHED = "finished"
    TIMED_OUT = "timed out"


class WorkerBroke(StoreError):
    """A worker could not go on; the message is what the store told it, or its last words."""


class Crew:
    """One place for a worker process, and those that follow it."""

    def __init__(self, settings: Settings, number: int, directory: Path) -> None:
        self.number = number
        self.finished = False
        self.killed = False
        self._settings, self._directory = settings, directory
        self._errors = directory / f"worker-{number}.stderr"
        self.journal = Tail(work.journal_path(directory, number))
        self._start_at = 0.0
        self._process: subprocess.Popen[str] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process that has not been killed."""
        return self._process is not None and not self.killed and self._process.poll() is None

    def start(self) -> None:
        """Start a process: in a session of its own, since Ctrl-C is the parent's business, and on the parent's path."""
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", work.__name__, str(self.number), str(self._directory)],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.killed = False
        self.say(self._settings.to_json())

    def say(self, line: str) -> None:
        """One line to the worker; one that is gone already needs none."""
        pipe = None if self._process is None else self._process.stdin
        if pipe is not None and not pipe.closed:
            with suppress(BrokenPipeError):
                pipe.write(line + "\n")
                pipe.flush()

    def kill(self) -> bool:
        """SIGKILL, wherever it is; False where the process had ended by itself."""
        if self._process is None or self.killed:
            return False
        self._process.kill()
        if self._process.wait() != -signal.SIGKILL:
            return False
        self._hang_up()
        self.killed = True
        self._start_at = time.monotonic() + RESTART
        return True

    def look(self) -> None:
        """Start what was killed again, after a moment; notice what has ended."""
        if self.finished or self.running:
            return
        if self._process is None or self.killed:
            if time.monotonic() >= self._start_at:
                self.start()
        elif self._process.returncode == 0:
            self.finished = True
        else:
            raise WorkerBroke(self._last_words())

    def _last_words(self) -> str:
        """Why a worker ended that nobody killed."""
        assert self._process is not None, "only a started process has ended"
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        said = f": {lines[-1].removeprefix('idemstore: ')}" if lines else ""
        return f"worker {self.number} ended with code {self._process.returncode}{said}"

    def close(self) -> None:
        """Kill the process and close the pipe to it."""
        self.kill()
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the pipe; what a dead worker did not read is of no use to anybody."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()


class Conductor:
    """One run. ``see`` gets every journal entry, ``strike`` what is done to workers, ``tick`` a chance to draw."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        see: Callable[[Entry], None],
        strike: Callable[[int, Fault, str], None],
        tick: Callable[[], None],
    ) -> None:
        self.tally = Tally(settings)
        self.entries: list[Entry] = []
        self._settings = settings
        self._see, self._strike, self._tick = see, strike, tick
        self._faults, self._moments = faults(settings), moments(settings)
        self._random = Random(settings.seed)  # noqa: S311 - no secret
        self._crews = {number: Crew(settings, number, directory) for number in range(1, settings.workers + 1)}

    def run(self, deadline: float) -> End:
        """Until every worker has finished, or until ``deadline`` (of the monotonic clock)."""
        try:
            while not all(crew.finished for crew in self._crews.values()):
                if time.monotonic() > deadline:
                    return End.TIMED_OUT
                self._read()
                self._surprise()
                self._look()
                self._tick()
                time.sleep(TICK)
        finally:
            for crew in self._crews.values():
                crew.close()
        self._read()
        self._tick()
        return End.FINISHED

    def _look(self) -> None:
        """After the workers; why one broke stands in its journal, if it could still write."""
        try:
            for crew in self._crews.values():
                crew.look()
        except WorkerBroke:
            self._read()
            raise

    def _read(self) -> None:
        """What the workers did since the last look. Read before any is started again, so it is all one process's."""
        for crew in self._crews.values():
            for entry in crew.journal.entries():
                if entry.what is What.BROKE:
                    raise WorkerBroke(entry.detail)
                self.entries.append(entry)
                self.tally.add(entry)
                self._see(entry)
                if entry.what is What.REACHED:
                    self._decide(crew, entry)
                elif entry.what in (What.ANSWERED, What.REPLAYED):
                    self._catch_up(entry.key)

    def _decide(self, crew: Crew, entry: Entry) -> None:
        """A worker stands where a fault is planned for its key: the first to get there has it."""
        if not crew.running:
            return
        planned = self._faults.get(entry.key, [])
        fault = next((one for one in planned if STRIKES[one] is Point(entry.detail)), None)
        if fault is Fault.STALL:
            crew.say(f"{self._settings.lease * STALL:.3f}")
        elif fault is None or not crew.kill():
            crew.say(work.GO)
            return
        planned.remove(fault)
        self._struck(crew, fault, entry.key)

    def _catch_up(self, key: str) -> None:
        """A key is done: a kill planned for it that came to nothing (another one was faster) comes at any moment."""
        missed = [fault for fault in self._faults.pop(key, ()) if fault is not Fault.STALL]
        self._moments[:0] = [0] * len(missed)

    def _surprise(self) -> None:
        """Kill any worker when enough callers have been answered."""
        if self._moments and len(self.tally.answered) >= self._moments[0]:
            running = [crew for crew in self._crews.values() if crew.running]
            victim = self._random.choice(running) if running else None
            if victim is not None and victim.kill():
                del self._moments[0]
                self._struck(victim, Fault.KILL_ANY, "")

    def _struck(self, crew: Crew, fault: Fault, key: str) -> None:
        """Count it and tell."""
        self.tally.strike(crew.number, fault)
        self._strike(crew.number, fault, key)
