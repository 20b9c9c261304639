"""What a guarded call answers, in every state of its key."""

import pytest
from desk import Calls, Desk, Held

import idemstore
from idemstore import Keep, Policy, Release, Retry, State, StoreDown
from idemstore.errors import (
    ConfigurationError,
    GuardClosed,
    InvalidInput,
    InvalidKey,
    NestedCall,
    OperationAbandoned,
    OperationInFlight,
    PayloadMismatch,
    ReplayedFailure,
    RetryLater,
    StoreTimeout,
    StoreUnavailable,
    UncarriedResult,
    UndecodableResult,
)


def test_function_runs_once_and_its_value_is_replayed(desk: Desk):
    """The second call gets the stored value, and the function does not run."""
    guard, fn = desk.guard(), Calls({"receipt": 7})
    assert guard.call("key", fn) == {"receipt": 7}
    assert guard.call("key", fn) == {"receipt": 7}
    assert fn.count == 1


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "text", [], {}, [1, None], {"a": [1, {"b": None}]}])
def test_values_come_back_as_they_were(desk: Desk, value):
    """What JSON carries is replayed as it was, falsy values included."""
    guard = desk.guard()
    assert guard.call("key", lambda: value) == value
    assert guard.call("key", Calls("other")) == value


def test_scopes_are_apart(desk: Desk):
    """The same key in another scope is another operation."""
    guard, fn = desk.guard(), Calls(1, 2)
    assert guard.call(("a", "key"), fn) == 1
    assert guard.call(("b", "key"), fn) == 2


def test_other_payload_is_refused(desk: Desk):
    """A call with another fingerprint neither runs nor gets the stored result."""
    guard, fn = desk.guard(), Calls("value")
    guard.call("key", fn, fingerprint=idemstore.fingerprint({"amount": 1}))
    with pytest.raises(PayloadMismatch):
        guard.call("key", fn, fingerprint=idemstore.fingerprint({"amount": 2}))
    assert fn.count == 1


def test_second_caller_does_not_wait_unless_asked_to(desk: Desk):
    """While it runs elsewhere the call is refused at once, with the time after which to try again."""
    guard, held = desk.guard(lease=60), Held()
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    with pytest.raises(OperationInFlight) as refused:
        guard.call("key", Calls("other"))
    assert 0 < refused.value.retry_after <= 60
    held.go.set()
    assert first.result() == "done"


def test_waiter_gets_the_result(desk: Desk):
    """With ``wait`` a second caller gets the value of the first, and runs nothing."""
    guard, held, other = desk.guard(wait=30), Held(), Calls("other")
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    second = desk.background(lambda: guard.call("key", other))
    held.go.set()
    assert (first.result(), second.result(), other.count) == ("done", "done", 0)


def test_waiter_takes_over_from_a_retryable_failure(desk: Desk):
    """When the owner fails retryably its waiter runs."""
    guard, held = desk.guard(wait=30), Held(OSError("broken"))
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    second = desk.background(lambda: guard.call("key", lambda: ("ran", desk.operation().attempt)))
    held.go.set()
    with pytest.raises(OSError, match="broken"):
        first.result()
    assert second.result() == ("ran", 2)


def test_waiter_gives_up(desk: Desk):
    """A waiter whose time is over is told that the operation still runs."""
    guard, held = desk.guard(wait=0.05), Held()
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    with pytest.raises(OperationInFlight):
        guard.call("key", Calls("other"))
    held.go.set()
    first.result()


def test_waiter_with_another_payload_is_refused(desk: Desk):
    """A waiter never gets the result of another payload."""
    guard, held = desk.guard(wait=30), Held()
    first = desk.background(lambda: guard.call("key", held, fingerprint=b"a"))
    held.running.wait()
    with pytest.raises(PayloadMismatch):
        guard.call("key", Calls("other"), fingerprint=b"b")
    held.go.set()
    first.result()


# -- failures ---------------------------------------------------------------------------------------------------------


class Declined(Exception):
    """A failure for good."""


class Busy(Exception):
    """A failure that passes."""


class Wrong(Exception):
    """A failure that says nothing about the operation."""


POLICY = Policy(final=(Declined,), retryable=(Busy,), release=(Wrong,), back_off=10, max_back_off=25)


def test_ordinary_exception_may_be_retried_at_once(desk: Desk):
    """The caller gets its own exception, the next call runs again as a further attempt."""
    guard, fn = desk.guard(), Calls(ValueError("first"), "second")
    with pytest.raises(ValueError, match="first"):
        guard.call("key", fn)
    assert guard.call("key", fn) == "second"
    assert desk.record("key").attempt == 2


def test_final_failure_is_replayed(desk: Desk):
    """A final failure comes back by type name and message, and nothing runs again."""
    guard, fn = desk.guard(POLICY), Calls(Declined("no funds"))
    with pytest.raises(Declined):
        guard.call("key", fn)
    with pytest.raises(ReplayedFailure) as replayed:
        guard.call("key", fn)
    assert (replayed.value.type_name, replayed.value.message) == ("Declined", "no funds")
    assert "no funds" in str(replayed.value)
    assert fn.count == 1


def test_back_off_grows(desk: Desk):
    """A retryable failure keeps the operation from running, twice as long each time, up to the bound."""
    guard, fn = desk.guard(POLICY), Calls(Busy())
    for expected in (10, 20, 25, 25):
        with pytest.raises(Busy):
            guard.call("key", fn)
        with pytest.raises(RetryLater) as later:
            guard.call("key", fn)
        assert expected - 2 < later.value.retry_after <= expected
        desk.age("key", expected)
    assert fn.count == 4


def test_releasing_failure_leaves_nothing(desk: Desk):
    """After a releasing failure the key is as if never used: another payload may have it."""
    guard = desk.guard(POLICY)
    with pytest.raises(Wrong):
        guard.call("key", Calls(Wrong()), fingerprint=b"a")
    assert desk.record("key") is None
    assert guard.call("key", Calls("ran"), fingerprint=b"b") == "ran"


@pytest.mark.parametrize(
    ("verdict", "state", "retry"),
    [(Keep(), State.FAILED, None), (Retry(30), State.FAILED, 30), (Release(), None, None), (None, State.FAILED, 0)],
)
def test_judge_decides(desk: Desk, verdict, state, retry):
    """The judge's verdict goes before the classes; None is no opinion."""
    guard = desk.guard(judge=lambda error: verdict)
    with pytest.raises(ValueError, match="x"):
        guard.call("key", Calls(ValueError("x")))
    snapshot = desk.plain.get("key")
    assert (snapshot and snapshot.state) == state
    if state is not None:
        assert (snapshot.record.retry_at is None) == (retry is None)
        assert retry is None or abs(snapshot.retry_in - retry) < 2


@pytest.mark.parametrize("judge", [lambda error: 1 / 0, lambda error: "keep", lambda error: Retry(-1)])
def test_judge_that_fails_does_not_hide_the_error(desk: Desk, judge):
    """The caller gets the function's exception, with a note; the operation may be retried."""
    guard = desk.guard(judge=judge)
    with pytest.raises(ValueError, match="x") as raised:
        guard.call("key", Calls(ValueError("x")))
    assert "Policy.judge" in raised.value.__notes__[0]
    assert guard.call("key", Calls("ran")) == "ran"


class Unprintable(Exception):
    """An exception that cannot be asked for its message."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_exception_without_a_message(desk: Desk):
    """Even an exception whose ``str`` raises is recorded."""
    guard = desk.guard(final=(Unprintable,))
    with pytest.raises(Unprintable):
        guard.call("key", Calls(Unprintable()))
    with pytest.raises(ReplayedFailure) as replayed:
        guard.call("key", Calls("ran"))
    assert replayed.value.type_name == "Unprintable"


def test_message_is_cut(desk: Desk):
    """A long message is kept in part."""
    guard = desk.guard(final=(Declined,))
    with pytest.raises(Declined):
        guard.call("key", Calls(Declined("x" * 50_000)))
    with pytest.raises(ReplayedFailure) as replayed:
        guard.call("key", Calls("ran"))
    assert len(replayed.value.message) == 10_000


# -- takeover ---------------------------------------------------------------------------------------------------------


def test_key_of_a_dead_owner_is_taken_over(desk: Desk):
    """An operation whose owner vanished runs again when the lease is over, as a further attempt."""
    desk.plain.claim("key", lease=30)
    guard = desk.guard()
    with pytest.raises(OperationInFlight):
        guard.call("key", Calls("ran"))
    desk.age("key", 31)
    assert guard.call("key", lambda: desk.operation().attempt) == 2


def test_cautious_policy_does_not_take_over(desk: Desk):
    """With ``takeover=False`` the caller learns what it needs to settle the record, and nothing runs."""
    first = desk.guard()
    with pytest.raises(OSError, match="crash"):
        first.call("key", lambda: desk.operation().checkpoint(b"half") or (_ for _ in ()).throw(OSError("crash")))
    claim = desk.plain.claim("key", lease=30)
    desk.age("key", 31)
    guard, fn = desk.guard(takeover=False), Calls("ran")
    with pytest.raises(OperationAbandoned) as abandoned:
        guard.call("key", fn)
    error = abandoned.value
    assert (error.token, error.attempt, error.checkpoint, fn.count) == (claim.token, 2, b"half", 0)
    desk.plain.release("key", error.token)
    assert guard.call("key", fn) == "ran"


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", (), ("scope", ""), 7, None, "a\0b"])
def test_bad_key(desk: Desk, key):
    """A key that no store can take is refused, and nothing runs."""
    fn = Calls("ran")
    with pytest.raises(InvalidKey):
        desk.guard().call(key, fn)
    assert fn.count == 0


@pytest.mark.parametrize("fingerprint", [b"", b"x" * 65, "text", 7])
def test_bad_fingerprint(desk: Desk, fingerprint):
    """A fingerprint that is none is refused, and nothing runs."""
    fn = Calls("ran")
    with pytest.raises(InvalidInput):
        desk.guard().call("key", fn, fingerprint=fingerprint)
    assert (fn.count, desk.record("key")) == (0, None)


def test_closed_guard(desk: Desk):
    """A closed guard runs nothing; its store is still open."""
    guard = desk.guard()
    guard.close()
    with pytest.raises(GuardClosed):
        guard.call("key", Calls("ran"))
    assert desk.store.get("key") is None


def test_guard_closes_behind_its_block(desk: Desk):
    """A guard is a context manager."""
    with Desk("sync") as other, other.guard() as guard:
        guard.call("key", Calls("ran"))
    with pytest.raises(GuardClosed):
        guard.call("key", Calls("ran"))


@pytest.mark.parametrize("value", [object(), {1: "a"}, float("nan"), {"a": {2: "b"}}, [{3: 4}], "\ud800", b"bytes"])
def test_result_that_the_codec_cannot_carry(desk: Desk, value):
    """The work is done: it is recorded with a marker, the error has the value, and nothing runs twice."""
    guard, fn = desk.guard(), Calls(value)
    with pytest.raises(UncarriedResult) as first:
        guard.call("key", fn)
    assert first.value.value is value
    with pytest.raises(UncarriedResult) as second:
        guard.call("key", fn)
    assert second.value.value is None
    assert fn.count == 1
    assert desk.record("key").state is State.COMPLETED


def test_result_that_holds_itself(desk: Desk):
    """A cycle is no JSON either."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(UncarriedResult):
        desk.guard().call("key", Calls(value))
    with pytest.raises(UncarriedResult):
        desk.guard().call("key", Calls(1))


def test_result_over_the_limit_of_the_store():
    """A result that the store has no room for is recorded as done, too."""
    for mode in ("sync", "async"):
        with Desk(mode, f"memory://small-{mode}?max_result=300") as desk:
            guard = desk.guard(final=(Declined,))
            with pytest.raises(UncarriedResult) as first:
                guard.call("key", Calls("x" * 300))
            assert first.value.value == "x" * 300
            with pytest.raises(UncarriedResult, match="300"):
                guard.call("key", Calls("other"))
            with pytest.raises(Declined):
                guard.call("failure", Calls(Declined("x" * 300)))
            with pytest.raises(ReplayedFailure) as replayed:
                guard.call("failure", Calls("other"))
            assert (replayed.value.type_name, replayed.value.message) == ("Declined", "")


def test_record_that_no_guard_has_written(desk: Desk):
    """A result of another program is not taken for a value, nor for absence."""
    for key, result in (("a", b"raw"), ("b", b""), ("c", b"v{"), ("d", b"f{}")):
        desk.plain.complete(key, desk.plain.claim(key).token, result)
        with pytest.raises(UndecodableResult):
            desk.guard().call(key, Calls("ran"))
    for key, result in (("e", b"raw"), ("f", b"f["), ("g", b"f[]")):
        desk.plain.fail(key, desk.plain.claim(key).token, result)
        with pytest.raises(UndecodableResult):
            desk.guard().call(key, Calls("ran"))


def test_nested_call_of_the_same_key(desk: Desk):
    """A guarded function that calls a guard with its own key is refused, not left to wait for itself."""
    guard, other = desk.guard(wait=30), desk.guard(wait=30)
    for inner in (guard, other):
        with pytest.raises(NestedCall):
            guard.call("key", lambda inner=inner: inner.call("key", Calls("inner")))
    assert guard.call("key", lambda: guard.call("other", lambda: guard.call(("key", "scope"), Calls("ran")))) == "ran"


def test_nested_call_further_in(desk: Desk):
    """The same key two calls further in is refused, too."""
    guard = desk.guard(wait=30)
    with pytest.raises(NestedCall):
        guard.call("a", lambda: guard.call("b", lambda: guard.call("a", Calls("inner"))))


def test_nested_call_over_another_store_object(desk: Desk):
    """Two stores on the same records: the inner call is refused at once, although it might wait."""
    guard, other = desk.guard(wait=30), desk.guard_on(desk.open(), wait=30)
    with pytest.raises(NestedCall):
        guard.call("key", lambda: other.call("key", Calls("inner")))


def test_nested_call_over_other_records(desk: Desk):
    """The same key in another store is another operation."""
    with Desk(desk.mode) as elsewhere:
        guard, other = desk.guard(), elsewhere.guard()
        assert guard.call("key", lambda: other.call("key", Calls("inner"))) == "inner"


def test_function_that_does_no_work_yet():
    """A coroutine or generator as a result means that nothing has been done: it is not recorded as done."""
    with Desk("sync") as desk:
        guard = desk.guard()

        async def coroutine() -> None:
            """Never awaited."""

        for fn in (lambda: (_ for _ in ()),):
            with pytest.raises(ConfigurationError):
                guard.call("key", fn)
        made = coroutine()
        with pytest.raises(ConfigurationError):
            guard.call("key", lambda: made)
        made.close()
        assert guard.call("key", Calls("ran")) == "ran"


# -- store down -------------------------------------------------------------------------------------------------------


def test_store_down_refuses(desk: Desk):
    """By default nothing runs without protection."""
    guard, fn = desk.guard(), Calls("ran")
    desk.faults.lose_request()
    with pytest.raises(StoreUnavailable):
        guard.call("key", fn)
    assert fn.count == 0
    assert guard.call("key", fn) == "ran"


def test_store_down_proceeds_where_asked_to(desk: Desk, caplog):
    """With PROCEED the function runs unprotected, and each time is logged."""
    guard = desk.guard(store_down=StoreDown.PROCEED)
    for _ in range(2):
        desk.faults.lose_request()
        assert guard.call("key", lambda: (desk.operation().protected, desk.operation().checkpoint(b"x"))[0]) is False
    assert [record.levelname for record in caplog.records if "unprotected" in record.message] == ["WARNING"] * 2
    assert desk.record("key") is None


def test_unprotected_run_leaves_its_claim_in_force(desk: Desk):
    """Where the claim was applied although no answer came, others leave an unprotected run alone; a failed one frees
    the key for this process.
    """
    guard = desk.guard(store_down=StoreDown.PROCEED)
    desk.faults.lose_reply()
    assert guard.call("key", Calls("ran")) == "ran"
    with pytest.raises(OperationInFlight):
        guard.call("key", Calls("again"))
    desk.faults.lose_reply()
    with pytest.raises(ValueError, match="x"):
        guard.call("other", Calls(ValueError("x")))
    assert guard.call("other", Calls("again")) == "again"


# -- claims without an answer -----------------------------------------------------------------------------------------


def test_claim_whose_reply_was_lost_does_not_lock_its_caller_out(desk: Desk):
    """The claim is in force; the caller's next try goes under the same token and runs."""
    guard, fn = desk.guard(), Calls("ran")
    desk.faults.lose_reply()
    with pytest.raises(StoreTimeout):
        guard.call("key", fn)
    assert desk.record("key").state is State.IN_FLIGHT
    assert guard.call("key", fn) == "ran"
    assert desk.record("key").attempt == 1


def test_token_of_a_lost_claim_serves_one_caller_only(desk: Desk):
    """Of two callers that come after a lost claim one runs, the other is told so: no token is ever shared."""
    guard, held = desk.guard(), Held()
    desk.faults.lose_reply()
    with pytest.raises(StoreTimeout):
        guard.call("key", held)
    first = desk.background(lambda: guard.call("key", held))
    held.running.wait()
    with pytest.raises(OperationInFlight):
        guard.call("key", held)
    held.go.set()
    assert (first.result(), held.count) == ("done", 1)


def test_two_lost_claims_of_one_key(desk: Desk):
    """Both tokens are kept: whichever is in force, one of the next tries gets through."""
    guard, fn = desk.guard(), Calls("ran")
    stops = [desk.faults.stop_before(), desk.faults.stop_after(lost=True)]
    waiting = desk.background(lambda: guard.call("key", fn))
    assert waiting.comes_to(stops[0])
    desk.background(lambda: (stops[1].reached(), stops[1].go()))
    with pytest.raises(StoreTimeout):
        guard.call("key", fn)
    desk.faults.release()
    with pytest.raises(OperationInFlight):
        waiting.result()
    assert guard.call("key", fn) == "ran"


def test_lost_tokens_are_bounded(desk: Desk):
    """A store that is down for long does not fill the memory of its callers."""
    unsure = desk.guard().unsure
    for number in range(20_000):
        unsure.remember(f"key-{number}", "token")
        unsure.remember("one", f"token-{number}")
    assert len(unsure._tokens) <= 10_000
    assert len(unsure._tokens["one"]) <= 8
