"""Memory: the state machine itself behind one lock, for tests, single-process services, and as the model of the others.

``memory://`` is private to the store; ``memory://name`` is shared by every store of that name in the process, sync or
async. Records die with the process, and a child of ``fork()`` goes on with a copy. Every call is constant time: each
looks at no more than a few expired records, which is also how all of them are collected in the end.
"""

import asyncio
import contextlib
import heapq
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from idemstore.async_store import AsyncStore
from idemstore.errors import IdemstoreError, InvalidUrl, StoreFull, StoreUnavailable
from idemstore.exchange import Exchange, Limits, Snapshot, make_exchange
from idemstore.machine import Claim, Complete, Event, Fail, Record, Release, Renew, step
from idemstore.outcomes import ClaimOutcome, SettleOutcome
from idemstore.store import Store
from idemstore.url import Options, StoreUrl, read_options

T = TypeVar("T")

COLLECTED_PER_CALL: Final = 2
SECOND: Final = 20
"""Records are filed by the "second" they end in: 2^20 microseconds, so filing is a shift."""
NEVER: Final = 1 << 63
_ORIGIN: Final = (time.time_ns() - time.monotonic_ns()) // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions(Options):
    """Options of ``memory://``."""

    max_records: int | None = field(default=None, metadata={"min": 1, "max": 10**9})
    """Refuse new keys (``StoreFull``) while this many records are kept; live records are never evicted."""
    max_result: int = field(default=64 * 2**20, metadata={"min": 1, "max": 2**30})
    """Largest result or checkpoint, bytes."""


class Engine:
    """The records, their clock and their lock: what a server is to the other families."""

    def __init__(self, max_records: int | None = None) -> None:
        self.records: dict[str, Record] = {}
        self.max_records = max_records
        self.lock = threading.RLock()
        self._busy = False
        self._now = 0
        self._ends: dict[int, set[str]] = {}
        self._seconds: list[int] = []
        self._due = NEVER
        self._watchers: dict[str, set[Callable[[], None]]] = {}
        with _naming:  # no fork meanwhile: it goes through all of them
            _engines.add(self)

    def clock(self) -> int:
        """Microseconds since the epoch; never stands still and never goes back, so fences grow."""
        now = time.monotonic_ns() // 1000 + _ORIGIN
        if now <= self._now:
            now = self._now + 1
        self._now = now
        return now

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """One step of the machine."""
        with self.lock:
            if self._busy:
                raise nested()
            try:
                self._busy = True
                now = self.clock()
                if now >= self._due:
                    self._collect(now, COLLECTED_PER_CALL)
                before = self.records.get(key)
                if before is None and self.max_records is not None and isinstance(event, Claim):
                    self._make_room(now, self.max_records)
                after, outcome = step(before, event, now)
                if after is not before:
                    self._replace(key, before, after)
                return outcome
            finally:
                self._busy = False

    def carry(self, request: "Request") -> object:
        """Do what a request says."""
        if isinstance(request, tuple):
            key, event = request
            return self.apply(key, event)
        return request(self)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The lock, for what is not ``apply``."""
        with self.lock:
            if self._busy:
                raise nested()
            try:
                self._busy = True
                yield
            finally:
                self._busy = False

    def put(self, key: str, record: Record | None) -> None:
        """Store or delete a record. The lock is held."""
        self._replace(key, self.records.get(key), record)

    def _replace(self, key: str, before: Record | None, record: Record | None) -> None:
        """Store or delete a record, file its end, wake its waiters. Every record that ends is in the set of the second
        it ends in, and in no other.
        """
        ended = None if before is None else before.expires_at
        if ended is not None:
            self._ends[ended >> SECOND].discard(key)
        if record is None:
            self.records.pop(key, None)
        else:
            self.records[key] = record
            ends = record.expires_at
            if ends is not None:
                second = ends >> SECOND
                try:
                    self._ends[second].add(key)
                except KeyError:
                    self._open(second).add(key)
        if key in self._watchers and _concerns_waiters(before, record):
            for wake in tuple(self._watchers[key]):
                wake()

    def _open(self, second: int) -> set[str]:
        """The set of a second in which nothing has ended so far."""
        if len(self._ends) > 2 * len(self.records) + 1000:
            self._prune()
        ending = self._ends[second] = set()
        heapq.heappush(self._seconds, second)
        self._set_due()
        return ending

    def _set_due(self) -> None:
        """When the first second is over in which a record ends."""
        self._due = (self._seconds[0] + 1) << SECOND if self._seconds else NEVER

    def _prune(self) -> None:
        """Forget the seconds in which nothing ends any more: its records were released, or renewed."""
        self._ends = {second: ending for second, ending in self._ends.items() if ending}
        self._seconds = sorted(self._ends)  # which is a heap
        self._set_due()

    def _collect(self, now: int, limit: int) -> int:
        """Delete up to ``limit`` records of seconds that are over."""
        deleted = 0
        while self._seconds and self._seconds[0] < now >> SECOND:
            ending = self._ends[self._seconds[0]]
            while ending and deleted < limit:
                del self.records[ending.pop()]
                deleted += 1
            if ending:
                break
            del self._ends[heapq.heappop(self._seconds)]
        self._set_due()
        return deleted

    def _make_room(self, now: int, limit: int) -> None:
        """Refuse a new record where there is no room, after looking for expired ones."""
        if len(self.records) >= limit and not self._purge(now, 1000):
            raise StoreFull(f"the memory store holds its {limit} records (max_records): try again when some expire")

    def _purge(self, now: int, limit: int) -> int:
        """As ``_collect``, and the records that ended within the current second."""
        deleted = self._collect(now, limit)
        current = self._ends.get(now >> SECOND, set())
        over = [key for key in current if (self.records[key].expires_at or now) <= now]
        for key in over[: limit - deleted]:
            self.put(key, None)
            deleted += 1
        return deleted

    def get(self, key: str) -> Snapshot | None:
        """A record that is not absent."""
        with self.alone():
            now = self.clock()
            record = self.records.get(key)
            if record is None or (record.expires_at is not None and record.expires_at <= now):
                return None
            return Snapshot(record, now)

    def forget(self, key: str) -> bool:
        """Delete a record."""
        with self.alone():
            found = key in self.records
            self.put(key, None)
            return found

    def purge(self, limit: int) -> int:
        """Delete up to ``limit`` expired records."""
        with self.alone():
            return self._purge(self.clock(), limit)

    def ping(self) -> int:
        """The clock."""
        with self.alone():
            return self.clock()

    def watch(self, key: str, wake: Callable[[], None]) -> None:
        """Call ``wake`` (which must be quick and must not raise) whenever the record changes."""
        with self.alone():
            self._watchers.setdefault(key, set()).add(wake)

    def unwatch(self, key: str, wake: Callable[[], None]) -> None:
        """End a watch."""
        with self.alone():
            watchers = self._watchers.get(key, set())
            watchers.discard(wake)
            if not watchers:
                self._watchers.pop(key, None)

    def after_fork(self) -> None:
        """In a child: the waiters are the parent's."""
        self._watchers = {}
        self.lock.release()


def nested() -> StoreUnavailable:
    """The error of a call that a signal handler or a finalizer makes in the middle of another call of its own thread:
    to wait for that one would be for ever.
    """
    return StoreUnavailable(
        "the memory store was called by a signal handler or finalizer in the middle of another call of the same "
        "thread: let the handler set a flag, and make the call outside of it"
    )


def _concerns_waiters(before: Record | None, after: Record | None) -> bool:
    """Whether a change makes a waiter's next claim worth its while. A heartbeat does not: with many waiters on one key,
    each would cost as many claims.
    """
    if before is None or before.lease_until is None or after is None or after.lease_until is None:
        return True
    return after.lease_until < before.lease_until


_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_named: "weakref.WeakValueDictionary[str, Engine]" = weakref.WeakValueDictionary()
_naming: Final = threading.RLock()
_forking: list[Engine] = []

Request = tuple[str, Event] | Callable[[Engine], object]
"""A step of the machine, by far the most frequent; or anything else that an engine does."""


class MemoryDialect:
    """Operations as calls of the engine."""

    def __init__(self, value_bytes: int) -> None:
        self.limits = Limits(key_bytes=65536, value_bytes=value_bytes)

    def claim(self, key: str, event: Claim) -> Exchange[Request, object, ClaimOutcome]:
        """A step."""
        return make_exchange(((key, event), _CLAIMED))

    def complete(self, key: str, event: Complete) -> Exchange[Request, object, SettleOutcome]:
        """A step."""
        return make_exchange(((key, event), _SETTLED))

    def fail(self, key: str, event: Fail) -> Exchange[Request, object, SettleOutcome]:
        """A step."""
        return make_exchange(((key, event), _SETTLED))

    def renew(self, key: str, event: Renew) -> Exchange[Request, object, SettleOutcome]:
        """A step."""
        return make_exchange(((key, event), _SETTLED))

    def release(self, key: str, event: Release) -> Exchange[Request, object, SettleOutcome]:
        """A step."""
        return make_exchange(((key, event), _SETTLED))

    def get(self, key: str) -> Exchange[Request, object, Snapshot | None]:
        """A look."""
        return Exchange(lambda engine: engine.get(key), lambda reply: cast("Snapshot | None", reply))

    def forget(self, key: str) -> Exchange[Request, object, bool]:
        """A deletion."""
        return Exchange(lambda engine: engine.forget(key), lambda reply: cast("bool", reply))

    def purge(self, limit: int) -> Exchange[Request, object, int]:
        """A collection on request."""
        return Exchange(lambda engine: engine.purge(limit), lambda reply: cast("int", reply))

    def ping(self) -> Exchange[Request, object, int]:
        """The clock."""
        return Exchange(lambda engine: engine.ping(), lambda reply: cast("int", reply))

    def migrate(self) -> Exchange[Request, object, None]:
        """Nothing to prepare."""
        return Exchange(lambda engine: engine.ping(), lambda reply: None)


def _same(reply: object) -> object:
    """The reply is the answer."""
    return reply


_CLAIMED: Final = cast("Callable[[object], ClaimOutcome]", _same)
_SETTLED: Final = cast("Callable[[object], SettleOutcome]", _same)


class MemoryWatch:
    """A waiter in a thread."""

    def __init__(self, engine: Engine, key: str) -> None:
        self._engine, self._key, self._changed = engine, key, threading.Event()
        engine.watch(key, self._changed.set)

    def wait(self, poll: float, limit: float) -> None:
        """Until the key changes; changes while the caller was asking count."""
        self._changed.wait(limit)
        self._changed.clear()

    def close(self) -> None:
        """End the watch."""
        self._engine.unwatch(self._key, self._changed.set)


class AsyncMemoryWatch:
    """A waiter in a task."""

    def __init__(self, engine: Engine, key: str) -> None:
        self._engine, self._key = engine, key
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        engine.watch(key, self._wake)

    def _wake(self) -> None:
        """Called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    async def wait(self, poll: float, limit: float) -> None:
        """As ``MemoryWatch.wait``."""
        try:
            async with asyncio.timeout(limit):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    def close(self) -> None:
        """End the watch."""
        self._engine.unwatch(self._key, self._wake)


class MemoryDriver:
    """Sync: the engine is called in the caller's thread; nothing ever blocks for long, so ``timeout`` never bites."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def execute(self, request: Request, timeout: float) -> object:
        """Call the engine."""
        return self.engine.carry(request)

    def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[object | IdemstoreError]:
        """Call the engine for each."""
        return [_call(self.engine, request) for request in requests]

    def watch(self, key: str) -> MemoryWatch:
        """Wakes at once."""
        return MemoryWatch(self.engine, key)

    def close(self) -> None:
        """Nothing to close; a named engine lives while a store has it open."""


class AsyncMemoryDriver:
    """Async: no call waits for anything but the lock, which is held for microseconds."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def execute(self, request: Request, timeout: float) -> object:
        """Call the engine."""
        return self.engine.carry(request)

    async def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[object | IdemstoreError]:
        """Call the engine for each."""
        return [_call(self.engine, request) for request in requests]

    def watch(self, key: str) -> AsyncMemoryWatch:
        """Wakes at once."""
        return AsyncMemoryWatch(self.engine, key)

    async def close(self) -> None:
        """As ``MemoryDriver.close``."""


def _call(engine: Engine, request: Request) -> object | IdemstoreError:
    """One request of a batch; its error stays its own."""
    try:
        return engine.carry(request)
    except IdemstoreError as error:
        return error


class MemoryBackend:
    """Serves ``memory://`` and ``memory://name``."""

    def open(self, url: StoreUrl) -> Store:
        """A sync store."""
        options, engine = self._read(url)
        return Store(
            MemoryDialect(options.max_result), lambda: MemoryDriver(engine), timeout=options.timeout, name=str(url)
        )

    def open_async(self, url: StoreUrl) -> AsyncStore:
        """An async store."""
        options, engine = self._read(url)
        return AsyncStore(
            MemoryDialect(options.max_result), lambda: AsyncMemoryDriver(engine), timeout=options.timeout, name=str(url)
        )

    def _read(self, url: StoreUrl) -> tuple[MemoryOptions, Engine]:
        """Options and engine. The first to open a name sets its bound; another bound is refused."""
        options = read_options(url, MemoryOptions)
        if url.path.strip("/") or len(url.hosts) > 1 or (url.hosts and url.hosts[0].port) or url.username is not None:
            raise InvalidUrl("memory:// takes a name and nothing else: memory:// (private) or memory://name (shared)")
        if not url.hosts:
            return options, Engine(options.max_records)
        with _naming:
            engine = _named.get(url.hosts[0].name)
            if engine is None:
                engine = _named[url.hosts[0].name] = Engine(options.max_records)
            elif options.max_records is not None and engine.max_records != options.max_records:
                raise InvalidUrl(f"{url} is open with max_records={engine.max_records}: open it with the same bound")
        return options, engine


def _before_fork() -> None:
    """No fork in the middle of a step: the child's copy is whole."""
    _naming.acquire()
    _forking.extend(_engines)
    for engine in _forking:
        engine.lock.acquire()


def _after_fork_in_parent() -> None:
    """Go on."""
    for engine in _forking:
        engine.lock.release()
    _forking.clear()
    _naming.release()


def _after_fork_in_child() -> None:
    """Go on with the copy."""
    for engine in _forking:
        engine.after_fork()
    _forking.clear()
    _naming.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

backend: Final = MemoryBackend()
