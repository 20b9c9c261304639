"""The harness itself: orders to a driver, the blocking face of an async store, storms and labs."""

import asyncio
import inspect
import threading
import time
from functools import partial

import pytest

import idemstore
from idemstore.errors import StoreTimeout, StoreUnavailable
from idemstore.machine import MICROSECONDS, Claim
from idemstore.outcomes import Claimed, Completed, InFlight
from idemstore.store import Store
from idemstore.testing.blocking import BlockingStore, LoopThread
from idemstore.testing.contract_lab import MODES, Lab, claimed, expect, near, raises
from idemstore.testing.families.memory import make
from idemstore.testing.storm import perform, together


@pytest.fixture(params=MODES)
def lab(request, tmp_path):
    """A lab on memory."""
    with Lab(make("memory", None, tmp_path), request.param) as made:
        yield made


def test_resent_request_reaches_the_server_each_time(lab):
    """One round trip for the caller, so many deliveries."""
    store, faults = lab.faulty()
    key = lab.key()
    faults.resend(3)
    assert isinstance(store.claim(key), Claimed)
    assert faults.round_trips == 1


def test_lost_reply_was_applied(lab):
    """The caller is told of a time-out, and the record is there."""
    store, faults = lab.faulty()
    key = lab.key()
    faults.lose_reply()
    with pytest.raises(StoreTimeout):
        store.claim(key)
    assert lab.store.get(key) is not None


def test_lost_request_was_not_applied(lab):
    """The caller is told, and nothing is there."""
    store, faults = lab.faulty()
    key = lab.key()
    faults.lose_request()
    with pytest.raises(StoreUnavailable):
        store.claim_many([key])
    assert lab.store.get(key) is None


def test_orders_are_followed_in_turn(lab):
    """Each order is for one round trip; those that pass are counted, too."""
    store, faults = lab.faulty()
    faults.passing(2)
    faults.lose_request()
    store.ping()
    store.ping()
    with pytest.raises(StoreUnavailable):
        store.ping()
    store.ping()
    assert faults.round_trips == 4


def test_stop_before_and_after(lab):
    """Before: not yet applied. After: applied, and not yet heard of."""
    for after in (False, True):
        store, faults = lab.faulty()
        key = lab.key()
        stop = faults.stop_after() if after else faults.stop_before()
        later = lab.background(partial(store.claim, key))
        assert later.comes_to(stop)
        assert (lab.store.get(key) is not None) is after
        assert later.running()
        stop.go()
        assert isinstance(later.result(), Claimed)


def test_stop_that_is_never_reached(lab):
    """A call that ends before is known to have missed it."""
    store, faults = lab.faulty()
    faults.passing(1)
    stop = faults.stop_before()
    later = lab.background(store.ping)
    assert not later.comes_to(stop)
    assert later.result() > 0


def test_stop_after_may_lose_the_reply(lab):
    """Held back, then lost."""
    store, faults = lab.faulty()
    stop = faults.stop_after(lost=True)
    later = lab.background(store.ping)
    assert later.comes_to(stop)
    stop.go()
    with pytest.raises(StoreTimeout):
        later.result()


def test_lab_ends_what_a_test_left_standing(tmp_path):
    """A failing test does not hang: closing the lab lets every stopped driver go on."""
    for mode in MODES:
        with Lab(make("memory", None, tmp_path), mode) as lab:
            store, faults = lab.faulty()
            stuck = faults.stop_before()
            later = lab.background(store.ping)
            later.comes_to(stuck)
        assert not later.running()


def test_labs_leave_no_thread(tmp_path):
    """Loops and workers end with the lab."""
    before = set(threading.enumerate())
    for mode in MODES:
        with Lab(make("memory", None, tmp_path), mode) as lab:
            lab.background(lab.store.ping).result()
    assert set(threading.enumerate()) <= before


def test_blocking_store_has_every_method_of_store():
    """With the same parameters, so that a test is written once."""
    for name, method in inspect.getmembers(Store, inspect.isfunction):
        if name.startswith("_") or name == "after_fork":
            continue
        assert callable(getattr(BlockingStore, name)), name
        other = inspect.signature(getattr(idemstore.AsyncStore, name))
        assert (
            list(other.parameters.values()) == list(inspect.signature(method).parameters.values()) or name == "wrapped"
        )
    for name in ("limits", "name", "timeout"):
        assert hasattr(BlockingStore, name)


def test_loop_thread_passes_errors_on():
    """What a coroutine raises is raised in the calling thread; closing twice is fine."""

    async def fail():
        raise ZeroDivisionError

    with LoopThread() as thread, pytest.raises(ZeroDivisionError):
        thread.call(fail())
    thread.close()


def test_loop_thread_cancels_what_is_left():
    """No task outlives the loop."""
    ended = threading.Event()

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    thread = LoopThread()
    future = thread.submit(hang())
    thread.submit(asyncio.sleep(0)).result(5)
    thread.close()
    assert ended.wait(5)
    assert future.cancelled()


def test_together_runs_clients_side_by_side(lab):
    """Every client's operations are recorded, in its own order, all within one common order."""
    key = lab.key()
    scripts = [[Claim(None, f"{client}-{turn}", MICROSECONDS, None) for turn in range(3)] for client in range(5)]
    history = together(lab.store, key, scripts)
    assert len(history) == 15
    moments = [moment for operation in history for moment in (operation.start, operation.end)]
    assert sorted(moments) == list(range(30))
    for client in range(5):
        mine = [operation for operation in history if operation.client == client]
        assert [operation.event for operation in sorted(mine)] == scripts[client]
    assert sum(isinstance(operation.outcome, Claimed) for operation in history) == 1


def test_together_raises_what_a_client_raises(lab):
    """A failing client fails the test, in either mode."""
    with pytest.raises(idemstore.IdemstoreError):
        together(lab.store, "", [[Claim(None, "t", MICROSECONDS, None)]])


def test_perform_speaks_the_machines_language(lab):
    """An event becomes the call that means it."""
    key = lab.key()
    answer = perform(lab.store, key, Claim(b"f", "token", 60 * MICROSECONDS, None, takeover=False))
    assert isinstance(answer, Claimed)
    found = lab.store.get(key)
    assert found is not None
    assert (found.record.token, found.record.fingerprint, found.expires_in) == ("token", b"f", None)
    assert near(found.lease_left, 60)


def test_assertions_of_the_contract():
    """They fail as assertions do."""
    assert claimed(Claimed("t", 1, 1)).attempt == 1
    with pytest.raises(AssertionError, match="expected Claimed, got InFlight"):
        claimed(InFlight(5))
    with pytest.raises(AssertionError, match="expected Completed"):
        expect(Completed, None)
    with pytest.raises(AssertionError, match="not refused by StoreTimeout"):
        raises(StoreTimeout, lambda: 5)
    assert not near(None, 5)
    assert not near(20.0, 5)
    assert near(5.1, 5)


def test_lab_knows_what_is_prompt(tmp_path):
    """Well within a waiter's patience."""
    with Lab(make("memory", None, tmp_path), "sync", patience=100.0) as lab:
        assert lab.prompt(time.monotonic())
        assert not lab.prompt(time.monotonic() - 70)
