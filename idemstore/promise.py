"""What one thread brings about and others wait for, as ``concurrent.futures.Future``, but which nothing leaves locked.

Signal handlers may raise anywhere (a task queue's soft time limit, a watchdog), also inside the condition that a
``Future`` waits by: its lock stays taken then, or its release raises something else in place of the handler's
exception. Here a waiter touches no lock but one of its own.
"""

import threading
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Promise(Generic[T]):
    """A value or an error, once."""

    __slots__ = ("_error", "_gates", "_kept", "_values")

    def __init__(self) -> None:
        self._kept = False
        self._values: list[T] = []
        self._error: BaseException | None = None
        self._gates: list[threading.Lock] = []
        """One for each waiter, closed until the promise is kept."""

    def result(self, timeout: float) -> T:
        """Wait for it: the value, or raise the error; ``TimeoutError`` if neither comes within so many seconds."""
        gate = threading.Lock()
        gate.acquire()
        self._gates.append(gate)
        # the gate first, then a look: whoever keeps it does so the other way round
        if not self._kept and not gate.acquire(timeout=max(timeout, 0)):
            with suppress(ValueError):  # it is being opened just now
                self._gates.remove(gate)
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._values[0]

    def set_result(self, value: T) -> None:
        """Here it is."""
        self._values.append(value)
        self._keep()

    def set_exception(self, error: BaseException) -> None:
        """It will never be."""
        self._error = error
        self._keep()

    def _keep(self) -> None:
        """Let the waiters go on."""
        self._kept = True
        with suppress(IndexError):  # a waiter who is late may take the last one away
            while True:
                self._gates.pop().release()
