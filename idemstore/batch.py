"""``Batch`` and ``AsyncBatch``: a guard for queue consumers. Many messages are claimed in one round trip, what is new
runs, and results are recorded in batches.

Between running and recording lies a window in which a crash repeats work; ``flush_every`` bounds it in operations.
Where that window must be one operation wide, use ``Guard.call`` for each message instead.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from idemstore.async_guard import AsyncGuard, AsyncOperation
from idemstore.errors import IdemstoreError, InvalidInput, ReplayedFailure, UncarriedResult
from idemstore.guard import BaseOperation, Guard, Operation, Sealed
from idemstore.keys import KeyLike
from idemstore.outcomes import Claimed, ClaimOutcome, Completed, SettleOutcome
from idemstore.store import Completion

T = TypeVar("T")

MAX_KEYS: Final = 10_000
"""Keys that one ``map`` takes: their claims are held all at once."""


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """What became of one key: ``value``, run now or ``replayed``, or ``error``."""

    key: KeyLike
    value: T | None = None
    error: BaseException | None = None
    replayed: bool = False

    @property
    def done(self) -> bool:
        """Whether its message can be acknowledged: it has a result, or failed for good. Else it must come again."""
        return self.error is None or isinstance(self.error, UncarriedResult | ReplayedFailure)


@dataclass(frozen=True, slots=True)
class _Ran(Generic[T]):
    """An operation that ran and is not recorded yet."""

    index: int
    running: BaseOperation
    value: T
    sealed: Sealed

    @property
    def completion(self) -> Completion:
        """What records it."""
        return Completion(self.running.key, self.running.token, self.sealed.data)


class _Results(Generic[T]):
    """What became of each key, filled in as it is known."""

    def __init__(self, guard: Guard | AsyncGuard, keys: Sequence[KeyLike], flush_every: int) -> None:
        if len(keys) > MAX_KEYS:
            raise InvalidInput(f"map got {len(keys)} keys: give at most {MAX_KEYS} at once")
        self._guard, self._keys, self._flush_every = guard, keys, flush_every
        self._items: dict[int, Item[T]] = {}
        self.ran: list[_Ran[T]] = []

    def answered(self, index: int, outcome: ClaimOutcome | IdemstoreError, stored: str) -> None:
        """A key that does not run: its replay or its error."""
        key = self._keys[index]
        try:
            if isinstance(outcome, IdemstoreError):
                raise outcome
            value = cast("T", self._guard.answer(outcome, stored))
            self._items[index] = Item(key, value, replayed=isinstance(outcome, Completed))
        except IdemstoreError as error:
            self._items[index] = Item(key, error=error, replayed=True)

    def failed(self, index: int, error: Exception) -> None:
        """A function that raised."""
        self._items[index] = Item(self._keys[index], error=error)

    def finished(self, index: int, running: BaseOperation, value: T) -> bool:
        """A function that returned; True where it is time to record."""
        self.ran.append(_Ran(index, running, value, self._guard.seal_value(value, running.stored)))
        return len(self.ran) >= self._flush_every

    def recorded(self, answers: Sequence[SettleOutcome | IdemstoreError]) -> list[_Ran[T]]:
        """Note what recording came to; what must be tried again."""
        again: list[_Ran[T]] = []
        for ran, answer in zip(self.ran, answers, strict=True):
            if isinstance(answer, IdemstoreError):
                again.append(ran)
                continue
            try:
                value = self._guard.finished(ran.running, answer, ran.value, ran.sealed.trouble)
                self._items[ran.index] = Item(self._keys[ran.index], value)
            except IdemstoreError as error:
                self._items[ran.index] = Item(self._keys[ran.index], ran.value, error)
        self.ran = []
        return again

    def settled(self, ran: _Ran[T], error: IdemstoreError | None) -> None:
        """One that was recorded by itself."""
        self._items[ran.index] = Item(self._keys[ran.index], ran.value, error)

    def all(self) -> list[Item[T]]:
        """In the order of the keys."""
        return [self._items[index] for index in range(len(self._keys))]
