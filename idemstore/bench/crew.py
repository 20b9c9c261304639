"""The worker processes of one target and mode, seen from the command: started, asked, and ended, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Final, Self, TypeVar, cast

from idemstore.bench.orders import (
    Asked,
    Audit,
    Audited,
    Broke,
    Forget,
    Forgotten,
    Go,
    Hello,
    Order,
    Ready,
    Said,
    Sample,
)
from idemstore.errors import ConfigurationError, StoreError, StoreTimeout

T = TypeVar("T", Ready, Sample, Audited, Forgotten)

WORKER: Final = "idemstore.bench.worker"
STARTING: Final = 30.0
PREPARING: Final = 90.0
SLACK: Final = 90.0
"""Seconds that a sample may take longer than it should: its last calls must end, by their own time-outs."""
SOON: Final = 0.005
HEAD_START: Final = 0.03
"""Seconds until several processes begin together."""
CLOSING: Final = 5.0


class WorkerBroke(StoreError):
    """A worker could not go on."""


class Process:
    """One worker."""

    def __init__(self, hello: Hello) -> None:
        ours, theirs = Pipe()
        self._line = cast("Connection[Asked, Said]", ours)
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if sys.flags.dev_mode else subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C is the command's business
        )
        theirs.close()
        self.say(hello)

    def say(self, asked: Asked) -> None:
        """One word to it; what is wrong with one that is gone shows when it is to answer."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._line.send(asked)

    def hear(self, kind: type[T], until: float) -> T:
        """Its answer."""
        try:
            if not self._line.poll(max(0.0, until - time.monotonic())):
                raise StoreTimeout("a worker gave no answer in time and was ended: look whether the server is alive")
            said = self._line.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait(CLOSING)
            raise WorkerBroke(f"a worker ended with code {code} (python -X dev -m idemstore bench shows why)") from None
        match said:
            case Broke(message=message, usage=usage):
                raise (ConfigurationError if usage else WorkerBroke)(message)
            case _ if isinstance(said, kind):
                return said
        raise AssertionError(f"{kind.__name__} expected, not {type(said).__name__}")

    def hang_up(self) -> None:
        """Let it end."""
        self._line.close()

    def end(self) -> None:
        """See that it is gone."""
        try:
            self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


class Crew:
    """All workers of one target and mode."""

    def __init__(self, hellos: Sequence[Hello]) -> None:
        self._processes: list[Process] = []
        try:
            for hello in hellos:
                self._processes.append(Process(hello))
            until = time.monotonic() + STARTING
            for process in self._processes:
                process.hear(Ready, until)
        except BaseException:
            self.close()
            raise

    def sample(self, orders: Sequence[Order], wire: Callable[[], int]) -> tuple[list[Sample], int]:
        """One sample: the orders go to the first processes, as many as there are. By how much ``wire`` grew meanwhile
        is told, too; what comes before and after the sample is no part of that.
        """
        processes = self._processes[: len(orders)]
        for process, order in zip(processes, orders, strict=True):
            process.say(order)
        until = time.monotonic() + PREPARING
        for process in processes:
            process.hear(Ready, until)
        before = wire()
        go = Go(time.monotonic() + (SOON if len(processes) == 1 else HEAD_START))
        for process in processes:
            process.say(go)
        until = go.at + max(order.seconds for order in orders) + SLACK
        samples = [process.hear(Sample, until) for process in processes]
        grown = wire() - before
        for process in processes:
            process.say(Audit())
        audits = [process.hear(Audited, until) for process in processes]
        both = zip(samples, audits, strict=True)
        return [replace(sample, wrong=(*sample.wrong, *audit.wrong)) for sample, audit in both], grown

    def forget(self, seconds: float) -> Forgotten:
        """Let each delete what it stored."""
        for process in self._processes:
            process.say(Forget(seconds))
        until = time.monotonic() + seconds + SLACK
        found = [process.hear(Forgotten, until) for process in self._processes]
        return Forgotten(sum(one.deleted for one in found), sum(one.left for one in found))

    def close(self) -> None:
        """End them all."""
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.end()

    def __enter__(self) -> Self:
        """Leaving the block ends them."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End them."""
        self.close()
