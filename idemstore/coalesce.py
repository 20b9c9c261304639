"""Coalescing: while calls of an async store are on the wire, further ones queue up and leave as the next batch.

A driver around a driver. A call that finds little on the wire goes straight out through ``execute``, with nothing
added; the others queue up and leave together through ``execute_many``. When a batch lands, those whom its replies wake
have one turn of the event loop to come with their next calls before the next batch leaves; nobody ever waits for a
clock while the wire is free.

What holds: every call keeps its own deadline, its own error, and its own cancellation, since no caller carries the
batch: a task does, and each caller waits for a future of its own. Two calls on one key are never on the wire side by
side: the later one travels in the same batch where the family applies that in order, and waits for the next one where
it does not. A batch has as much time as the longest of its calls has left, so it never fails a call that has time.
"""

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from idemstore.aside import aside
from idemstore.errors import IdemstoreError, StoreClosed, StoreMisbehaved, StoreTimeout, StoreUnavailable
from idemstore.exchange import ALONE, Alone, AsyncDriver, AsyncWatch, Together
from idemstore.flows import copied

QUEUED: Final = 10_000
"""Calls that queue up at most. Further ones wait for room: first come, first served, within their time."""

PATIENCE: Final = 0.005
"""Seconds. Calls that have queued that long leave although as many batches as usual are on the wire: those are slow."""

MOST: Final = 8
"""Batches on the wire at most."""

SPLIT: Final = 8
"""Fewer calls are not divided among two batches."""

GRACE: Final = 0.05
"""Seconds by which the driver's own time-out, which says more, is given precedence for calls on the wire."""

Reply = object | IdemstoreError | Alone


class Coalescing(NamedTuple):
    """How the calls of a family travel together."""

    key: Callable[[Any], Hashable | None]
    """The key that a request is about; None: it always travels by itself."""
    default: bool = True
    """Whether to coalesce unless the URL says something else."""
    straight: int = 4
    """Calls that may be on the wire, each by itself, before further ones queue up."""
    width: int = 1
    """Batches that are on the wire at once."""
    size: int = 128
    """Calls of one batch at most."""
    ordered: bool = True
    """Whether a batch applies the calls of one key in the order in which they are given."""


class Call:
    """One call that queues up, or is on the wire with others."""

    __slots__ = ("deadline", "future", "key", "request")

    def __init__(self, request: object, key: Hashable, deadline: float, future: "asyncio.Future[object]") -> None:
        self.request, self.key, self.deadline, self.future = request, key, deadline, future

    def fail(self, error: BaseException) -> None:
        """Tell the caller, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Coalescer:
    """The driver that a store calls, around the driver that carries."""

    def __init__(self, driver: AsyncDriver[object, object], how: Coalescing) -> None:
        self.driver, self._how = driver, how
        self._carry = driver.execute_together if isinstance(driver, Together) else driver.execute_many
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()
        """What the loop calls here runs in it: one call leads to the next, and must not keep what a caller carries."""
        self._queue: deque[Call] = deque()
        self._lobby: deque[Call] = deque()
        """Those for whom the queue has no room."""
        self._parked: dict[Hashable, deque[Call]] = {}
        """Those of the queue whose key is on the wire."""
        self._waiting = 0
        """In the queue or parked."""
        self._wire: set[Hashable] = set()
        """The keys of everything that is on the wire."""
        self._sent: dict[asyncio.Task[Any], Sequence[Call]] = {}
        self._straight = self._batches = self._aboard = 0
        """On the wire: calls by themselves, batches, and the calls in those."""
        self._leaving = False
        """Whether the next turn of the loop sees to the queue."""
        self._impatience: asyncio.TimerHandle | None = None
        self._head: Call | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._closed = False

    async def execute(self, request: object, timeout: float) -> object:
        """Carry one call: by itself if little is on the wire, otherwise with others."""
        key = self._how.key(request)
        if key is None:
            return await self.driver.execute(request, timeout)
        if self._batches or self._leaving or self._queue or self._straight >= self._how.straight or key in self._wire:
            return await self._enqueue(request, key, timeout)
        self._straight += 1
        self._wire.add(key)
        try:
            return await self.driver.execute(request, timeout)
        finally:
            self._straight -= 1
            self._wire.discard(key)
            if self._waiting:
                self._release((key,))
                self._consider()

    async def execute_many(self, requests: Sequence[object], timeout: float) -> Sequence[object | IdemstoreError]:
        """A batch of one caller goes straight out. It is in no order with calls that are under way meanwhile."""
        return await self.driver.execute_many(requests, timeout)

    def watch(self, key: str) -> AsyncWatch:
        """The driver's own."""
        return self.driver.watch(key)

    async def close(self) -> None:
        """Refuse what queues up, close the driver. What is on the wire lands by itself, unless nobody waits for it."""
        self._closed = True
        for timer in (self._impatience, self._alarm):
            if timer is not None:
                timer.cancel()
        for call in self._queued():
            call.fail(StoreClosed("the store was closed while the call waited for its turn: open a new store"))
        self._queue.clear()
        self._lobby.clear()
        self._parked.clear()
        self._waiting = 0
        await self.driver.close()
        deserted = [task for task, calls in self._sent.items() if all(call.future.done() for call in calls)]
        for task in deserted:
            task.cancel()
        if deserted:
            await asyncio.wait(deserted)

    # -- the queue ----------------------------------------------------------------------------------------------------

    def _enqueue(self, request: object, key: Hashable, timeout: float) -> "asyncio.Future[object]":
        """Queue up; whoever is cancelled cancels the future with it, and so leaves."""
        if self._closed:
            raise StoreClosed("the store was closed while the call was under way: open a new store")
        deadline = time.monotonic() + timeout
        future: asyncio.Future[object] = self._loop.create_future()
        call = Call(request, key, deadline, future)
        if self._waiting < QUEUED and not self._lobby:
            self._waiting += 1
            self._queue.append(call)
        else:
            self._lobby.append(call)
        if deadline < self._due:
            self._set_alarm(deadline)
        if not self._leaving:
            self._consider()
        return future

    def _consider(self) -> None:
        """Let what queues up leave at the next turn of the loop, if it may; otherwise see after a while."""
        if self._leaving:
            return
        if self._may_leave():
            self._leaving = True
            self._loop.call_soon(self._leave, context=self._context)
        elif self._queue and self._impatience is None:
            self._impatience = self._loop.call_later(PATIENCE, self._lose_patience, context=self._context)

    def _may_leave(self) -> bool:
        """Whether the wire is free for a batch. Beside other batches only for one that is no mere crumb of them."""
        queued = len(self._queue)
        flights = self._flights()
        if not queued or flights >= self._how.width:
            return bool(queued) and not flights
        flying = self._straight + self._aboard
        return not flights or queued * (self._how.width + 1) >= flying + queued

    def _flights(self) -> int:
        """Batches on the wire; all calls that travel by themselves count as one."""
        return self._batches + (self._straight > 0)

    def _leave(self) -> None:
        """Send what queues up, divided among the batches that may be on the wire."""
        self._leaving = False
        while self._may_leave():
            share = math.ceil(len(self._queue) / max(1, self._how.width - self._flights()))
            if not self._send(min(max(share, SPLIT), self._how.size)):
                break
        self._consider()

    def _lose_patience(self) -> None:
        """The batches on the wire are slow, or stuck: go on beside them, once the oldest call has waited enough."""
        self._impatience = None
        if self._queue and self._queue[0] is self._head and self._batches < MOST:
            self._send(self._how.size)
        self._head = self._queue[0] if self._queue else None
        self._consider()

    def _take(self, count: int) -> list[Call]:
        """The next calls, at most ``count``. Those whose key is on the wire are parked until it has landed."""
        queue, wire, ordered, calls = self._queue, self._wire, self._how.ordered, list[Call]()
        while queue and len(calls) < count:
            call = queue.popleft()
            if call.future.done():
                self._waiting -= 1
            elif call.key in wire:
                self._parked.setdefault(call.key, deque()).append(call)
            else:
                calls.append(call)
                if not ordered:
                    wire.add(call.key)
        wire.update([call.key for call in calls])
        self._waiting -= len(calls)
        self._admit()
        return calls

    def _admit(self) -> None:
        """Let in whoever waits for room."""
        while self._lobby and self._waiting < QUEUED:
            self._waiting += 1
            self._queue.append(self._lobby.popleft())

    def _release(self, keys: Iterable[Hashable]) -> None:
        """These keys have landed: back to the front of the queue, since all others of the key are behind."""
        for key in keys:
            parked = self._parked.pop(key, None)
            if parked is not None:
                self._queue.extendleft(reversed(parked))

    # -- the wire -----------------------------------------------------------------------------------------------------

    def _send(self, count: int) -> bool:
        """Send a batch of at most so many; False where there is none to send."""
        calls = self._take(count)
        if not calls:
            return False
        self._batches += 1
        self._aboard += len(calls)
        left = self._left(max([call.deadline for call in calls]))
        self._start(self._carry([call.request for call in calls], left), calls, self._landed)
        return True

    def _start(
        self,
        carrying: Coroutine[Any, Any, Any],
        calls: Sequence[Call],
        landed: "Callable[[asyncio.Task[Any]], None]",
    ) -> None:
        """In a task of its own, which carries no caller's context and is cancelled with none of them."""
        task = aside(self._loop, carrying, "idemstore-batch")
        self._sent[task] = calls
        task.add_done_callback(landed, context=self._context)

    def _landed(self, task: "asyncio.Task[Sequence[Reply]]") -> None:
        """Hand out the replies; what is to travel alone goes out again."""
        calls = self._sent.pop(task)
        self._batches -= 1
        self._aboard -= len(calls)
        self._wire.difference_update([call.key for call in calls])
        lonely = self._settle(calls, _replies(task, len(calls)))
        if lonely:
            self._send_alone(lonely)
        if self._parked:
            self._release({call.key for call in calls} - self._wire)
        if not self._leaving:
            self._leaving = True
            # behind those whom the replies wake
            self._loop.call_soon(self._leave, context=self._context)

    def _settle(self, calls: Sequence[Call], replies: Iterable[Reply]) -> list[Call]:
        """Tell every caller that still waits; who must travel alone."""
        lonely: list[Call] = []
        given: set[int] = set()
        for call, reply in zip(calls, replies, strict=True):
            future = call.future
            if future.done():
                continue
            if reply is ALONE:
                lonely.append(call)
            elif isinstance(reply, BaseException):
                future.set_exception(_own(reply, given))
            else:
                future.set_result(reply)
        return lonely

    def _send_alone(self, calls: Iterable[Call]) -> None:
        """One task for each. Of those on one key the first goes; the others stand before all that are parked."""
        behind: list[Call] = []
        for call in calls:
            if call.key in self._wire:
                behind.append(call)
                continue
            self._wire.add(call.key)
            self._start(self.driver.execute(call.request, self._left(call.deadline)), (call,), self._alone_landed)
        for call in reversed(behind):
            self._waiting += 1
            self._parked.setdefault(call.key, deque()).appendleft(call)

    def _alone_landed(self, task: "asyncio.Task[object]") -> None:
        """As ``_landed``, for one call."""
        (call,) = self._sent.pop(task)
        self._settle((call,), _outcome(task))
        self._wire.discard(call.key)
        self._release((call.key,))
        self._consider()

    # -- deadlines ----------------------------------------------------------------------------------------------------

    def _left(self, deadline: float) -> float:
        """What the driver is given, in whole milliseconds: it may say so to people."""
        return max(1, math.ceil((deadline - time.monotonic()) * 1000)) / 1000

    def _queued(self) -> Iterator[Call]:
        """All who are not on the wire."""
        return chain(self._queue, *self._parked.values(), self._lobby)

    def _set_alarm(self, deadline: float) -> None:
        """One timer for all deadlines: rings at the first of them."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._due = deadline
        left = max(0.0, deadline - time.monotonic())
        self._alarm = self._loop.call_later(left, self._ring, context=self._context)

    def _ring(self) -> None:
        """Tell those whose time is up; set the timer for the next one."""
        self._alarm, now = None, time.monotonic()
        full = bool(self._lobby)
        soonest = self._expire(self._queued(), now, lambda: _no_turn(full))
        flying = self._expire(chain.from_iterable(self._sent.values()), now - GRACE, _no_reply) + GRACE
        self._due = math.inf
        if min(soonest, flying) < math.inf:
            self._set_alarm(min(soonest, flying))
        gone = sum(call.future.done() for call in self._queue)
        self._queue = deque(call for call in self._queue if not call.future.done())
        self._waiting -= gone
        self._admit()

    def _expire(self, calls: Iterable[Call], now: float, error: Callable[[], StoreTimeout]) -> float:
        """Tell those whose deadline has passed; the first deadline of the others."""
        soonest = math.inf
        for call in calls:
            if call.deadline <= now:
                call.fail(error())
            elif not call.future.done():
                soonest = min(soonest, call.deadline)
        return soonest


def _replies(task: "asyncio.Task[Sequence[Reply]]", count: int) -> Sequence[Reply]:
    """One reply for each call of a batch; what befell the batch befell each of them."""
    if task.cancelled():
        return [_ended()] * count
    error = task.exception()
    if error is not None:
        return [error] * count
    replies = task.result()
    if len(replies) != count:
        return [StoreMisbehaved(f"a driver brought {len(replies)} replies to {count} calls: report this")] * count
    return replies


def _outcome(task: "asyncio.Task[object]") -> tuple[object]:
    """The reply of a call that travelled alone."""
    if task.cancelled():
        return (_ended(),)
    error = task.exception()
    return (task.result() if error is None else error,)


def _own(error: BaseException, given: set[int]) -> BaseException:
    """An error for one call: each has its own, since the store adds the key."""
    if not isinstance(error, IdemstoreError) or id(error) not in given:
        given.add(id(error))
        return error
    return copied(error)


def _ended() -> StoreUnavailable:
    """Somebody cancels all tasks of the loop."""
    return StoreUnavailable("the call was given up because its event loop ends: repeating it is safe")


def _no_turn(full: bool) -> StoreTimeout:
    """The time of a call was up before it left."""
    why = f", more than {QUEUED} of them" if full else ""
    return StoreTimeout(f"the time was up before the call left: too many calls wait{why}, or the server is stuck")


def _no_reply() -> StoreTimeout:
    """The time of a call was up before its batch landed."""
    return StoreTimeout("the time was up before the reply came: whether the call was applied is not known; repeat it")
