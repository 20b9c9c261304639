"""The two faces: drivers are made late, closed once, never shared with a child or another loop; errors name the key."""

import asyncio
import math
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest

import idemstore
from idemstore.backends.memory import AsyncMemoryDriver, Engine, MemoryDialect, MemoryDriver
from idemstore.errors import (
    CorruptRecord,
    IdemstoreError,
    InvalidInput,
    InvalidKey,
    StoreClosed,
    StoreTimeout,
    StoreUnavailable,
    UnsupportedMode,
    WrongEventLoop,
)
from idemstore.exchange import Exchange, Limits, Snapshot
from idemstore.face import MAX_BATCH, Completion, Face, Failure, Renewal
from idemstore.keys import encode_key, redact
from idemstore.machine import Record, State
from idemstore.outcomes import LEASE_LOST, Claimed, Done
from idemstore.store import Store
from idemstore.testing.blocking import BlockingStore, LoopThread
from idemstore.testing.faults import Faults, inject


class Noting(MemoryDriver):
    """A memory driver that notes what becomes of it."""

    def __init__(self, made: list["Noting"]) -> None:
        super().__init__(Engine())
        self.closed = 0
        self.batches: list[int] = []
        made.append(self)

    def execute_many(self, requests, timeout):
        self.batches.append(len(requests))
        return super().execute_many(requests, timeout)

    def close(self):
        self.closed += 1


class AsyncNoting(AsyncMemoryDriver):
    """The same in async mode."""

    def __init__(self, made: list["AsyncNoting"]) -> None:
        super().__init__(Engine())
        self.closed = 0
        made.append(self)

    async def close(self):
        self.closed += 1


def noting(**options) -> tuple[Store, list[Noting]]:
    """A store, and the drivers that it has made."""
    made: list[Noting] = []
    return Store(MemoryDialect(1000), lambda: Noting(made), timeout=5.0, name="memory://noting", **options), made


def noting_async(**options) -> tuple[idemstore.AsyncStore, list[AsyncNoting]]:
    """An async store, and the drivers that it has made."""
    made: list[AsyncNoting] = []
    store = idemstore.AsyncStore(
        MemoryDialect(1000), lambda: AsyncNoting(made), timeout=5.0, name="memory://noting", **options
    )
    return store, made


def test_driver_is_made_at_first_use():
    """Once, however many threads come at the same time."""
    store, made = noting()
    assert made == []
    gate = threading.Barrier(16)

    def use():
        gate.wait()
        store.ping()

    threads = [threading.Thread(target=use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_bad_input_makes_no_driver():
    """What is refused at the door connects to nothing."""
    store, made = noting()
    with pytest.raises(InvalidKey):
        store.claim("")
    with pytest.raises(InvalidInput):
        store.claim("key", lease=0)
    with pytest.raises(InvalidInput):
        store.claim("key", wait=-1)
    assert made == []


def test_close():
    """The driver is closed once; later use says StoreClosed; a store that was never used can be closed, too."""
    store, made = noting()
    store.ping()
    store.close()
    store.close()
    assert made[0].closed == 1
    calls: list[Callable[[], object]] = [
        lambda: store.claim("key"),
        lambda: store.claim("key", wait=1),
        lambda: store.claim_many(["key"]),
        store.ping,
    ]
    for call in calls:
        with pytest.raises(StoreClosed, match="open a new store"):
            call()
    unused, made = noting()
    unused.close()
    assert made == []
    with pytest.raises(StoreClosed):
        unused.ping()


def test_context_manager():
    """Leaving the block closes, also on an error."""
    store, made = noting()

    def fail_inside():
        with store as same:
            assert same is store
            store.ping()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert made[0].closed == 1


def test_async_close():
    """As the sync store."""
    store, made = noting_async()

    async def main():
        async with store as same:
            assert same is store
            await store.ping()
        await store.close()
        with pytest.raises(StoreClosed):
            await store.ping()
        unused, none = noting_async()
        await unused.close()
        assert none == []
        with pytest.raises(StoreClosed):
            await unused.ping()

    asyncio.run(main())
    assert made[0].closed == 1


def test_async_store_stays_on_its_loop():
    """On another loop: WrongEventLoop, which says what to do; never a hang, and nothing is sent."""
    store, made = noting_async()
    with LoopThread() as thread:
        thread.call(store.ping())
        for call in (store.ping, lambda: store.claim("key"), lambda: store.claim_many(["key"]), store.close):

            async def use(call=call):
                with pytest.raises(WrongEventLoop, match="one store per event loop"):
                    await call()

            asyncio.run(use())
    assert len(made) == 1


def test_async_store_can_be_closed_after_its_loop():
    """Its connections went with the loop: there is nothing to wait for, and no call gets through any more."""
    store, _ = noting_async()
    asyncio.run(store.ping())
    asyncio.run(store.close())
    with pytest.raises(StoreClosed):
        asyncio.run(store.ping())


def test_async_driver_is_made_on_the_loop():
    """Not when the store is opened, and once for concurrent tasks."""
    store, made = noting_async()
    assert made == []

    async def main():
        await asyncio.gather(*(store.ping() for _ in range(10)))

    asyncio.run(main())
    assert len(made) == 1


def test_errors_name_the_key():
    """Redacted, so that it can be logged; the error's own key stays."""

    class Corrupting(MemoryDialect):
        def claim(self, key, event):
            def parse(reply):
                raise CorruptRecord("not a record of ours")

            return Exchange(lambda engine: None, parse)

    damaged = Store(Corrupting(10), lambda: Noting([]), timeout=5.0, name="x")
    with pytest.raises(CorruptRecord) as caught:
        damaged.claim("customer-secret-4711")
    assert "customer-secret-4711" not in str(caught.value)
    assert "'cus…' [20 chars" in str(caught.value)
    with pytest.raises(CorruptRecord) as caught:
        BlockingStoreOf(Corrupting(10)).claim("customer-secret-4711")
    assert "'cus…' [20 chars" in str(caught.value)


class BlockingStoreOf:
    """One call of an async store over this dialect."""

    def __init__(self, dialect: MemoryDialect) -> None:
        self.dialect = dialect

    def claim(self, key: str) -> object:
        async def main():
            store = idemstore.AsyncStore(self.dialect, lambda: AsyncNoting([]), timeout=5.0, name="x")
            return await store.claim(key)

        return asyncio.run(main())


def test_exchanges_that_must_follow_share_one_deadline():
    """A call of several round trips ends with StoreTimeout when its time is over, in both modes."""

    class Endless(MemoryDialect):
        def ping(self):
            def again(reply):
                return Exchange(lambda engine: engine.ping(), again)

            return Exchange(lambda engine: engine.ping(), again)

    with pytest.raises(StoreTimeout, match="repeating the call is safe"):
        Store(Endless(10), lambda: Noting([]), timeout=0.05, name="x").ping()
    with pytest.raises(StoreTimeout):
        asyncio.run(idemstore.AsyncStore(Endless(10), lambda: AsyncNoting([]), timeout=0.05, name="x").ping())


def test_timeout_reaches_the_driver():
    """Every request is given the seconds that its call has left."""
    seen = []

    class Timed(MemoryDriver):
        def execute(self, request, timeout):
            seen.append(timeout)
            return super().execute(request, timeout)

    store = Store(MemoryDialect(10), lambda: Timed(Engine()), timeout=3.0, name="x")
    store.ping()
    store.migrate()
    assert seen[0] == 3.0
    assert seen[1] > 60


def test_batches_are_split():
    """At most MAX_BATCH per round trip."""
    store, made = noting()
    answers = store.claim_many([f"key-{number}" for number in range(MAX_BATCH * 2 + 1)])
    assert all(isinstance(answer, Claimed) for answer in answers)
    assert made[0].batches == [MAX_BATCH, MAX_BATCH, 1]


def refused(count):
    """What a driver answers to a batch that it could not send: the same error for all."""
    error = StoreUnavailable("the server is away")
    error.__cause__ = OSError("no route")
    return [error] * count


class Refusing(MemoryDriver):
    """A driver that sends no batch."""

    def execute_many(self, requests, timeout):
        return refused(len(requests))


class AsyncRefusing(AsyncMemoryDriver):
    """The same in async mode."""

    async def execute_many(self, requests, timeout):
        return refused(len(requests))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_errors_of_a_batch_name_their_keys(mode):
    """Every item has its own key in its error, as a single call would, although the driver gave one error to all."""
    dialect, options = MemoryDialect(1000), {"timeout": 5.0, "name": "memory://refusing"}
    with LoopThread() as thread:
        if mode == "sync":
            store = Store(dialect, lambda: Refusing(Engine()), **options)
        else:
            inner = idemstore.AsyncStore(dialect, lambda: AsyncRefusing(Engine()), **options)
            store = BlockingStore(inner, thread)
        keys = ["order-1", ("tenant", "order-2"), "order-3"]
        for answers in (
            store.claim_many(keys),
            store.complete_many((key, "token", b"r") for key in keys),
            store.fail_many(Failure(key, "token", b"r") for key in keys),
            store.renew_many(Renewal(key, "token") for key in keys),
            store.release_many((key, "token") for key in keys),
        ):
            assert [type(error) for error in answers] == [StoreUnavailable] * 3
            assert [error.key for error in answers] == [redact(encode_key(key, 1000)) for key in keys]
            assert all(isinstance(error.__cause__, OSError) for error in answers)
            assert "order-3" not in str(answers[2])


def test_bad_items_of_a_batch_are_named_too():
    """Bad input has the key of its item, but for a key that is none."""
    store, _ = noting()
    good, bad, none = store.complete_many([("a", "token", b"r"), ("order-2", "", b"r"), ("", "token", b"r")])
    assert good == LEASE_LOST
    assert bad.key == redact("order-2")
    assert (type(none), none.key) == (InvalidKey, None)


def test_what_is_no_item_stays_with_its_place():
    """Neither a wrong tuple nor a wrong type spoils its neighbours, and tuples do for items."""
    store, _ = noting()
    for answers, name in (
        (store.complete_many([("a", "t", b"r"), ("a",), 5, None, "abc"]), "Completion"),
        (store.fail_many([("a", "t", b"r"), ("a",), 5, None, "abc"]), "Failure"),
        (store.renew_many([("a", "t"), ("a",), 5, None, "abc"]), "Renewal"),
        (store.release_many([("a", "t"), ("a",), 5, None, "abc"]), "Return"),
    ):
        assert not isinstance(answers[0], idemstore.IdemstoreError)
        assert [type(answer) for answer in answers[1:]] == [InvalidInput] * 4
        assert name in str(answers[1])
        assert answers[1].key is None


@pytest.mark.parametrize("items", ["order-1", b"order-1", None, 5], ids=repr)
def test_a_batch_is_a_list(items):
    """A single key in place of a list would be claimed letter by letter."""
    store, made = noting()
    for call in (store.claim_many, store.complete_many, store.fail_many, store.renew_many, store.release_many):
        with pytest.raises(InvalidInput, match="takes a list"):
            call(items)
    assert made == []


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 1e308, True, "1"], ids=repr)
def test_bad_timeout_of_a_batch(timeout):
    """Refused in our words, before anything is sent."""
    store, made = noting()
    with pytest.raises(InvalidInput, match="timeout"):
        store.renew_many([Renewal("a", "t")], timeout=timeout)
    assert made == []


@pytest.mark.parametrize("wait", [None, "", [], "1", math.nan, -1], ids=repr)
def test_bad_wait(wait):
    """What is no duration is not taken for none."""
    store, made = noting()
    with pytest.raises(InvalidInput, match="wait"):
        store.claim("key", wait=wait)
    later, _ = noting_async()
    with pytest.raises(InvalidInput, match="wait"):
        asyncio.run(later.claim("key", wait=wait))
    assert made == []


def test_items_of_batches_are_discreet():
    """Their keys, tokens and results may be secret, and lists of them end up in logs."""
    shown = repr([Completion("k-1", "t-1", b"r-1"), Failure("k-1", "t-1", b"r-1"), Renewal("k-1", "t-1")])
    assert shown == "[Completion(...), Failure(...), Renewal(...)]"


class Gone(MemoryDriver):
    """A server that is gone after the first round trip."""

    def execute_many(self, requests, timeout):
        if getattr(self, "asked", False):
            raise StoreTimeout("gone")
        self.asked = True
        return super().execute_many(requests, timeout)


def test_what_a_batch_was_answered_is_not_lost_with_its_rest():
    """Claims whose tokens nobody learns would be in the way for their whole lease."""
    keys = [f"k{number}" for number in range(MAX_BATCH + 3)]
    store = Store(MemoryDialect(100), lambda: Gone(Engine()), timeout=1, name="gone")
    answers = store.claim_many(keys)
    assert [type(answer) for answer in answers] == [Claimed] * MAX_BATCH + [StoreTimeout] * 3
    with pytest.raises(StoreTimeout):
        store.claim_many(keys[:1])  # nothing at all was answered


def test_a_store_that_is_just_being_made_does_not_stop_a_fork():
    """A fork between the steps of a constructor: the other stores must still leave the parent's connections alone."""
    for kind in (Store, idemstore.AsyncStore):
        half = kind.__new__(kind)
        Face.__init__(half, MemoryDialect(100), 1.0, "half")
        half.after_fork()


def test_on_joins_a_callers_connection():
    """The same store over another connection; what it is joined to is given to the family as it is."""
    joined = []
    store, made = noting(join=lambda connection: joined.append(connection) or Noting(made))
    connection = object()
    inside = store.on(connection)
    assert isinstance(inside.claim("key"), Claimed)
    assert joined == [connection]
    assert isinstance(store.claim("key"), Claimed)
    inside.close()
    assert [driver.closed for driver in made] == [1, 0]
    assert store.wrapped(lambda driver: driver).on(connection).ping() > 0


def test_on_needs_a_family_that_can():
    """Memory has no transaction to join."""
    with pytest.raises(UnsupportedMode, match="no transaction"):
        idemstore.open("memory://").on(object())
    with pytest.raises(UnsupportedMode, match="no transaction"):
        idemstore.open_async("memory://").on(object())


def test_async_on():
    """As the sync store."""
    joined = []
    store, made = noting_async(join=lambda connection: joined.append(connection) or AsyncNoting(made))

    async def main():
        return await store.on("connection").claim("key")

    assert isinstance(asyncio.run(main()), Claimed)
    assert joined == ["connection"]


def test_wrapped_store_has_a_driver_of_its_own():
    """The wrapper sees every round trip; the original is untouched and closed apart."""
    store, made = noting()
    store.ping()
    faults = Faults()
    counted = inject(store, faults)
    counted.claim("key")
    counted.claim_many(["a", "b"])
    assert faults.round_trips == 2
    counted.close()
    assert [driver.closed for driver in made] == [0, 1]
    store.ping()


def test_wrapped_async_store():
    """As the sync store."""
    store, made = noting_async()
    with LoopThread() as thread:
        faults = Faults()
        with inject(BlockingStore(store, thread), faults) as counted:
            counted.claim("key")
            counted.claim_many(["a", "b"])
    assert faults.round_trips == 2
    assert [driver.closed for driver in made] == [1]


def test_repr_shows_no_secret():
    """Class and name."""
    assert repr(idemstore.open("memory://name?max_records=5")) == "Store('memory://name?…')"
    assert repr(idemstore.open_async("memory://")) == "AsyncStore('memory://')"


def test_snapshot_reads_times():
    """Seconds from the server's clock; None where there is no such time."""
    record = Record(State.FAILED, "t", 1, 1, expires_at=5_500_000, retry_at=500_000)
    found = Snapshot(record, 1_000_000)
    assert (found.state, found.expires_in, found.retry_in, found.lease_left) == (State.FAILED, 4.5, -0.5, None)


def test_limits_are_the_familys():
    """A store says what it can take."""
    assert noting()[0].limits == Limits(65536, 1000)


def test_child_makes_a_driver_of_its_own():
    """After fork() a store connects anew in the child; the parent's driver is neither used nor closed there."""
    script = textwrap.dedent("""
        import asyncio, os, sys
        import idemstore
        from idemstore.backends.memory import MemoryDialect, MemoryDriver, AsyncMemoryDriver, Engine
        from idemstore.store import Store
        from idemstore.async_store import AsyncStore
        made = []
        class Finalized:
            def __del__(self):
                assert self.pid == os.getpid(), "the parent's driver was finalized"
        class Noting(MemoryDriver, Finalized):
            def __init__(self): super().__init__(Engine()); self.pid = os.getpid(); made.append(self.pid)
            def execute(self, request, timeout):
                assert self.pid == os.getpid(), "the parent's driver was used"
                return super().execute(request, timeout)
            def close(self): assert self.pid == os.getpid(), "the parent's driver was closed"
        class AsyncNoting(AsyncMemoryDriver, Finalized):
            def __init__(self): super().__init__(Engine()); self.pid = os.getpid(); made.append(self.pid)
            async def execute(self, request, timeout):
                assert self.pid == os.getpid(), "the parent's driver was used"
                return await super().execute(request, timeout)
            async def close(self): assert self.pid == os.getpid(), "the parent's driver was closed"
        store = Store(MemoryDialect(10), Noting, timeout=5.0, name="x")
        other = AsyncStore(MemoryDialect(10), AsyncNoting, timeout=5.0, name="y")
        store.ping()
        async def both():
            await other.ping()
            await other.close()
        asyncio.run(other.ping())
        child = os.fork()
        if child == 0:
            store.ping()
            store.close()
            asyncio.run(both())
            os._exit(0 if len(made) == 4 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(made) == 2
        store.ping()
        store.close()
        print("well")
    """)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.stderr) == ("well\n", "")


def test_fork_while_a_driver_is_made():
    """A child is not hung by a lock that another thread of its parent held."""
    script = textwrap.dedent("""
        import os, threading, idemstore
        from idemstore.backends.memory import MemoryDialect, MemoryDriver, Engine
        from idemstore.store import Store
        making, go = threading.Event(), threading.Event()
        def connect():
            if os.getpid() == parent:
                making.set()
                go.wait()
            return MemoryDriver(Engine())
        parent = os.getpid()
        store = Store(MemoryDialect(10), connect, timeout=5.0, name="x")
        thread = threading.Thread(target=store.ping)
        thread.start()
        making.wait()
        child = os.fork()
        if child == 0:
            store.ping()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        go.set()
        thread.join()
        print("well")
    """)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.stderr) == ("well\n", "")


def test_outcomes_hide_secrets():
    """No token, result or checkpoint in the repr of an outcome."""
    outcomes = [
        Claimed("the-token", 1, 1, b"the-checkpoint"),
        idemstore.Abandoned("the-token", 1, 1, b"the-checkpoint"),
        idemstore.Completed(b"the-result"),
        idemstore.Failed(b"the-result", 5.0),
    ]
    assert "the-" not in repr(outcomes)
    assert repr(Done()) == "Done()"


def test_errors_have_one_base():
    """One except clause catches all; each says whether the call may be repeated, and a status."""
    errors = [
        kind for kind in vars(idemstore.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(errors) > 15
    for kind in errors:
        assert issubclass(kind, IdemstoreError)
        assert isinstance(kind.retryable, bool)
        assert kind.status in (400, 409, 422, 500, 503)
