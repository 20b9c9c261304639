"""The heartbeat: renews the leases of running operations, one thread or one task for each store.

A lease is renewed when a third of it is over, a little earlier by chance, so that many do not beat together; what is
due travels in one batch. A renewal that fails is not a loss: it is tried again until the lease would be over. A loss is
reported to the lease's owner, once. Threads are daemons and tasks die with their loop: a heartbeat never keeps a
process alive, and a child of ``fork()`` starts with none.
"""

import asyncio
import contextlib
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from idemstore.async_store import AsyncStore
from idemstore.errors import IdemstoreError
from idemstore.keys import KeyLike
from idemstore.outcomes import LeaseLost, SettleOutcome
from idemstore.store import Renewal, Store

INTERVAL: Final = 1 / 3
"""A lease is renewed after this part of it."""
EARLY: Final = 0.2
"""A beat comes up to a fifth of its interval early, by chance."""
AGAIN: Final = 0.1
"""A failed renewal is tried again after a tenth of the lease, at most a second."""
LOOK: Final = 1 / 6
SHORTEST_SLEEP: Final = 0.02
"""A heartbeat looks at all its leases this often, in parts of the shortest lease it has seen, and at least this many
seconds apart: so a lease that begins and ends between two looks never wakes anybody.
"""
IDLE_LOOKS: Final = 12
"""A heartbeat without leases ends after this many looks."""


class Beat:
    """One lease that is kept alive. ``until`` is when it ends unless renewed (``time.monotonic`` of this process)."""

    __slots__ = ("_on_loss", "due", "key", "lease", "live", "lost", "token", "until")

    def __init__(self, key: KeyLike, token: str, lease: float, claimed_at: float, on_loss: Callable[[], None]) -> None:
        self.key, self.token, self.lease = key, token, lease
        self.until = claimed_at + lease
        self.due = self._next(claimed_at)
        self.live, self.lost = True, False
        self._on_loss = on_loss

    def _next(self, now: float) -> float:
        """When to renew a lease that was counted from ``now``."""
        return now + self.lease * INTERVAL * (1 - EARLY * random.random())  # noqa: S311 - jitter, not a secret

    def stop(self) -> None:
        """No more renewals."""
        self.live = False

    def took(self, sent: float, answer: SettleOutcome | IdemstoreError) -> None:
        """Note what a renewal that was sent at ``sent`` came to."""
        if not self.live:
            return
        if isinstance(answer, LeaseLost):
            self._lose()
        elif isinstance(answer, IdemstoreError):
            now = time.monotonic()
            if now >= self.until:
                self._lose()
            else:
                self.due = min(now + min(self.lease * AGAIN, 1.0), self.until)
        else:
            self.until = sent + self.lease
            self.due = self._next(sent)

    def _lose(self) -> None:
        """Report the loss, once."""
        self.live, self.lost = False, True
        self._on_loss()


class _Beats:
    """The leases that a heartbeat keeps, and when it must look at them next."""

    def __init__(self) -> None:
        self._beats: dict[int, Beat] = {}
        self._shortest = 60.0
        self._wake_at = 0.0

    def add(self, beat: Beat) -> bool:
        """Keep a lease; True where the heartbeat must be woken for it."""
        self._beats[id(beat)] = beat
        if beat.lease < self._shortest:
            self._shortest = beat.lease
        return beat.due < self._wake_at

    def drop(self, beat: Beat) -> None:
        """Keep it no longer."""
        beat.live = False
        self._beats.pop(id(beat), None)

    def due(self) -> list[Beat]:
        """What is due."""
        now = time.monotonic()
        return [beat for beat in list(self._beats.values()) if beat.due <= now]

    def sleep(self) -> float:
        """Seconds until the next look."""
        now = time.monotonic()
        seconds = max(self._shortest * LOOK, SHORTEST_SLEEP)
        for beat in list(self._beats.values()):
            seconds = min(seconds, max(beat.due - now, SHORTEST_SLEEP))
        self._wake_at = now + seconds
        return seconds

    def took(self, beats: Sequence[Beat], sent: float, answers: Sequence[SettleOutcome | IdemstoreError]) -> None:
        """Note what a batch of renewals came to."""
        for beat, answer in zip(beats, answers, strict=True):
            beat.took(sent, answer)
            if not beat.live:
                self.drop(beat)

    def __bool__(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._beats)


def _renewals(beats: Iterable[Beat]) -> list[Renewal]:
    """The batch to send."""
    return [Renewal(beat.key, beat.token, beat.lease) for beat in beats]


class Keepalive:
    """The heartbeat of a sync store: a daemon thread that runs while there are leases to keep."""

    def __init__(self, store: Store) -> None:
        self._store = weakref.ref(store)
        self._beats = _Beats()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, beat: Beat) -> None:
        """Keep a lease."""
        with self._changed:
            if self._beats.add(beat):
                self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="idemstore-keepalive", daemon=True)
                self._thread.start()

    def drop(self, beat: Beat) -> None:
        """Keep it no longer."""
        self._beats.drop(beat)

    def _run(self) -> None:
        """Look, renew, sleep; end when idle or when the store is gone."""
        idle = 0
        while True:
            with self._changed:
                self._changed.wait(self._beats.sleep())
                idle = 0 if self._beats else idle + 1
                if idle > IDLE_LOOKS:
                    self._thread = None
                    return
            store = self._store()
            if store is None:
                return
            self._beat(store)
            del store

    def _beat(self, store: Store) -> None:
        """Renew what is due."""
        due = self._beats.due()
        if due:
            sent = time.monotonic()
            try:
                answers: Sequence[SettleOutcome | IdemstoreError] = store.renew_many(_renewals(due))
            except IdemstoreError as error:
                answers = [error] * len(due)
            self._beats.took(due, sent, answers)


class AsyncKeepalive:
    """The heartbeat of an async store: a task on the store's loop that runs while there are leases to keep."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = weakref.ref(store)
        self._beats = _Beats()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, beat: Beat) -> None:
        """Keep a lease."""
        if self._beats.add(beat):
            self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="idemstore-keepalive")

    def drop(self, beat: Beat) -> None:
        """Keep it no longer."""
        self._beats.drop(beat)

    async def _run(self) -> None:
        """Look, renew, sleep; end when idle or when the store is gone."""
        idle = 0
        while idle <= IDLE_LOOKS:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beats.sleep()):
                    await self._changed.wait()
            store = self._store()
            if store is None:
                return
            await self._beat(store)
            del store
            idle = 0 if self._beats else idle + 1  # no await between this and the end: no lease is missed

    async def _beat(self, store: AsyncStore) -> None:
        """Renew what is due."""
        due = self._beats.due()
        if due:
            sent = time.monotonic()
            try:
                answers: Sequence[SettleOutcome | IdemstoreError] = await store.renew_many(_renewals(due))
            except IdemstoreError as error:
                answers = [error] * len(due)
            self._beats.took(due, sent, answers)


_sync: "weakref.WeakKeyDictionary[Store, Keepalive]" = weakref.WeakKeyDictionary()
_async: "weakref.WeakKeyDictionary[AsyncStore, AsyncKeepalive]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def keepalive(store: Store) -> Keepalive:
    """The heartbeat of a store; one for all guards on it."""
    with _lock:
        found = _sync.get(store)
        if found is None:
            found = _sync[store] = Keepalive(store)
        return found


def async_keepalive(store: AsyncStore) -> AsyncKeepalive:
    """The heartbeat of an async store; one for all guards on it."""
    found = _async.get(store)
    if found is None:
        found = _async[store] = AsyncKeepalive(store)
    return found


def _after_fork() -> None:
    """In a child process: the leases are the parent's, and its thread is not here."""
    global _lock
    _lock = threading.Lock()
    _sync.clear()
    _async.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
