"""Batches: what is new runs once, what is not is answered, and nothing that was done is lost."""

import asyncio
import threading
import time

import pytest
from desk import Calls, Desk, Held, hurry, until

import idemstore
from idemstore import AsyncBatch, AsyncGuard, Policy, State, StoreDown
from idemstore.batch_core import MAX_KEYS
from idemstore.errors import (
    CompletionUnknown,
    GuardClosed,
    InvalidInput,
    InvalidKey,
    LeaseLostError,
    NestedCall,
    OperationInFlight,
    PayloadMismatch,
    ReplayedFailure,
    RetryLater,
    StoreUnavailable,
    UncarriedResult,
)

KEYS = [f"key-{number}" for number in range(5)]


def test_every_key_runs_once(desk: Desk):
    """New keys run, in order; a second map gets all from the store."""
    guard, ran = desk.guard(), []
    batch = desk.batch(guard)

    def work(key):
        ran.append(key)
        return f"{key} done"

    first = batch.map(KEYS, work)
    assert [item.value for item in first] == [f"{key} done" for key in KEYS]
    assert all(item.done and not item.replayed and item.error is None for item in first)
    second = batch.map(KEYS, work)
    assert [item.value for item in second] == [f"{key} done" for key in KEYS]
    assert all(item.done and item.replayed for item in second)
    assert ran == KEYS


def test_round_trips(desk: Desk):
    """One to claim, one to record; recording is cut by ``flush_every``, claiming by ``claim_at_once``."""
    desk.batch(desk.guard()).map(KEYS, Calls(1))
    assert desk.faults.round_trips == 2
    desk.batch(desk.guard(), flush_every=2, claim_at_once=3).map([f"other-{key}" for key in KEYS], Calls(1))
    assert desk.faults.round_trips == 2 + (1 + 2) + (1 + 1)


def test_nothing_to_do(desk: Desk):
    """An empty batch asks nothing."""
    assert desk.batch(desk.guard()).map([], Calls(1)) == []
    assert desk.faults.round_trips == 0


def test_old_results_do_not_wait(desk: Desk):
    """When a function returns and nothing has been recorded for ``flush_after``, it is, however little there is."""
    guard = desk.guard()
    states = []

    def work(key):
        states.append([desk.record(other).state for other in KEYS[:2] if desk.record(other)])
        time.sleep(0.03)
        return 1

    desk.batch(guard, flush_after=0.02).map(KEYS[:2], work)
    assert states[1] == [State.COMPLETED, State.IN_FLIGHT]


def test_errors_stay_with_their_item(desk: Desk):
    """An exception is recorded as the policy says and does not disturb the others."""
    guard = desk.guard(final=(KeyError,), release=(OSError,), retryable=(ValueError,), back_off=10)
    errors = {"key-1": KeyError("final"), "key-2": OSError("free"), "key-3": ValueError("later")}

    def work(key):
        if key in errors:
            raise errors[key]
        return "ok"

    items = desk.batch(guard).map(KEYS, work)
    assert [item.error for item in items] == [None, errors["key-1"], errors["key-2"], errors["key-3"], None]
    assert [item.done for item in items] == [True, True, False, False, True]
    again = desk.batch(guard).map(KEYS, Calls("ran"))
    assert [type(item.error) for item in again] == [type(None), ReplayedFailure, type(None), RetryLater, type(None)]
    assert [item.value for item in again] == ["ok", None, "ran", None, "ok"]
    assert [item.done for item in again] == [True, True, True, False, True]


def test_bad_items_stay_with_themselves(desk: Desk):
    """A bad key or fingerprint is its item's error; its neighbours run."""
    keys = ["a", "", "b", 7, "c"]
    items = desk.batch(desk.guard()).map(keys, Calls("ran"), fingerprints=[None, None, b"x" * 65, None, b"ok"])
    kinds = [type(item.error) for item in items]
    assert kinds == [type(None), InvalidKey, InvalidInput, InvalidKey, type(None)]
    assert [item.key for item in items] == keys


def test_fingerprints_are_one_for_each_key(desk: Desk):
    """Too few are refused before anything is sent."""
    with pytest.raises(InvalidInput):
        desk.batch(desk.guard()).map(KEYS, Calls(1), fingerprints=[b"x"])
    assert desk.faults.round_trips == 0


@pytest.mark.parametrize(
    "options", [{"flush_every": 0}, {"claim_at_once": 501}, {"flush_after": 0}, {"flush_every": True}]
)
def test_bad_bounds(desk: Desk, options):
    """Bounds are checked when the batch is made."""
    with pytest.raises(InvalidInput):
        desk.batch(desk.guard(), **options)


def test_bad_concurrency():
    """So is the concurrency of an async batch."""
    guard = AsyncGuard(idemstore.open_async("memory://"))
    for concurrency in (0, -1, True, 1.5):
        with pytest.raises(InvalidInput):
            AsyncBatch(guard, concurrency=concurrency)


def test_too_many_keys(desk: Desk):
    """A batch is bounded."""
    with pytest.raises(InvalidInput):
        desk.batch(desk.guard()).map(["key"] * (MAX_KEYS + 1), Calls(1))


def test_closed_guard(desk: Desk):
    """A closed guard refuses the whole map."""
    guard = desk.guard()
    guard.close()
    with pytest.raises(GuardClosed):
        desk.batch(guard).map(KEYS, Calls(1))


def test_in_flight_elsewhere(desk: Desk):
    """What runs elsewhere is not waited for: its message comes again."""
    desk.plain.claim("key-1", lease=60)
    items = desk.batch(desk.guard(wait=30)).map(KEYS, Calls("ran"))
    assert isinstance(items[1].error, OperationInFlight)
    assert [item.done for item in items] == [True, False, True, True, True]


def test_nested_batch(desk: Desk):
    """The key of the operation that maps is refused, not waited for."""
    guard, kinds = desk.guard(), []

    def work():
        kinds.extend(type(item.error) for item in desk.batch(guard).map(KEYS, Calls("ran")))
        return 1

    guard.call("key-1", work)
    assert kinds == [type(None), NestedCall, type(None), type(None), type(None)]


# -- duplicates -------------------------------------------------------------------------------------------------------


def test_duplicate_gets_the_result_of_the_first(desk: Desk):
    """A key that comes twice runs once; the second is answered when the first is recorded."""
    fn = Calls("one", "two")
    items = desk.batch(desk.guard()).map(["a", "b", "a", "a"], fn)
    assert [item.value for item in items] == ["one", "two", "one", "one"]
    assert [item.replayed for item in items] == [False, False, True, True]
    assert fn.count == 2


def test_many_duplicates_cost_few_round_trips(desk: Desk):
    """All that wait for one key are answered at once."""
    items = desk.batch(desk.guard()).map(["a"] * 80, Calls("one"))
    assert {item.value for item in items} == {"one"}
    assert desk.faults.round_trips == 3


def test_duplicate_of_a_failure_that_may_be_retried(desk: Desk):
    """The second message tries again, as a later delivery would."""
    fn = Calls(ValueError("x"), "second")
    items = desk.batch(desk.guard()).map(["a", "a", "a"], fn)
    assert isinstance(items[0].error, ValueError)
    assert [item.value for item in items[1:]] == ["second", "second"]


def test_duplicate_of_a_final_failure(desk: Desk):
    """The others get the stored failure."""
    fn = Calls(ValueError("x"))
    items = desk.batch(desk.guard(final=(ValueError,))).map(["a", "a", "a"], fn)
    assert [type(item.error) for item in items] == [ValueError, ReplayedFailure, ReplayedFailure]
    assert (fn.count, [item.done for item in items]) == (1, [True] * 3)


def test_duplicate_with_another_payload(desk: Desk):
    """It gets neither the result nor a run of its own."""
    items = desk.batch(desk.guard()).map(["a", "a"], Calls("one"), fingerprints=[b"x", b"y"])
    assert items[0].value == "one"
    assert isinstance(items[1].error, PayloadMismatch)


def test_scope_and_key_that_read_alike(desk: Desk):
    """Duplicates are told by the stored key."""
    items = desk.batch(desk.guard()).map([("a", "b"), "a:b", ("a", "b")], Calls("one", "two"))
    assert [item.value for item in items] == ["one", "two", "one"]


# -- leases -----------------------------------------------------------------------------------------------------------


def test_all_leases_are_kept_alive_until_recorded(desk: Desk):
    """Keys that wait for their turn, and results that wait to be recorded, stay ours."""
    guard, held = desk.guard(lease=30), Held()

    def work(key):
        return held() if key == "key-2" else key

    mapping = desk.background(lambda: desk.batch(guard, flush_after=600).map(KEYS, work))
    held.running.wait()
    for _ in range(3):
        for key in KEYS:
            desk.age(key, 25)
        ends = {key: desk.record(key).lease_until for key in KEYS}
        hurry(guard)
        until(lambda ends=ends: all(desk.record(key).lease_until > ends[key] + 20_000_000 for key in KEYS))
    assert {desk.record(key).state for key in KEYS} == {State.IN_FLIGHT}
    held.go.set()
    assert all(item.done for item in mapping.result())
    assert len(guard.heartbeat._beats) == 0


def test_key_that_is_lost_before_its_turn(desk: Desk):
    """It does not run here: its new owner runs it."""
    guard, ran = desk.guard(lease=60), []

    def lost():
        hurry(guard)
        return len(guard.heartbeat._beats) <= 4

    def work(key):
        ran.append(key)
        if key == "key-0":
            desk.age("key-1", 61)
            desk.plain.claim("key-1", lease=60)
            until(lost)
        return "ran"

    items = desk.batch(guard).map(KEYS, work)
    assert isinstance(items[1].error, LeaseLostError)
    assert ran == ["key-0", "key-2", "key-3", "key-4"]
    assert [item.done for item in items] == [True, False, True, True, True]


def test_owner_that_was_replaced(desk: Desk):
    """Its result is refused, its item has the value, and the others are recorded."""
    guard = desk.guard(lease=60)

    def work(key):
        if key == "key-1":
            desk.age("key-1", 61)
            desk.plain.claim("key-1", lease=60)
        return key

    items = desk.batch(guard).map(KEYS, work)
    assert isinstance(items[1].error, LeaseLostError)
    assert (items[1].value, items[1].done) == ("key-1", False)
    assert [item.done for item in items] == [True, False, True, True, True]


# -- recording --------------------------------------------------------------------------------------------------------


def test_recording_is_repeated(desk: Desk):
    """A lost request or reply costs time only."""

    def work(key):
        if key == "key-4":
            desk.faults.lose_request()
            desk.faults.lose_reply()
        return key

    items = desk.batch(desk.guard()).map(KEYS, work)
    assert [item.value for item in items] == KEYS
    assert all(item.done for item in items)


def test_recording_that_fails(desk: Desk):
    """When the leases would be over each item says so, with its value."""

    def work(key):
        if key == "key-1":  # the last one: an outage before its turn could lose its lease, and it would not run
            for _ in range(1000):
                desk.faults.lose_request()
        return key

    items = desk.batch(desk.guard(lease=0.3), flush_after=600).map(KEYS[:2], work)
    assert [type(item.error) for item in items] == [CompletionUnknown] * 2
    assert [item.value for item in items] == KEYS[:2]
    assert [item.error.value for item in items] == KEYS[:2]
    assert not any(item.done for item in items)


def test_result_that_the_codec_cannot_carry(desk: Desk):
    """Its work is done and recorded, so its message is done, too."""
    value = object()
    items = desk.batch(desk.guard()).map(["a", "a"], Calls(value))
    assert [type(item.error) for item in items] == [UncarriedResult] * 2
    assert items[0].value is value
    assert all(item.done for item in items)


# -- store down -------------------------------------------------------------------------------------------------------


def test_store_down_refuses_all(desk: Desk):
    """Nothing runs, and the store is not asked again for the rest."""
    fn = Calls("ran")
    desk.faults.lose_request()
    items = desk.batch(desk.guard(), claim_at_once=2).map(KEYS, fn)
    assert all(isinstance(item.error, StoreUnavailable) for item in items)
    assert (fn.count, desk.faults.round_trips) == (0, 1)


def test_claims_whose_reply_was_lost(desk: Desk):
    """They are in force; the next map of this process takes them up."""
    guard, fn = desk.guard(), Calls("ran")
    batch = desk.batch(guard)
    desk.faults.lose_reply()
    assert not any(item.done for item in batch.map(KEYS, fn))
    items = batch.map(KEYS, fn)
    assert all(item.done for item in items)
    assert {desk.record(key).attempt for key in KEYS} == {1}


def test_store_down_proceeds_where_asked_to(desk: Desk, caplog):
    """Each item runs unprotected, and each is logged."""
    desk.faults.lose_request()
    items = desk.batch(desk.guard(store_down=StoreDown.PROCEED)).map(KEYS, Calls("ran"))
    assert [item.value for item in items] == ["ran"] * 5
    assert sum("unprotected" in record.message for record in caplog.records) == 5
    assert desk.faults.round_trips == 1


# -- interruptions ----------------------------------------------------------------------------------------------------


def test_interrupted_in_the_middle():
    """What ran is recorded, what was running may run again, what did not run is as if never claimed."""
    with Desk("sync") as desk:
        desk.plain.claim("key-4", lease=1)
        desk.age("key-4", 5)

        def work(key):
            if key == "key-2":
                raise KeyboardInterrupt
            return key

        with pytest.raises(KeyboardInterrupt):
            desk.batch(desk.guard()).map(KEYS, work)
        states = [record and record.state for record in map(desk.record, KEYS)]
        assert states == [State.COMPLETED, State.COMPLETED, State.FAILED, None, State.FAILED]
        items = desk.batch(desk.guard()).map(KEYS, lambda key: desk.operation().attempt)
        assert [item.value for item in items] == ["key-0", "key-1", 2, 1, 3]


def test_interrupted_claim():
    """Ctrl-C while the claims are under way: every key is free."""
    from test_recording import interrupted

    for when in ("before", "after"):
        with Desk("sync") as desk:
            store, _ = interrupted(desk, **{when: [1]})
            fn = Calls("ran")
            with pytest.raises(KeyboardInterrupt):
                desk.batch(desk.guard_on(store)).map(KEYS, fn)
            assert fn.count == 0
            assert all(item.done for item in desk.batch(desk.guard()).map(KEYS, fn))


def test_interrupted_recording():
    """Ctrl-C while results are being recorded: one more try, then it goes on."""
    from test_recording import interrupted

    for when in ("before", "after"):
        with Desk("sync") as desk:
            store, _ = interrupted(desk, **{when: [2]})
            with pytest.raises(KeyboardInterrupt):
                desk.batch(desk.guard_on(store)).map(KEYS, Calls("ran"))
            assert {desk.record(key).state for key in KEYS} == {State.COMPLETED}


def test_cancelled_in_the_middle():
    """As an interruption; with several workers, too."""
    from test_cancel import Table

    async def main(concurrency):
        table, go = Table(), asyncio.Event()

        async def work(key):
            if key in ("key-2", "key-3"):
                go.set()
                await asyncio.sleep(3600)
            return key

        batch = AsyncBatch(table.guard, concurrency=concurrency)
        task = asyncio.create_task(batch.map(KEYS, work))
        await go.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        states = [await table.state(key) for key in KEYS]
        running = 2 if concurrency > 1 else 1
        assert states == [State.COMPLETED] * 2 + [State.FAILED] * running + [None] * (3 - running)

    asyncio.run(main(1))
    asyncio.run(main(2))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("trip", [1, 2])
def test_cancelled_under_way(when, trip):
    """Cancelled while claiming: all keys are free. While recording: all are recorded."""
    from test_cancel import Table, cancelled_at

    async def main():
        table = Table({trip: when})

        async def work(key):
            return key

        await cancelled_at(table, AsyncBatch(table.guard).map(KEYS, work))
        items = await AsyncBatch(table.guard).map(KEYS, work)
        assert all(item.done and item.replayed == (trip == 2) for item in items)

    asyncio.run(main())


def test_function_that_cancels_itself():
    """A CancelledError of the function's own is its item's error; the batch goes on."""
    from test_cancel import Table

    async def main():
        async def work(key):
            if key == "key-1":
                raise asyncio.CancelledError
            return key

        items = await AsyncBatch(Table().guard).map(KEYS, work)
        assert isinstance(items[1].error, asyncio.CancelledError)
        assert [item.done for item in items] == [True, False, True, True, True]

    asyncio.run(main())


def test_concurrency():
    """So many functions run at a time, no more; results come in the order of the keys."""

    async def main():
        guard, running, most = AsyncGuard(idemstore.open_async("memory://"), Policy()), 0, 0

        async def work(key):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            return key

        keys = [f"key-{number}" for number in range(30)]
        items = await AsyncBatch(guard, concurrency=7, flush_every=4).map(keys, work)
        assert [item.value for item in items] == keys
        assert most == 7

    asyncio.run(main())


def test_batches_in_threads():
    """Two consumers with the same messages: each key runs once in all."""
    with Desk("sync") as desk:
        guard, ran, lock = desk.guard(), [], threading.Lock()

        def work(key):
            with lock:
                ran.append(key)
            return key

        keys = [f"key-{number}" for number in range(300)]
        maps = [desk.background(lambda: desk.batch(guard, claim_at_once=10).map(keys, work)) for _ in range(3)]
        items = [one for one in maps for one in one.result()]
        assert sorted(ran) == sorted(keys)
        assert all(item.done or isinstance(item.error, OperationInFlight) for item in items)
