"""Between run and record: lost replies, a store that is down, interruptions. Work that is done is not done again."""

import os
import signal
import threading
import time

import pytest
from desk import Calls, Desk, Held

from idemstore import State
from idemstore.errors import (
    AccessDenied,
    CompletionUnknown,
    IdemstoreError,
    LeaseLostError,
    OperationInFlight,
    ReplayedFailure,
    StoreUnavailable,
)
from idemstore.insist import insist, pauses


def working(desk: Desk, orders, result="done"):
    """A function that gives orders for the round trips behind it, then returns or raises."""

    def work():
        orders(desk.faults)
        if isinstance(result, BaseException):
            raise result
        return result

    return work


def test_completion_without_an_answer_is_repeated(desk: Desk):
    """Lost requests and lost replies cost time, and the caller gets its value."""
    guard = desk.guard(lease=30)

    def orders(faults):
        faults.lose_request()
        faults.lose_reply()
        faults.lose_request()

    assert guard.call("key", working(desk, orders)) == "done"
    assert desk.faults.round_trips == 5
    assert guard.call("key", Calls("other")) == "done"


def test_completion_that_cannot_be_recorded(desk: Desk):
    """When the lease would be over the caller is told, with the value; the key is not released."""
    guard = desk.guard(lease=0.3)
    with pytest.raises(CompletionUnknown) as unknown:
        guard.call("key", working(desk, lambda faults: [faults.lose_request() for _ in range(1000)], result=[1]))
    assert unknown.value.value == [1]
    assert isinstance(unknown.value.__cause__, StoreUnavailable)
    desk.faults.release()
    assert desk.record("key").state is State.IN_FLIGHT
    desk.age("key", 1)
    assert guard.call("key", lambda: desk.operation().attempt) == 2


def test_completion_is_tried_at_least_once(desk: Desk):
    """Even where the lease is over already: the token decides, not the clock."""
    guard, held = desk.guard(lease=0.05, heartbeat=False), Held()
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    time.sleep(0.1)
    held.go.set()
    assert first.result() == "done"
    assert guard.call("key", Calls("other")) == "done"


class Denied:
    """A driver that refuses everything but what it first lets through."""

    def __init__(self, driver, error, passes):
        self.driver, self.error, self.passes = driver, error, passes

    def execute(self, request, timeout):
        """Pass on, or refuse."""
        self.passes -= 1
        if self.passes < 0:
            raise self.error
        return self.driver.execute(request, timeout)

    def close(self):
        """Pass on."""
        self.driver.close()


def test_error_that_no_repetition_mends():
    """A completion that is refused for good is not repeated: the caller is told at once."""
    with Desk("sync") as desk:
        store = desk.plain.wrapped(lambda driver: Denied(driver, AccessDenied("no"), 1))
        started = time.monotonic()
        with pytest.raises(CompletionUnknown, match="no"):
            desk.guard_on(store, lease=60).call("key", Calls("done"))
        assert time.monotonic() - started < 10
        assert desk.record("key").state is State.IN_FLIGHT


def test_final_failure_is_recorded_like_a_result(desk: Desk):
    """A failure that must not run again is told until the store has it; the caller gets its own exception."""
    guard = desk.guard(lease=30, final=(KeyError,))
    with pytest.raises(KeyError):
        guard.call("key", working(desk, lambda faults: (faults.lose_request(), faults.lose_reply()), KeyError("x")))
    with pytest.raises(ReplayedFailure):
        guard.call("key", Calls("other"))


def test_failure_that_cannot_be_recorded(desk: Desk):
    """The caller gets its own exception, with a note; the key frees itself when its lease ends."""
    guard = desk.guard(lease=30)
    with pytest.raises(KeyError) as raised:
        guard.call("key", working(desk, lambda faults: faults.lose_request(), KeyError("x")))
    assert "not recorded" in raised.value.__notes__[0]
    with pytest.raises(OperationInFlight):
        guard.call("key", Calls("other"))
    desk.age("key", 31)
    assert guard.call("key", Calls("other")) == "other"


def test_failure_of_an_owner_that_was_replaced(desk: Desk):
    """Its exception has a note, and its successor's record is untouched."""
    guard = desk.guard(lease=60)

    def work():
        desk.age("key", 61)
        desk.plain.claim("key", lease=60)
        raise KeyError("x")

    with pytest.raises(KeyError) as raised:
        guard.call("key", work)
    assert "taken the key over" in raised.value.__notes__[0]
    assert desk.record("key").state is State.IN_FLIGHT


def test_stale_owner_cannot_overwrite_the_result(desk: Desk):
    """What its successor has stored stays, and the stale owner is told."""
    guard = desk.guard(lease=60)

    def work():
        desk.age("key", 61)
        assert guard_of_another(desk).call("key", Calls("theirs")) == "theirs"
        return "mine"

    with pytest.raises(LeaseLostError) as lost:
        guard.call("key", work)
    assert lost.value.value == "mine"
    assert guard.call("key", Calls("third")) == "theirs"


def guard_of_another(desk: Desk):
    """A guard as another process would have it: it knows nothing of the operation that runs here."""
    import contextvars

    guard = desk.guard_on(desk.plain, lease=60)

    class Elsewhere:
        """Calls in a context of its own."""

        def call(self, key, fn):
            return contextvars.Context().run(guard.call, key, fn)

    return Elsewhere()


# -- interruptions, sync ----------------------------------------------------------------------------------------------


class Interrupting:
    """A driver that is interrupted, before or after the server has the request, at the round trips it is told."""

    def __init__(self, driver):
        self.driver, self.before, self.after, self.calls = driver, set(), set(), 0

    def execute(self, request, timeout):
        """Pass on, and interrupt."""
        self.calls += 1
        if self.calls in self.before:
            raise KeyboardInterrupt
        reply = self.driver.execute(request, timeout)
        if self.calls in self.after:
            raise KeyboardInterrupt
        return reply

    def execute_many(self, requests, timeout):
        """As ``execute``."""
        self.calls += 1
        if self.calls in self.before:
            raise KeyboardInterrupt
        replies = self.driver.execute_many(requests, timeout)
        if self.calls in self.after:
            raise KeyboardInterrupt
        return replies

    def close(self):
        """Pass on."""
        self.driver.close()


def interrupted(desk: Desk, before=(), after=()):
    """A store that is interrupted at these round trips, and its driver."""
    drivers = []

    def wrap(driver):
        drivers.append(Interrupting(driver))
        drivers[0].before, drivers[0].after = set(before), set(after)
        return drivers[0]

    store = desk.plain.wrapped(wrap)
    store._live()
    return store, drivers[0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_claim_is_given_back(when):
    """Ctrl-C while the claim is under way: the interruption goes on, and the key is free."""
    with Desk("sync") as desk:
        store, _ = interrupted(desk, **{when: [1]})
        fn = Calls("ran")
        with pytest.raises(KeyboardInterrupt):
            desk.guard_on(store).call("key", fn)
        assert fn.count == 0
        assert desk.guard().call("key", fn) == "ran"


def test_interrupted_takeover_keeps_the_checkpoint():
    """A claim that takes over and is interrupted does not lose what an earlier attempt has saved."""
    with Desk("sync") as desk:
        first = desk.plain.claim("key", lease=30)
        guard = desk.guard()
        desk.plain.renew("key", first.token, checkpoint=guard.envelope.checkpoint(b"half", "key"))
        desk.age("key", 31)
        store, _ = interrupted(desk, after=[1])
        with pytest.raises(KeyboardInterrupt):
            desk.guard_on(store).call("key", Calls("ran"))
        assert guard.call("key", lambda: desk.operation().resumed_from.decode()) == "half"


def test_interrupted_claim_that_cannot_be_given_back_is_remembered(caplog):
    """Where the store does not answer then, the token is kept for the next try of this process."""
    with Desk("sync") as desk:

        class Gone(Interrupting):
            """Down after the interruption."""

            def execute(self, request, timeout):
                if self.calls == 1:
                    self.calls += 1
                    raise StoreUnavailable("down")
                return super().execute(request, timeout)

        drivers = []
        store = desk.plain.wrapped(lambda driver: drivers.append(Gone(driver)) or drivers[0])
        store._live()
        drivers[0].after = {1}
        guard = desk.guard_on(store)
        with pytest.raises(KeyboardInterrupt):
            guard.call("key", Calls("ran"))
        assert "could not be given back" in caplog.text
        assert desk.record("key").state is State.IN_FLIGHT
        assert guard.call("key", Calls("ran")) == "ran"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interrupted_function_may_run_again(error):
    """Ctrl-C inside the function: recorded as a failure to retry at once; the interruption goes on."""
    with Desk("sync") as desk:
        guard = desk.guard()
        with pytest.raises(type(error)):
            guard.call("key", Calls(error))
        assert desk.record("key").state is State.FAILED
        assert guard.call("key", lambda: desk.operation().attempt) == 2


def test_interruption_is_judged_like_any_exception():
    """A policy may say otherwise."""
    with Desk("sync") as desk:
        guard = desk.guard(release=(KeyboardInterrupt,))
        with pytest.raises(KeyboardInterrupt):
            guard.call("key", Calls(KeyboardInterrupt()))
        assert desk.record("key") is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_completion_is_recorded(when):
    """Ctrl-C while the completion is under way: the work is done, so it is recorded before the interruption goes on."""
    with Desk("sync") as desk:
        store, driver = interrupted(desk, **{when: [2]})
        with pytest.raises(KeyboardInterrupt):
            desk.guard_on(store).call("key", Calls("done"))
        assert driver.calls == 3
        assert desk.guard().call("key", Calls("other")) == "done"


def test_twice_interrupted_completion():
    """A second Ctrl-C is obeyed; the key stays in flight until its lease ends."""
    with Desk("sync") as desk:
        store, _ = interrupted(desk, before=[2, 3])
        with pytest.raises(KeyboardInterrupt):
            desk.guard_on(store).call("key", Calls("done"))
        assert desk.record("key").state is State.IN_FLIGHT


def test_interrupted_while_waiting_to_record():
    """Ctrl-C between two attempts to record gets one more attempt in."""
    with Desk("sync") as desk:
        guard = desk.guard(lease=60)

        def work():
            for _ in range(6):
                desk.faults.lose_request()
            threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
            return "done"

        with pytest.raises(KeyboardInterrupt) as interruption:
            guard.call("key", work)
        notes = getattr(interruption.value, "__notes__", [])
        state = desk.record("key").state
        assert state is (State.IN_FLIGHT if notes else State.COMPLETED)


def test_pauses_end_with_the_lease():
    """Attempts are doubled apart up to a second; the last pause ends with the lease."""
    now = time.monotonic()
    assert list(pauses(now - 1)) == []
    waiting = pauses(now + 100)
    assert [round(next(waiting), 2) for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert next(pauses(time.monotonic() + 0.01)) <= 0.01


def test_last_try_does_not_replace_the_interruption():
    """If the last try fails, too, the interruption still is what goes on, with a note."""

    def tell():
        tell.count += 1
        raise KeyboardInterrupt if tell.count == 1 else StoreUnavailable("down")

    tell.count = 0
    with pytest.raises(KeyboardInterrupt) as interruption:
        insist(tell, time.monotonic() + 10)
    assert "down" in interruption.value.__notes__[0]


def test_errors_say_what_to_do():
    """Every error of a guard is an idemstore error with a status for HTTP."""
    from idemstore import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.GuardError):
            assert issubclass(kind, IdemstoreError)
            assert 400 <= kind.status < 600
