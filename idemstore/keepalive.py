"""The heartbeat: renews the leases of running operations, one thread (here) or one task (``async_keepalive``) a store.

A lease is renewed when about a third of it is over, a little earlier by chance, so that many do not beat together;
what is due travels in batches. A renewal that fails is not a loss: it is tried again until the lease would be over.
Then, or as soon as the store says that somebody else owns the key, the loss is reported to the lease's owner, once.

A heartbeat keeps nothing alive: the thread is a daemon and ends when it is idle, the store and every lease are held by
weak references, and a child of ``fork()`` starts without leases and makes a thread of its own when it needs one.
"""

import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from random import random
from time import monotonic
from typing import Final
from weakref import ref

from idemstore.errors import IdemstoreError, StoreClosed, StoreMisbehaved
from idemstore.face import MAX_BATCH, Face, Renewal
from idemstore.keys import KeyLike, encode_key, redact
from idemstore.outcomes import LeaseLost, SettleOutcome
from idemstore.store import Store

log: Final = logging.getLogger("idemstore.guard")

INTERVAL: Final = 1 / 3
"""A lease is renewed after this part of it,"""
EARLY: Final = 0.2
"""by chance up to this part of that interval early. A renewal may take as long as the interval."""
SOONEST: Final = INTERVAL * (1 - EARLY)
SPREAD: Final = INTERVAL * EARLY
AGAIN: Final = 0.1
LONGEST_AGAIN: Final = 1.0
"""A failed renewal is tried again after a tenth of the lease, at most a second."""
SELDOM: Final = 1 / 6
OFTEN: Final = 1 / 60
SHORTEST_SLEEP: Final = 0.005
"""A heartbeat looks at its leases every sixtieth to every sixth part of the shortest lease that it knows. A lease that
begins between two looks is due only after the second, so beginning one (every guarded call does) wakes nobody.
"""
LONGEST_LEASE: Final = 60.0
"""For these looks a longer lease counts as one of so many seconds."""
FORGETS: Final = 1.25
"""With each look the shortest lease, if it is no longer there, counts less: a short-lived one is forgotten slowly."""
IDLE_LOOKS: Final = 12
"""A heartbeat without leases ends after so many looks: about two leases."""
CLOSED: Final = "the store was closed"


class Beat:
    """One lease that is kept alive. ``until`` is when it ends unless renewed (``time.monotonic`` of this process)."""

    __slots__ = ("__weakref__", "due", "key", "lease", "live", "lost", "on_loss", "token", "until")

    def __init__(self, key: KeyLike, token: str, lease: float) -> None:
        """The lease was granted just now."""
        self.key, self.token, self.lease = key, token, lease
        self.live, self.lost = True, False
        self.on_loss: Callable[[], None] | None = None
        """Called by the heartbeat where the lease is lost, once; it must be quick."""
        now = monotonic()
        self.until = now + lease
        self.due = now + lease * (SOONEST + SPREAD * random())  # noqa: S311 - jitter, not a secret

    def renewed(self, sent: float) -> None:
        """The store has counted the lease anew, at ``sent`` or later."""
        self.until = sent + self.lease
        self.due = sent + self.lease * (SOONEST + SPREAD * random())  # noqa: S311 - jitter, not a secret

    def failed(self, error: IdemstoreError) -> None:
        """A renewal did not get through: no loss before the lease is over. And even then the store may find, when it
        answers again, that nobody has taken over; so renewals go on.
        """
        now = monotonic()
        self.due = now + min(self.lease * AGAIN, LONGEST_AGAIN)
        if now >= self.until:
            self.lose(f"it could not be renewed in time ({error})")

    def taken(self) -> None:
        """The store says that somebody else owns the key, or that it was settled: there is nothing more to renew."""
        self.live = False
        self.lose("it was taken over or settled elsewhere")

    def lose(self, why: str) -> None:
        """Report the loss, once."""
        if not self.lost:
            self.lost = True
            log.warning("lease of %s lost: %s", redact(encode_key(self.key, sys.maxsize)), why)
            if self.on_loss is not None:
                self.on_loss()

    def took(self, sent: float, answer: SettleOutcome | IdemstoreError) -> None:
        """Note what a renewal that was sent at ``sent`` came to."""
        if not self.live:
            return  # its operation ended meanwhile
        if isinstance(answer, IdemstoreError):
            self.failed(answer)
        elif isinstance(answer, LeaseLost):
            self.taken()
        else:
            self.renewed(sent)


class Beats:
    """The leases that a heartbeat keeps. Calls may come from any thread; each step is atomic as it stands."""

    def __init__(self) -> None:
        self._beats: set[ref[Beat]] = set()
        """References to one lease are one; of a lease that is gone, one is equal to nothing else, whatever its place in
        memory is used for now.
        """
        self._shortest = LONGEST_LEASE

    def add(self, beat: Beat) -> bool:
        """Keep a lease; True where it is shorter than those before, so that the heartbeat must look at once."""
        self._beats.add(ref(beat))
        if beat.lease < self._shortest:
            self._shortest = beat.lease
            return True
        return False

    def drop(self, beat: Beat) -> None:
        """Keep it no longer; may be repeated."""
        beat.live, beat.on_loss = False, None
        self._beats.discard(ref(beat))

    def look(self) -> tuple[list[Beat], float]:
        """The leases that are due, the one that ends first at the front; and seconds until the next look."""
        now = monotonic()
        due, first, shortest = list[Beat](), now + LONGEST_LEASE, self._shortest * FORGETS
        for entry in self._beats.copy():  # a copy is made in one piece
            beat = entry()
            if beat is None or not beat.live:
                self._beats.discard(entry)  # its owner was torn off before it could drop it
                continue
            shortest = min(shortest, beat.lease)
            if beat.due <= now:
                due.append(beat)
            elif beat.due < first:
                first = beat.due
        self._shortest = shortest = min(shortest, LONGEST_LEASE)
        due.sort(key=lambda beat: beat.until)
        return due, max(min(first - now, shortest * SELDOM), shortest * OFTEN, SHORTEST_SLEEP)

    def abandon(self, why: str) -> None:
        """Every lease is lost: the store was closed."""
        for entry in self._beats.copy():
            beat = entry()
            if beat is not None and beat.live:
                beat.lose(why)
        self._beats.clear()

    def clear(self) -> None:
        """Forget every lease, without a word."""
        self._beats.clear()
        self._shortest = LONGEST_LEASE

    def __bool__(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._beats)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._beats)


class Parcel:
    """Renewals that travel together, and how long they may take: an interval of the shortest lease among them."""

    def __init__(self, beats: Sequence[Beat], timeout: float) -> None:
        self.beats = beats
        self.renewals = [Renewal(beat.key, beat.token, beat.lease) for beat in beats]
        self.timeout = min(timeout, min(beat.lease for beat in beats) * INTERVAL)
        self.sent = monotonic()

    def took(self, answers: Sequence[SettleOutcome | IdemstoreError] | IdemstoreError) -> None:
        """Note the answers, or the one error for all."""
        if isinstance(answers, IdemstoreError):
            answers = [answers] * len(self.beats)
        for beat, answer in zip(self.beats, answers, strict=True):
            beat.took(self.sent, answer)


def parcels(due: Sequence[Beat], timeout: float) -> Iterator[Parcel]:
    """What is due, cut so that one slow round trip does not spoil the rest."""
    for start in range(0, len(due), MAX_BATCH):
        yield Parcel(due[start : start + MAX_BATCH], timeout)


def broken(error: Exception) -> StoreMisbehaved:
    """What a renewal came to that raised what no driver should. A heartbeat that died of it would lose every lease."""
    log.error("a renewal raised %s: this is a bug in the driver", type(error).__name__, exc_info=error)
    return StoreMisbehaved(f"a renewal raised {type(error).__name__}")


class Keepalive:
    """The heartbeat of a sync store: a daemon thread that runs while there are leases to keep."""

    def __init__(self, store: Store) -> None:
        self._store = ref(store)
        self._start_over()
        _all.add(self)

    def _start_over(self) -> None:
        """No leases, no thread: at first, and in a child of ``fork()``."""
        self._beats = Beats()
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._told = False

    def add(self, beat: Beat) -> None:
        """Keep a lease."""
        if self._beats.add(beat):
            self._woken.set()
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()

    def drop(self, beat: Beat) -> None:
        """Keep it no longer; may be repeated."""
        self._beats.drop(beat)

    def _start(self) -> None:
        """Start the thread, unless another call just did."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="idemstore-keepalive", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # no more threads, or the interpreter is on its way out
                    self._thread = None
                    if not self._told:
                        self._told = True
                        log.warning("no heartbeat, a lease is all the time that its operation has: %s", error)

    def _run(self) -> None:
        """Look, renew, sleep; end when idle, or when the store is gone or closed."""
        idle = 0
        while idle <= IDLE_LOOKS or not self._ends():
            due, pause = self._beats.look()
            if due and not self._renew(due):
                self._beats.abandon(CLOSED)
            self._woken.wait(pause)
            self._woken.clear()
            idle = 0 if self._beats else idle + 1 if self._store() is not None else IDLE_LOOKS + 1

    def _ends(self) -> bool:
        """Whether the thread may end: not if a lease came in between."""
        with self._lock:
            current, self._thread = self._thread, None
            if self._beats:
                self._thread = current
            return self._thread is None

    def _renew(self, due: Sequence[Beat]) -> bool:
        """Renew what is due; False where there is no store to ask any more."""
        store = self._store()
        if store is None:
            return False
        for parcel in parcels(due, store.timeout):
            try:
                parcel.took(store.renew_many(parcel.renewals, timeout=parcel.timeout))
            except StoreClosed:
                return False
            except IdemstoreError as error:
                parcel.took(error)
            except Exception as error:  # noqa: BLE001 - see ``broken``
                parcel.took(broken(error))
        return True

    def after_fork(self) -> None:
        """In a child process: the leases are the parent's, and its thread is not here."""
        self._start_over()


_all: "weakref.WeakSet[Keepalive]" = weakref.WeakSet()
_of: "weakref.WeakKeyDictionary[Face, Keepalive]" = weakref.WeakKeyDictionary()
_making = threading.Lock()


def keepalive(store: Store) -> Keepalive:
    """The heartbeat of a store; one for all guards on it."""
    with _making:
        found = _of.get(store)
        if found is None:
            found = _of[store] = Keepalive(store)
        return found


def _after_fork() -> None:
    """In a child process: every heartbeat starts over."""
    global _making
    _making = threading.Lock()
    for heartbeat in list(_all):
        heartbeat.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
