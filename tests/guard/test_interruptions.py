"""What must not get lost or run twice where an exception comes out of nowhere, or where a codec or scope misleads."""

import asyncio
import functools
from dataclasses import dataclass

import pytest

import idemstore
from idemstore import AsyncGuard, Batch, Guard, Policy
from idemstore.codec import DataclassCodec, JsonCodec
from idemstore.errors import ConfigurationError, UncarriedResult
from idemstore.machine import State
from idemstore.running import current


class Interrupted(JsonCodec):
    """A codec that is interrupted as it encodes, once."""

    left = 1

    def encode(self, value):
        if self.left:
            self.left -= 1
            raise KeyboardInterrupt
        return super().encode(value)


def test_interrupted_while_a_result_is_sealed():
    """The work is done: it is recorded before the interruption goes on, and does not run again."""
    with idemstore.open("memory://") as store:
        guard = Guard(store, codec=Interrupted())
        with pytest.raises(KeyboardInterrupt):
            guard.call("k", lambda: 1)
        assert guard.call("k", lambda: 2) == 1


def test_interrupted_while_a_result_of_a_batch_is_sealed():
    """The same for a batch; what has not run is given back."""
    with idemstore.open("memory://") as store:
        guard = Guard(store, codec=Interrupted())
        with pytest.raises(KeyboardInterrupt):
            Batch(guard).map(["a", "b"], lambda key: 1)
        assert [item.value for item in Batch(guard).map(["a", "b"], lambda key: 2)] == [1, 2]


def test_interrupted_as_the_function_begins(monkeypatch):
    """An interruption between entering the operation and the function: nothing of it stays in the context."""

    class Entering:
        """The context variable, whose setting is interrupted once it is done."""

        hits = 1

        def set(self, value):
            current.set(value)
            if self.hits:
                self.hits -= 1
                raise KeyboardInterrupt

        def reset(self, token):
            current.reset(token)

    with idemstore.open("memory://") as store:
        guard = Guard(store)
        monkeypatch.setattr("idemstore.guard.current", Entering())
        with pytest.raises(KeyboardInterrupt):
            guard.call("k", lambda: 1)
        assert current.get() is None
        assert store.get("k").record.state is State.FAILED
        assert guard.call("k", lambda: 2) == 2


def test_leases_are_told_apart_by_more_than_their_place_in_memory():
    """A lease whose owner was torn off may leave its id to the next one: both must not be one entry."""
    from idemstore.keepalive import Beat, Beats

    beats = Beats()
    beats.add(Beat("torn-off", "t", 30))
    other = Beat("other", "t", 30)
    beats.add(other)
    assert len(beats) == 2
    beats.look()
    assert len(beats) == 1


class Nameless:
    """An object that can be called."""

    def __call__(self, x):
        return x


def named(x, more):
    """A function for ``partial``."""
    return x


@pytest.mark.parametrize("nameless", [functools.partial(named, more=1), lambda x: x, Nameless()])
def test_nameless_functions_need_a_scope(nameless):
    """Two of them would share their keys, and the second would get the first one's results without having run."""
    with idemstore.open("memory://") as store:
        guard = Guard(store)
        with pytest.raises(ConfigurationError, match="scope"):
            guard.idempotent(key="x")(nameless)
        assert guard.idempotent(key="x", scope="named", fingerprint=None)(nameless)("1")


def test_async_function_that_returns_unfinished_work():
    """A generator or a coroutine as a result is work yet to be done: a clear error, not a completed key."""

    async def main():
        async with idemstore.open_async("memory://") as store:

            async def numbers():
                yield 1

            async def work():
                return numbers()

            with pytest.raises(ConfigurationError, match="yet to be done"):
                await AsyncGuard(store).call("k", work)
            assert (await store.get("k")).record.state is State.FAILED

    asyncio.run(main())


@dataclass
class Line:
    """A part of a receipt."""

    number: int


@dataclass
class Receipt:
    """One dataclass that comes back, and some that would not."""

    first: Line
    lines: list[Line]
    last: Line | None = None


def test_dataclass_that_would_be_replayed_as_a_dict():
    """It is found while the caller still holds the value; the replay never differs from the first answer in silence."""
    codec = DataclassCodec(Receipt)
    plain = Receipt(Line(1), [])
    assert codec.decode(codec.encode(plain)) == plain
    for odd in (Receipt(Line(1), [Line(2)]), Receipt(Line(1), [], Line(2))):
        with pytest.raises(UncarriedResult, match="Line"):
            codec.encode(odd)


def test_no_heartbeat_over_a_callers_own_connection():
    """Renewals would come between the caller's statements, on a connection that takes one at a time."""
    with idemstore.open("memory://") as store:
        store.joined = True
        guard = Guard(store, Policy(lease=30))
        assert guard.call("k", lambda: len(guard.heartbeat._beats)) == 0
