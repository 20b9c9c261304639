"""What is particular to memory: names, bounds, collection, waiters, and forks."""

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import idemstore
from idemstore import Claimed, Completed, InFlight
from idemstore.backends import memory
from idemstore.backends.memory import COLLECTED_PER_CALL, Engine
from idemstore.errors import InvalidUrl, ResultTooLarge, StoreFull
from idemstore.machine import MICROSECONDS, Claim, Complete, Release, Renew


def engine_at(moment: int) -> tuple[Engine, list[int]]:
    """An engine whose clock the test sets (microseconds)."""
    engine, clock = Engine(), [moment]
    engine.clock = lambda: clock[0]
    return engine, clock


def claim(token: str = "token", lease: int = 10, retention: int | None = 20) -> Claim:
    """A claim; durations in seconds."""
    kept = None if retention is None else retention * MICROSECONDS
    return Claim(None, token, lease * MICROSECONDS, kept)


def test_unnamed_stores_share_nothing():
    """memory:// is private to its store."""
    one, two = idemstore.open("memory://"), idemstore.open("memory://")
    assert isinstance(one.claim("key"), Claimed)
    assert isinstance(two.claim("key"), Claimed)


def test_named_stores_share_records_across_modes():
    """memory://name is one set of records for sync and async stores of that name."""
    store = idemstore.open("memory://shared-by-name")
    answer = store.claim("key")
    assert isinstance(answer, Claimed)

    async def other():
        async with idemstore.open_async("memory://shared-by-name") as same:
            assert isinstance(await same.claim("key"), InFlight)
            return await same.complete("key", answer.token, b"r")

    assert asyncio.run(other()) == idemstore.Done()
    assert store.claim("key") == Completed(b"r")
    assert isinstance(idemstore.open("memory://another-name").claim("key"), Claimed)


def test_named_records_live_while_a_store_has_them_open():
    """The last store takes its records along."""
    store = idemstore.open("memory://short-lived")
    store.claim("key")
    second = idemstore.open("memory://short-lived")
    store.close()
    del store
    gc.collect()
    assert isinstance(second.claim("key"), InFlight)
    second.close()
    del second
    gc.collect()
    assert isinstance(idemstore.open("memory://short-lived").claim("key"), Claimed)


def test_full_store_refuses_new_keys():
    """max_records is a bound: StoreFull for a new key, nothing evicted; known keys go on, and room comes back."""
    store = idemstore.open("memory://?max_records=2")
    first, second = store.claim("a"), store.claim("b")
    assert isinstance(first, Claimed)
    assert isinstance(second, Claimed)
    with pytest.raises(StoreFull, match="max_records"):
        store.claim("c")
    assert isinstance(store.claim("a"), InFlight)
    assert store.complete("a", first.token, b"r") == idemstore.Done()
    store.release("b", second.token)
    assert isinstance(store.claim("c"), Claimed)


def test_full_store_makes_room_of_expired_records():
    """Expired records do not count."""
    engine, clock = engine_at(10**12)
    engine.max_records = 2
    for key in ("a", "b"):
        engine.apply(key, claim())
    with pytest.raises(StoreFull):
        engine.apply("c", claim())
    clock[0] += 40 * MICROSECONDS
    assert isinstance(engine.apply("c", claim()), Claimed)


def test_shared_bound_must_agree():
    """A name has one bound."""
    store = idemstore.open("memory://bounded?max_records=5")
    assert isinstance(idemstore.open("memory://bounded").claim("key"), Claimed)
    with pytest.raises(InvalidUrl, match="max_records=5"):
        idemstore.open("memory://bounded?max_records=6")
    store.close()


def test_largest_result_is_an_option():
    """max_result bounds results and checkpoints."""
    store = idemstore.open("memory://?max_result=4")
    answer = store.claim("key")
    assert isinstance(answer, Claimed)
    with pytest.raises(ResultTooLarge):
        store.complete("key", answer.token, b"12345")
    assert store.complete("key", answer.token, b"1234") == idemstore.Done()
    assert store.limits.value_bytes == 4


def test_calls_collect_expired_records():
    """Every call takes a few expired records along, so that all go in the end, and no call takes long."""
    engine, clock = engine_at(10**12)
    for number in range(10):
        engine.apply(f"old-{number}", claim())
    clock[0] += 100 * MICROSECONDS
    for calls in range(1, 6):
        engine.apply(f"new-{calls}", claim(retention=None))
        assert len(engine.records) == 10 - COLLECTED_PER_CALL * calls + calls
    assert set(engine.records) == {f"new-{calls}" for calls in range(1, 6)}


def test_collection_honours_a_later_end():
    """A record whose end moved is not collected at its old one."""
    engine, clock = engine_at(10**12)
    engine.apply("renewed", claim("a"))
    engine.apply("renewed", Renew("a", 500 * MICROSECONDS))
    engine.apply("completed", claim("b"))
    engine.apply("completed", Complete("b", b"r", None))
    engine.apply("taken over", claim("c"))
    clock[0] += 15 * MICROSECONDS
    engine.apply("taken over", claim("d", lease=500))
    clock[0] += 100 * MICROSECONDS
    assert engine.purge(100) == 0
    assert set(engine.records) == {"renewed", "completed", "taken over"}
    clock[0] += 1000 * MICROSECONDS
    assert engine.purge(100) == 2
    assert set(engine.records) == {"completed"}


def test_released_keys_leave_nothing_behind():
    """A key that came and went costs no memory until its end would have come."""
    engine, clock = engine_at(10**12)
    for number in range(100):
        clock[0] += 1
        engine.apply("key", claim(f"t{number}"))
        engine.apply("key", Release(f"t{number}"))
    assert engine.records == {}
    assert sum(len(keys) for keys in engine._ends.values()) == 0
    assert len(engine._ends) <= 2


def test_released_keys_of_many_retentions_leave_nothing_behind():
    """Every end lies in another second: the seconds in which nothing ends any more are forgotten."""
    engine, _ = engine_at(10**15)
    for number in range(5000):
        engine.apply("key", claim(retention=20 + 2 * number))
        engine.apply("key", Release("token"))
    assert not engine.records
    assert len(engine._ends) < 2000
    assert len(engine._seconds) < 2000


def test_no_engine_is_made_during_a_fork():
    """A fork goes through all engines: one that came in between made it give up half-way, and the process hung."""
    with memory._naming:
        thread = threading.Thread(target=Engine, daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()


def test_purge_is_exact():
    """A record is purged from the moment that it ends, not before, and no more than asked."""
    engine, clock = engine_at(10**12)
    for number in range(5):
        engine.apply(f"key-{number}", claim())
    clock[0] += 30 * MICROSECONDS - 1
    assert engine.purge(10) == 0
    clock[0] += 1
    assert [engine.purge(2), engine.purge(2), engine.purge(2), engine.purge(2)] == [2, 2, 1, 0]
    assert engine.records == {}


def test_clock_never_stands_still():
    """Two readings differ, so fences of two lives of a key do, too."""
    engine = Engine()
    readings = [engine.clock() for _ in range(1000)]
    assert readings == sorted(set(readings))


def test_clock_is_the_wall_clock():
    """Microseconds since the epoch, as near as this process can tell, on a clock that nobody sets back."""
    assert abs(idemstore.open("memory://").ping() - time.time() * 1e6) < 60e6


def test_waiters_leave_nothing_behind():
    """After a wait, however it ended, the engine knows no watcher, in both modes."""
    store = idemstore.open("memory://watched")
    engines = []
    probe = store.wrapped(lambda driver: engines.append(driver.engine) or driver)
    probe.ping()
    store.claim("key")
    assert isinstance(store.claim("key", wait=0.02), InFlight)
    assert engines[0]._watchers == {}

    async def main():
        async with idemstore.open_async("memory://watched") as other:
            assert isinstance(await other.claim("key", wait=0.02), InFlight)
            waiter = asyncio.create_task(other.claim("key", wait=30))
            while not engines[0]._watchers:  # noqa: ASYNC110 - the engine tells nobody
                await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter

    asyncio.run(main())
    assert engines[0]._watchers == {}


def test_waiter_is_woken_from_another_thread():
    """An async waiter hears of a completion in a thread."""
    store = idemstore.open("memory://threads-and-tasks")
    answer = store.claim("key", lease=600)
    assert isinstance(answer, Claimed)

    async def main():
        async with idemstore.open_async("memory://threads-and-tasks") as other:
            waiter = asyncio.create_task(other.claim("key", wait=30))
            await asyncio.sleep(0)
            thread = threading.Thread(target=store.complete, args=("key", answer.token, b"r"))
            thread.start()
            try:
                return await asyncio.wait_for(waiter, 10)
            finally:
                thread.join()

    assert asyncio.run(main()) == Completed(b"r")


def test_child_goes_on_with_a_copy():
    """After fork() parent and child have the records of that moment, then their own; a busy lock does not matter."""
    script = textwrap.dedent("""
        import os, threading, idemstore
        store = idemstore.open("memory://forked")
        token = store.claim("before").token
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                store.claim("busy")
        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads: thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                assert isinstance(store.claim("before"), idemstore.InFlight)
                assert store.complete("before", token, b"child's") == idemstore.Done()
                assert isinstance(store.claim("new"), idemstore.Claimed)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads: thread.join()
        assert isinstance(store.claim("before"), idemstore.InFlight)
        assert isinstance(store.claim("new"), idemstore.Claimed)
        print("well")
    """)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.stderr) == ("well\n", "")
