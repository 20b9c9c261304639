"""``?local_cache=N``: finished records kept in the process, so that replays need no round trip.

Sound because a finished record never changes until it expires: it can only end. Entries come from ``get`` alone, which
tells everything at once: the result, the fingerprint that the record was claimed with, and how long it is still kept by
the server's clock. That time is counted from before the question was sent, by this process's monotonic clock, so an
entry ends no later than its record. What ends a record early is ``forget``: through this store it takes the entry with
it; by another process it is seen when the entry is ``MAX_AGE`` old, at the latest.

A key becomes worth asking about once this store has completed it or has been told its result. So the first claim after
that is a ``get`` in place of the claim: one round trip, as ever; later ones are answered here.
"""

import threading
import time
from collections import OrderedDict
from typing import Final, NamedTuple, TypeGuard

from idemstore.exchange import Snapshot
from idemstore.machine import Claim, step
from idemstore.outcomes import DONE, MISMATCH, ClaimOutcome, Completed, Failed, SettleOutcome

MAX_AGE: Final = 60.0
"""Seconds after which an entry ends, however long its record is kept."""

MAX_RESULT: Final = 64 * 2**10
"""Bytes; larger results are never kept here."""

MAX_BYTES: Final = 64 * 2**20
"""Bytes of all results together; the entries that were used least recently go."""


class Entry(NamedTuple):
    """What a finished record answers, to whom, and until when (``time.monotonic()``)."""

    outcome: Completed | Failed
    fingerprint: bytes | None
    until: float


class LocalCache:
    """The finished records of one store, the least recently used first. Safe for threads."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._kept: OrderedDict[str, Entry] = OrderedDict()
        self._finished: OrderedDict[str, None] = OrderedDict()
        """Keys that are known to be finished; the next claim asks for the whole record."""
        self._bytes = 0
        self._forgets = 0
        self._lock = threading.Lock()

    def find(self, key: str, fingerprint: bytes | None) -> ClaimOutcome | None:
        """What a claim is answered; None where the server must be asked. Rule 2 of the machine holds here, too."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry.until <= time.monotonic():
            self._end(key, entry)
            return None
        try:
            self._kept.move_to_end(key)
        except KeyError:
            return None  # another thread has just forgotten it
        if fingerprint is not None and entry.fingerprint is not None and fingerprint != entry.fingerprint:
            return MISMATCH
        return entry.outcome

    def asked(self, key: str) -> int | None:
        """Whether the next claim of the key is to ask for the whole record: what ``keep`` must be given then."""
        return self._forgets if key in self._finished else None

    def keep(
        self, key: str, snapshot: Snapshot | None, fingerprint: bytes | None, since: float, forgets: int
    ) -> ClaimOutcome | None:
        """Keep what was found by a question sent at ``since``, and what a claim is answered; None: that must be asked.
        What was asked before a ``forget`` is not kept after it.
        """
        with self._lock:
            self._finished.pop(key, None)
        if snapshot is None:
            return None
        record = snapshot.record
        _, outcome = step(record._replace(fingerprint=None), Claim(None, "", 1, None), snapshot.now)
        if not _final(outcome) or len(outcome.result) > MAX_RESULT:
            return None
        left = snapshot.expires_in
        entry = Entry(outcome, record.fingerprint, since + (MAX_AGE if left is None else min(left, MAX_AGE)))
        with self._lock:
            if forgets == self._forgets:
                self._put(key, entry)
        return step(record, Claim(fingerprint, "", 1, None), snapshot.now)[1]

    def saw(self, key: str, outcome: ClaimOutcome) -> None:
        """A claim was answered by the server: if it is a result, the next one may find it here."""
        if _final(outcome) and len(outcome.result) <= MAX_RESULT:
            self._note(key)

    def settled(self, key: str, outcome: SettleOutcome, result: bytes) -> None:
        """This store has completed the key, or failed it for good."""
        if outcome == DONE and len(result) <= MAX_RESULT:
            self._note(key)

    def drop(self, key: str) -> None:
        """The record is being forgotten."""
        with self._lock:
            self._forgets += 1
            self._finished.pop(key, None)
            self._remove(key)

    def _note(self, key: str) -> None:
        """It is finished."""
        with self._lock:
            self._finished[key] = None
            if len(self._finished) > self.entries:
                self._finished.popitem(last=False)

    def _end(self, key: str, entry: Entry) -> None:
        """It is too old; its record may still be there."""
        with self._lock:
            if self._kept.get(key) is entry:
                self._remove(key)
        self._note(key)

    def _put(self, key: str, entry: Entry) -> None:
        """Add an entry, and make room. The lock is held."""
        self._remove(key)
        self._kept[key] = entry
        self._bytes += len(entry.outcome.result)
        while len(self._kept) > self.entries or self._bytes > MAX_BYTES:
            _, oldest = self._kept.popitem(last=False)  # in one step: ``find`` moves entries without the lock
            self._bytes -= len(oldest.outcome.result)

    def _remove(self, key: str) -> None:
        """Remove an entry, if it is there. The lock is held."""
        entry = self._kept.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.outcome.result)


def _final(outcome: ClaimOutcome) -> TypeGuard[Completed | Failed]:
    """Whether it is the answer for as long as the record is kept."""
    return isinstance(outcome, Completed) or (isinstance(outcome, Failed) and outcome.retry_after is None)
