"""Connections, and who has them: one pool for threads, one for tasks. Neither has a thread or task of its own.

A pool opens connections as they are needed, hands out the one used last, and lets callers wait for one until their
deadline, in the order in which they came. It sends nothing: no check before a call and no reset behind it. A connection
that has been idle for long is not trusted any more (firewalls forget them); one that broke takes the idle ones with it.
"""

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from idemstore.errors import StoreClosed, StoreTimeout

MAX_IDLE: Final = 240.0
"""Seconds; below what load balancers and firewalls keep idle connections for."""


class Line(Protocol):
    """A connection."""

    used: float
    """When it was given back last (monotonic clock)."""
    place: "Place | None"
    """Where it is in use, in a pool for threads."""

    def close(self) -> None:
        """End it without waiting for anybody."""
        ...


L = TypeVar("L", bound=Line)


class Place:
    """The right to use one connection of a pool. It lives as long as the call that has it, or its connection."""

    __slots__ = ("__weakref__",)


class _Places(Generic[L]):
    """What both pools share: who is idle, and how many there are. The caller holds the lock, where there is one."""

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._idle: list[L] = []
        self._open = 0
        self._closed = False

    def idle(self) -> L | None:
        """The idle connection that was used last, unless it is too old: then so are all others."""
        if self._idle and time.monotonic() - self._idle[-1].used < MAX_IDLE:
            return self._idle.pop()
        self._forget_idle()
        return None

    def _forget_idle(self) -> None:
        """Close the idle ones; their places are free."""
        idle, self._idle = self._idle, []
        self._open -= len(idle)
        for line in idle:
            line.close()

    def _check(self) -> None:
        """Nothing is opened behind ``close``."""
        if self._closed:
            raise StoreClosed(f"{self._name} was closed meanwhile: open a new store")

    def _late(self) -> StoreTimeout:
        """All are in use."""
        return StoreTimeout(
            f"{self._name}: all {self._size} connections were in use until the time-out: repeating the call is safe; "
            "give the store more (?pool=...) if this is frequent"
        )


class _Waiter(Generic[L]):
    """A thread that waits for a connection, or for a place to open one (None)."""

    __slots__ = ("_gate", "granted", "line", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self._gate = threading.Lock()
        self._gate.acquire()
        self.granted = False
        self.line: L | None = None

    def grant(self, line: L | None) -> None:
        """Called once, by the thread that gives."""
        self.granted, self.line = True, line
        self._gate.release()

    def wait(self, seconds: float) -> None:
        """Until it is granted, or the time is up."""
        self._gate.acquire(timeout=max(0.0, seconds))


class Pool(_Places[L]):
    """For threads. ``connect`` is given the deadline.

    A signal handler may raise anywhere, even where a connection was just taken and nobody knows it yet. It dies then,
    with its place; so before anybody has to wait, the places are counted anew.
    """

    def __init__(self, size: int, name: str, connect: Callable[[float], L]) -> None:
        super().__init__(size, name)
        self._connect = connect
        self._lock = threading.Lock()
        self._waiters: deque[_Waiter[L]] = deque()
        self._lent: weakref.WeakSet[Place] = weakref.WeakSet()

    def take(self, deadline: float) -> L:
        """A connection, or ``StoreTimeout``."""
        place, waiter = Place(), None
        with self._lock:
            self._check()
            line = self.idle()
            if line is None and self._open >= self._size:
                self._open = len(self._idle) + len(self._lent)
            if line is not None:
                self._lent.add(place)
            elif self._open < self._size:
                self._lent.add(place)
                self._open += 1
            else:
                waiter = _Waiter[L](place)
                self._waiters.append(waiter)
        if waiter is not None:
            line = self._wait(waiter, deadline)
        if line is None:
            line = self._opened(place, deadline)
        line.place = place
        return line

    def _opened(self, place: Place, deadline: float) -> L:
        """A new connection."""
        try:
            return self._connect(deadline)
        except BaseException:
            self._free(place)
            raise

    def _wait(self, waiter: _Waiter[L], deadline: float) -> L | None:
        """What was granted."""
        try:
            waiter.wait(deadline - time.monotonic())
        except BaseException:
            if self._left(waiter):
                self._pass_on(waiter)
            raise
        if not self._left(waiter):
            raise self._late()
        return waiter.line

    def _left(self, waiter: _Waiter[L]) -> bool:
        """Whether it was granted something; if not, it never will be."""
        with self._lock:
            if not waiter.granted:
                self._waiters.remove(waiter)
            return waiter.granted

    def _pass_on(self, waiter: _Waiter[L]) -> None:
        """What was granted to somebody who was interrupted."""
        if waiter.line is None:
            self._free(waiter.place)
        else:
            waiter.line.place = waiter.place
            self.give(waiter.line)

    def _grant(self, line: L | None) -> bool:
        """To the first who waits. The caller holds the lock."""
        if not self._waiters:
            return False
        waiter = self._waiters.popleft()
        self._lent.add(waiter.place)
        waiter.grant(line)
        return True

    def give(self, line: L) -> None:
        """Back, and fit for use."""
        line.used = time.monotonic()
        with self._lock:
            if not self._closed:
                place, line.place = line.place, None
                self._forget(place)
                if not self._grant(line):
                    self._idle.append(line)
                return
        self.drop(line)

    def drop(self, line: L, *, all_idle: bool = False) -> None:
        """Not fit for use; perhaps the idle ones are not, either."""
        line.close()
        self._free(line.place)
        if all_idle:
            with self._lock:
                self._forget_idle()

    def _free(self, place: Place | None) -> None:
        """A place is free."""
        with self._lock:
            self._forget(place)
            if not self._grant(None):
                self._open -= 1

    def _forget(self, place: Place | None) -> None:
        """It is not in use any more. The caller holds the lock."""
        if place is not None:
            self._lent.discard(place)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed = True
            self._forget_idle()


class AsyncPool(_Places[L]):
    """For tasks of one event loop."""

    def __init__(self, size: int, name: str, connect: Callable[[float], Awaitable[L]]) -> None:
        super().__init__(size, name)
        self._connect = connect
        self._waiters: deque[asyncio.Future[L | None]] = deque()

    async def take(self, deadline: float) -> L:
        """A connection, or ``StoreTimeout``."""
        self._check()
        line = self.idle()
        if line is not None:
            return line
        if self._open < self._size:
            self._open += 1
        else:
            line = await self._wait(deadline)
            if line is not None:
                return line
        try:
            return await self._connect(deadline)
        except BaseException:
            self._free()
            raise

    async def _wait(self, deadline: float) -> L | None:
        """What was granted. A task that is cancelled in the moment of the grant passes it on."""
        waiter: asyncio.Future[L | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await waiter
        except TimeoutError:
            self._leave(waiter)
            raise self._late() from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def _leave(self, waiter: "asyncio.Future[L | None]") -> None:
        """Without what was granted."""
        if waiter.done() and not waiter.cancelled():
            line = waiter.result()
            if line is None:
                self._free()
            else:
                self.give(line)
        elif waiter in self._waiters:
            self._waiters.remove(waiter)

    def give(self, line: L) -> None:
        """Back, and fit for use."""
        line.used = time.monotonic()
        if self._closed:
            self.drop(line)
        elif not self._grant(line):
            self._idle.append(line)

    def _grant(self, line: L | None) -> bool:
        """To the first who still waits."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(line)
                return True
        return False

    def drop(self, line: L, *, all_idle: bool = False) -> None:
        """Not fit for use; perhaps the idle ones are not, either."""
        line.close()
        self._free()
        if all_idle:
            self._forget_idle()

    def _free(self) -> None:
        """A place is free."""
        if not self._grant(None):
            self._open -= 1

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self._closed = True
        self._forget_idle()
