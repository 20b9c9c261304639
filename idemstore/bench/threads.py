"""Callers as threads: the sync mode."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from idemstore.bench.bare import Caller
from idemstore.bench.job import clock
from idemstore.bench.waiting import PATIENCE

LIMIT: Final = 300.0
"""Seconds after which the callers of a sample must have come to an end: every call of theirs is bounded."""


class ThreadMeeting:
    """A meeting point of threads."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties, timeout=PATIENCE)

    def meet(self) -> None:
        """Wait for the others."""
        self._barrier.wait()

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


def drive(caller: Caller) -> None:
    """Run a caller to its end: what a call returned is its answer."""
    try:
        answer = next(caller)
        while True:
            answer = caller.send(answer)
    except StopIteration:
        pass


def run_all(callers: Sequence[Caller], at: float, begin: Callable[[], None]) -> float:
    """All callers at once, from that moment on; when the last of them was done. ``begin``: they set out."""
    go = threading.Event()

    def one(caller: Caller) -> None:
        go.wait(PATIENCE)
        drive(caller)

    with ThreadPoolExecutor(len(callers), thread_name_prefix="caller") as pool:
        futures = [pool.submit(one, caller) for caller in callers]
        time.sleep(max(0.0, at - clock()))
        begin()
        go.set()
        for future in futures:
            future.result(LIMIT)
        return clock()
