"""What sync and async batches share: the keys of one ``map``, what became of each, what runs next. No I/O."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar, cast

from idemstore.checks import Duration, duration
from idemstore.envelope import Sealed
from idemstore.errors import GuardError, IdemstoreError, InvalidInput, ReplayedFailure, UncarriedResult
from idemstore.face import MAX_BATCH, Completion, each
from idemstore.guard_core import DOWN, GuardCore
from idemstore.keys import KeyLike
from idemstore.machine import MICROSECONDS
from idemstore.outcomes import ClaimOutcome, Completed, Failed, SettleOutcome
from idemstore.policy import Keep
from idemstore.running import BaseOperation

T = TypeVar("T")
Op = TypeVar("Op", bound=BaseOperation)

MAX_KEYS: Final = 100_000
NEVER_RAN: Final = "interrupted before it ran"


class Item(NamedTuple, Generic[T]):
    """What became of one key: a ``value``, of this run or ``replayed``, or an ``error``."""

    key: KeyLike
    value: T | None = None
    error: BaseException | None = None
    replayed: bool = False
    done: bool = False
    """Whether its message can be acknowledged: it has a result, or failed for good. Else it must come again."""


class Bounds(NamedTuple):
    """How much is claimed at once, and when results are recorded."""

    claim_at_once: int
    flush_every: int
    flush_after: float


def bounds(claim_at_once: int, flush_every: int, flush_after: Duration) -> Bounds:
    """The bounds of a batch, checked."""
    for name, value in (("claim_at_once", claim_at_once), ("flush_every", flush_every)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_BATCH:
            raise InvalidInput(f"{name} is {value!r}: give a whole number from 1 to {MAX_BATCH}")
    return Bounds(claim_at_once, flush_every, duration("flush_after", flush_after) / MICROSECONDS)


class Ask(NamedTuple):
    """One claim to be made."""

    at: int
    key: KeyLike
    stored: str
    fingerprint: bytes | None
    token: str


class Ready(NamedTuple, Generic[Op]):
    """One operation that is claimed and has not run."""

    at: int
    running: Op


class Ran(NamedTuple, Generic[T]):
    """One operation that has run and is not recorded yet."""

    at: int
    running: BaseOperation
    value: T
    sealed: Sealed

    @property
    def completion(self) -> Completion:
        """What records it."""
        return Completion(self.running.key, self.running.token, self.sealed[0])

    @property
    def until(self) -> float:
        """When its lease would be over."""
        return 0.0 if self.running.beat is None else self.running.beat.until


class Work(Generic[T, Op]):
    """The keys of one ``map``.

    A key that comes several times is claimed for its first occurrence only; the others wait until that one is settled
    and are then answered as a later call would be: with its result, its failure, or a run of their own.
    """

    def __init__(
        self,
        guard: GuardCore[Op],
        keys: Sequence[KeyLike],
        fingerprints: Sequence[bytes | None] | None,
        limits: Bounds,
    ) -> None:
        if len(keys) > MAX_KEYS:
            raise InvalidInput(f"map got {len(keys)} keys: give at most {MAX_KEYS} at once")
        self._guard, self._keys, self._limits = guard, keys, limits
        self._fingerprints = each("fingerprints", fingerprints, len(keys))
        self._items: dict[int, Item[T]] = {}
        self._settled: set[str] = set()
        self._waiting: dict[str, deque[int]] = {}
        self.ready: deque[Ready[Op]] = deque()
        self.ran: list[Ran[T]] = []
        self._flushed = 0.0
        guard.check_open()
        for index, key in enumerate(keys):
            try:
                self._waiting.setdefault(guard.enter(key), deque()).append(index)
            except IdemstoreError as error:
                self._items[index] = Item(key, error=error)

    def asks(self) -> list[Ask]:
        """The claims of the next round; none when all is done."""
        asked = list[Ask]()
        self._flushed = time.monotonic()
        for stored, indexes in list(self._waiting.items()):
            while indexes and len(asked) < self._limits.claim_at_once:
                index = indexes.popleft()
                token = self._guard.unsure.take(stored)
                asked.append(Ask(index, self._keys[index], stored, self._fingerprints[index], token))
                if stored not in self._settled:
                    break
            if not indexes:
                del self._waiting[stored]
            if len(asked) == self._limits.claim_at_once:
                break
        return asked

    def answered(self, ask: Ask, outcome: ClaimOutcome) -> None:
        """A key that does not run: its replay or its error."""
        self._settled.add(ask.stored)
        try:
            value = cast("T", self._guard.answer(outcome, ask.stored))
            self._items[ask.at] = Item(ask.key, value, replayed=True, done=True)
        except GuardError as error:
            replayed = isinstance(outcome, Completed | Failed)
            done = isinstance(error, UncarriedResult | ReplayedFailure)
            self._items[ask.at] = Item(ask.key, error=error, replayed=replayed, done=done)

    def refused(self, ask: Ask, error: IdemstoreError) -> bool:
        """A key that could not be claimed; True where it is to run unprotected."""
        if isinstance(error, DOWN):
            try:
                self._guard.no_answer(ask.stored, ask.token, error)
                return True
            except DOWN as refused:
                error = refused
        self._items[ask.at] = Item(ask.key, error=error)
        return False

    def proceeds(self, error: IdemstoreError) -> bool:
        """Whether the policy is to run unprotected what a store that is down cannot take."""
        return self._guard.proceeds(error)

    def refuse_rest(self, error: IdemstoreError) -> None:
        """The store is down: what has not been claimed is not going to be."""
        for indexes in self._waiting.values():
            for index in indexes:
                self._items[index] = Item(self._keys[index], error=error)
        self._waiting.clear()

    def unused(self) -> list[Op]:
        """What is claimed and is not going to run."""
        unused = [one.running for one in self.ready if one.running.protected]
        self.ready.clear()
        return unused

    def raised(self, index: int, running: BaseOperation, error: BaseException) -> None:
        """A function that raised."""
        final = isinstance(running.settled, Keep)
        if final:
            self._settled.add(running.stored)
        self._items[index] = Item(running.key, error=error, done=final)

    def returned(self, index: int, running: BaseOperation, value: T) -> None:
        """A function that returned."""
        if running.beat is None:
            self._items[index] = Item(running.key, value, done=True)
            return
        try:
            sealed = self._guard.envelope.value(value, running.stored)
        except BaseException:  # an interruption: the work is done, and is recorded before that goes on
            self.ran.append(Ran(index, running, value, self._guard.envelope.value(value, running.stored)))
            raise
        self.ran.append(Ran(index, running, value, sealed))

    def due(self) -> bool:
        """Whether it is time to record what has run."""
        limits = self._limits
        return len(self.ran) >= limits.flush_every or time.monotonic() >= self._flushed + limits.flush_after

    def take(self) -> list[Ran[T]]:
        """What is to be recorded now."""
        told, self.ran, self._flushed = self.ran, [], time.monotonic()
        return told

    def recorded(
        self, told: Sequence[Ran[T]], answers: Sequence[SettleOutcome | IdemstoreError], last: bool
    ) -> list[Ran[T]]:
        """Note what recording came to; returns what must be tried again. ``last``: it cannot be."""
        again = list[Ran[T]]()
        for ran, answer in zip(told, answers, strict=True):
            if isinstance(answer, IdemstoreError) and answer.retryable and not last:
                again.append(ran)
            else:
                self._items[ran.at] = self._finished(ran, answer)
        return again

    def _finished(self, ran: Ran[T], answer: SettleOutcome | IdemstoreError) -> Item[T]:
        """What became of an operation that ran to its end."""
        key, value = ran.running.key, ran.value
        try:
            if isinstance(answer, IdemstoreError):
                raise self._guard.unknown(ran.running, value, answer) from answer
            self._guard.finished(ran.running, answer, value, ran.sealed[1])
        except GuardError as error:
            done = isinstance(error, UncarriedResult)
            if done:
                self._settled.add(ran.running.stored)
            return Item(key, value, error, done=done)
        self._settled.add(ran.running.stored)
        return Item(key, value, done=True)

    def items(self) -> list[Item[T]]:
        """In the order of the keys."""
        return [self._items[index] for index in range(len(self._keys))]
