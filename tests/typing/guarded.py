"""How callers use guards, for the type checkers: this file is checked, never run."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import assert_type

from idemstore import AsyncBatch, AsyncGuard, AsyncStore, Batch, Guard, Item, Policy, Store
from idemstore.codec import Compressed, DataclassCodec, JsonCodec
from idemstore.keys import KeyLike


@dataclass
class Receipt:
    """A result."""

    number: int


def sync_use(store: Store) -> None:
    """``call`` returns what the function returns; a decorated function keeps its signature."""
    guard = Guard(store, Policy(lease=10, final=(ValueError,)), Compressed(JsonCodec()))
    assert_type(guard.call("key", lambda: 5), int)
    assert_type(Guard(store, codec=DataclassCodec(Receipt)).call("key", lambda: Receipt(1)), Receipt)
    assert_type(Batch(guard).map(["a", ("b", "c")], lambda key: Receipt(1)), list[Item[Receipt]])

    @guard.idempotent(key="order")
    def charge(order: str, cents: int = 0, *, note: str = "") -> Receipt:
        return Receipt(cents)

    assert_type(charge("o-1", 5, note="n"), Receipt)
    plain: Callable[[str], Receipt] = charge
    plain("o-2")
    charge(5)  # type: ignore[arg-type]
    charge("o-1", amount=5)  # type: ignore[call-arg]


async def async_use(store: AsyncStore) -> None:
    """The same for coroutine functions."""
    guard = AsyncGuard(store)

    async def work() -> bytes:
        return b""

    assert_type(await guard.call("key", work), bytes)

    async def one(key: KeyLike) -> int:
        return len(key)

    assert_type(await AsyncBatch(guard).map(["a"], one), list[Item[int]])

    @guard.idempotent(key=lambda order, cents=0: order, fingerprint=["cents"])
    async def charge(order: str, cents: int = 0) -> Receipt:
        return Receipt(cents)

    assert_type(await charge("o-1", cents=5), Receipt)
    started: Coroutine[object, object, Receipt] = charge("o-2")
    assert_type(await started, Receipt)
    await charge(5)  # type: ignore[arg-type]


def mistakes(store: Store, later: AsyncStore) -> None:
    """What a type checker must refuse."""
    Guard(later)  # type: ignore[arg-type]
    AsyncGuard(store)  # type: ignore[arg-type]
    Policy(30)  # type: ignore[call-arg]
    Guard(store).call("key", lambda number: number)  # type: ignore[arg-type,misc]
