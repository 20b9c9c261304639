"""The heartbeat: leases are kept alive while functions run, losses are told, and it keeps nothing alive itself."""

import asyncio
import gc
import threading
import time
import weakref

import pytest
from desk import Calls, Desk, Held, hurry, until, wake

import idemstore
from idemstore import AsyncGuard, AsyncOperation, Guard, Policy, State
from idemstore.async_keepalive import async_keepalive
from idemstore.errors import CompletionUnknown, LeaseLostError, OperationInFlight, StoreTimeout
from idemstore.keepalive import Beat, Beats, Keepalive, keepalive, parcels
from idemstore.outcomes import DONE, LEASE_LOST

LEASE = 0.3
"""Short, so that tests see several beats; long enough for a busy machine."""


def test_lease_is_kept_alive(desk: Desk):
    """A function that runs for several leases keeps its key: nobody takes over, and it completes."""
    guard, held = desk.guard(lease=30), Held()
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    for _ in range(4):
        desk.age("key", 25)
        start = desk.record("key").lease_until
        hurry(guard)
        until(lambda start=start: desk.record("key").lease_until > start + 20 * 1e6)
    with pytest.raises(OperationInFlight):
        guard.call("key", Calls("other"))
    held.go.set()
    assert first.result() == "done"
    assert desk.record("key").attempt == 1


def test_without_a_heartbeat_the_lease_ends(desk: Desk):
    """``heartbeat=False``: the next caller takes over, and the first owner is told, with the value it made."""
    guard, held = desk.guard(lease=60, heartbeat=False), Held("mine")
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    desk.age("key", 61)
    assert guard.call("key", Calls("theirs")) == "theirs"
    held.go.set()
    with pytest.raises(LeaseLostError) as lost:
        first.result()
    assert lost.value.value == "mine"
    assert guard.call("key", Calls("third")) == "theirs"


def test_hiccup_shorter_than_the_lease_is_no_loss(desk: Desk):
    """Renewals that fail are tried again; the function never hears of it."""
    guard = desk.guard(lease=30)
    seen = []

    def work() -> str:
        """Outlast two lost renewals."""
        before = desk.faults.round_trips
        desk.faults.lose_request()
        desk.faults.lose_reply()
        hurry(guard)
        until(lambda: wake(guard) or desk.faults.round_trips >= before + 3)
        start = desk.record("key").lease_until
        until(lambda: hurry(guard) or desk.record("key").lease_until > start)
        seen.append(desk.operation().lease_lost)
        return "done"

    assert guard.call("key", work) == "done"
    assert seen == [False]


def test_takeover_is_reported(desk: Desk, caplog):
    """An owner that was replaced learns it from its operation, and the call raises with the value."""
    guard = desk.guard(lease=60)

    def work() -> str:
        """Run until the loss is known."""
        operation = desk.operation()
        desk.age("key", 61)
        desk.plain.claim("key", lease=60)
        hurry(guard)
        until(lambda: operation.lease_lost)
        return "mine"

    with pytest.raises(LeaseLostError) as lost:
        guard.call("key", work)
    assert lost.value.value == "mine"
    assert desk.record("key").state is State.IN_FLIGHT
    until(lambda: any("lost" in record.getMessage() for record in caplog.records))  # the heartbeat's thread tells
    assert sum("lost" in record.getMessage() for record in caplog.records) == 1


def test_outage_longer_than_the_lease_is_reported_and_survived(desk: Desk):
    """When no renewal gets through in time the function is told; if nobody took over meanwhile, it still completes."""
    guard = desk.guard(lease=LEASE)

    def work() -> str:
        """Run through an outage."""
        operation = desk.operation()
        for _ in range(10_000):
            desk.faults.lose_request()
        until(lambda: operation.lease_lost)
        desk.faults.release()
        return "done"

    assert guard.call("key", work) == "done"
    assert guard.call("key", Calls("other")) == "done"


def test_renewals_go_on_behind_the_end_of_the_lease(desk: Desk):
    """After an outage the lease is taken up again where nobody else has, so nobody else will."""
    guard = desk.guard(lease=LEASE)

    def work() -> str:
        """Run through an outage and beyond."""
        operation = desk.operation()
        for _ in range(10_000):
            desk.faults.lose_request()
        until(lambda: operation.lease_lost)
        start = desk.record("key").lease_until
        desk.faults.release()
        until(lambda: desk.record("key").lease_until > start)
        return "done"

    assert guard.call("key", work) == "done"


def test_closed_store_ends_the_beat(desk: Desk):
    """Closing the store under a running function reports the loss, and the completion says what cannot be known."""
    store = desk.open()
    guard = desk.guard_on(store, lease=LEASE)

    def work() -> str:
        """Run on with a closed store."""
        operation = desk.operation()
        store.close()
        until(lambda: operation.lease_lost)
        return "done"

    with pytest.raises(CompletionUnknown) as unknown:
        guard.call("key", work)
    assert unknown.value.value == "done"


class Spy:
    """A sync driver that notes how long renewals may take, and raises once if it is told to."""

    def __init__(self, driver) -> None:
        self.driver, self.timeouts, self.error = driver, [], None

    def execute(self, request, timeout):
        """Pass on."""
        return self.driver.execute(request, timeout)

    def execute_many(self, requests, timeout):
        """Note and pass on."""
        self.timeouts.append(timeout)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.driver.execute_many(requests, timeout)

    def close(self):
        """Pass on."""
        self.driver.close()


def spied() -> tuple[idemstore.Store, Spy]:
    """A sync store and the spy in it."""
    spies = []

    def wrap(driver):
        spies.append(Spy(driver))
        return spies[0]

    store = idemstore.open("memory://").wrapped(wrap)
    store.ping()
    return store, spies[0]


def test_a_renewal_has_a_third_of_the_lease():
    """So a server that hangs leaves time for another try."""
    store, spy = spied()
    guard = Guard(store, Policy(lease=LEASE))
    guard.call("key", lambda: until(lambda: len(spy.timeouts) >= 2))
    assert all(0 < timeout <= LEASE / 3 for timeout in spy.timeouts)


def test_heartbeat_outlives_a_driver_that_raises_nonsense(caplog):
    """A bug in a driver costs one renewal, not the leases of the whole process."""
    store, spy = spied()
    spy.error = ZeroDivisionError("bug")
    Guard(store, Policy(lease=LEASE)).call("key", lambda: until(lambda: len(spy.timeouts) >= 3))
    assert "ZeroDivisionError" in caplog.text


def test_guards_on_one_store_share_the_heartbeat(desk: Desk):
    """Two guards with operations in flight, one heartbeat that keeps both leases."""
    one, other = desk.guard(lease=60), desk.guard(lease=30)
    assert one.heartbeat is other.heartbeat
    kept = one.call("a", lambda: other.call("b", lambda: len(one.heartbeat._beats)))
    assert (kept, len(one.heartbeat._beats)) == (2, 0)


def heartbeat_thread(guard: Guard) -> threading.Thread:
    """The thread of its heartbeat, as a function finds it that the guard runs: soon afterwards it may have ended."""
    found: list[threading.Thread | None] = []
    guard.call("a", lambda: found.append(guard.heartbeat._thread))
    assert found[0] is not None
    return found[0]


def test_idle_heartbeat_ends_and_comes_back():
    """A thread with nothing to do ends; the next call starts another."""
    store = idemstore.open("memory://")
    guard = Guard(store, Policy(lease=0.02))
    first = heartbeat_thread(guard)
    first.join(20)
    assert not first.is_alive()
    guard.call("b", Calls(1))
    assert guard.heartbeat._thread is not first


def test_idle_async_heartbeat_ends_and_comes_back():
    """The same for a task."""

    async def main() -> None:
        store = idemstore.open_async("memory://")
        guard = AsyncGuard(store, Policy(lease=0.02))

        async def work() -> int:
            return 1

        await guard.call("a", work)
        first = guard.heartbeat._task
        assert first is not None
        await asyncio.wait_for(first, 20)
        await guard.call("b", work)
        assert guard.heartbeat._task not in (None, first)

    asyncio.run(main())


def test_heartbeat_does_not_keep_its_store():
    """A store that nobody uses any more goes, and its thread with it."""
    store = idemstore.open("memory://")
    guard, gone = Guard(store, Policy(lease=0.02)), weakref.ref(store)
    thread = heartbeat_thread(guard)
    del store, guard
    gc.collect()
    until(lambda: gone() is None)  # the thread holds it for as long as a renewal takes
    thread.join(20)
    assert not thread.is_alive()


def test_heartbeat_of_a_store_is_found_again():
    """One heartbeat for each store, whoever asks."""
    one, other = idemstore.open("memory://"), idemstore.open("memory://")
    assert keepalive(one) is keepalive(one)
    assert keepalive(one) is not keepalive(other)
    lonely = idemstore.open_async("memory://")
    assert async_keepalive(lonely) is async_keepalive(lonely)


def test_heartbeat_task_does_not_carry_the_operation_that_started_it():
    """Else a finished operation would be kept, and its context with it, for as long as the task runs."""

    async def main() -> None:
        guard = AsyncGuard(idemstore.open_async("memory://"), Policy(lease=30))

        async def work() -> None:
            await asyncio.sleep(0)

        await guard.call("carried", lambda: guard.call("inner", work))
        assert guard.heartbeat._task is not None
        gc.collect()
        left = [found for found in gc.get_objects() if type(found) is AsyncOperation]
        assert "carried" not in [operation.key for operation in left]

    asyncio.run(main())


def test_no_thread_to_be_had(monkeypatch, caplog):
    """Where no thread can be started the call runs all the same; a lease is all the time it has."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    guard = Guard(idemstore.open("memory://"))
    assert [guard.call(f"key-{number}", Calls("ran")) for number in range(3)] == ["ran"] * 3
    assert caplog.text.count("no heartbeat") == 1


# -- the parts --------------------------------------------------------------------------------------------------------


def beat(lease: float = 30.0) -> Beat:
    """A lease that was granted just now."""
    return Beat("key", "token", lease)


def test_beats_come_early_by_chance():
    """A lease is due between four fifteenths and a third of itself after the claim, and leases are spread over that."""
    beats = [beat() for _ in range(200)]
    dues = [one.due - (one.until - one.lease) for one in beats]
    assert 7.9 < min(dues) < 8.5 < 9.5 < max(dues) < 10.1


def test_only_a_shorter_lease_wakes_the_heartbeat():
    """Beginning a lease costs no wake-up, unless it could be due before the next look."""
    beats, first, second, short = Beats(), beat(), beat(), beat(1.0)
    assert beats.add(first)
    looked = time.monotonic()
    _, pause = beats.look()
    assert pause <= 30 / 6
    assert not beats.add(second)
    assert min(second.due, first.due) > looked + pause
    assert beats.add(short)
    assert beats.look()[1] <= 1 / 6


def test_looks_are_seldom_however_many_leases_there_are():
    """Leases that come due all the time are looked at in steps, not one by one."""
    beats = Beats()
    kept = [beat() for _ in range(1000)]
    for number, one in enumerate(kept):
        beats.add(one)
        one.due = time.monotonic() + number / 1000
    assert beats.look()[1] >= 30 / 60


def test_the_lease_that_ends_first_is_renewed_first():
    """In an order that lets no lease starve, and cut into parcels."""
    beats = Beats()
    kept = [beat() for _ in range(1100)]
    for number, one in enumerate(kept):
        one.due, one.until = 0.0, time.monotonic() + (number * 7919) % 1100
        beats.add(one)
    due, _ = beats.look()
    cut = list(parcels(due, 5.0))
    assert [len(parcel.beats) for parcel in cut] == [500, 500, 100]
    ends = [one.until for parcel in cut for one in parcel.beats]
    assert ends == sorted(ends)


def test_lease_whose_owner_is_gone_is_dropped():
    """An owner that was torn off before it could say so does not keep its key for ever."""
    beats, one = Beats(), beat()
    beats.add(one)
    assert beats.look() == ([], beats.look()[1])
    del one
    gc.collect()
    beats.look()
    assert len(beats) == 0


def test_short_lease_is_forgotten():
    """One short lease does not make the heartbeat look often for ever."""
    beats, one = Beats(), beat(0.1)
    beats.add(one)
    beats.drop(one)
    pauses = [beats.look()[1] for _ in range(40)]
    assert pauses[0] < 0.1
    assert pauses[-1] == 10.0


def test_what_a_renewal_comes_to():
    """Done counts the lease from when it was sent; errors wait for the end of the lease; a loss is told once."""
    told = []
    one = Beat("key", "token", 30.0)
    one.on_loss = lambda: told.append("lost")
    sent = time.monotonic() + 5
    one.took(sent, DONE)
    assert one.until == sent + 30
    one.took(sent, StoreTimeout("slow"))
    assert (one.lost, one.live) == (False, True)
    assert one.due <= time.monotonic() + 1
    one.until = time.monotonic()
    one.took(sent, StoreTimeout("slow"))
    assert (one.lost, one.live) == (True, True)
    one.took(sent, LEASE_LOST)
    assert (one.lost, one.live) == (True, False)
    one.took(sent, LEASE_LOST)
    assert told == ["lost"]


def test_answer_for_an_operation_that_has_ended():
    """A renewal that crosses the completion is told that the lease is lost; that is none."""
    one = beat()
    Beats().drop(one)
    one.took(time.monotonic(), LEASE_LOST)
    assert not one.lost


def test_lease_that_comes_as_the_heartbeat_ends():
    """A lease that is added while the idle thread ends is not left alone."""
    store = idemstore.open("memory://")
    heartbeat = Keepalive(store)
    one = beat()
    heartbeat._thread = threading.current_thread()
    heartbeat._beats.add(one)
    assert not heartbeat._ends()
    heartbeat.drop(one)
    assert heartbeat._ends()
    assert heartbeat._thread is None
