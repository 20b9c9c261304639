"""The state machine alone: its table says what its functions do, and its functions do what the rules say."""

import itertools

import pytest

from idemstore import machine
from idemstore.machine import (
    CLAIM,
    MICROSECONDS,
    TABLES,
    Caller,
    Claim,
    Complete,
    Event,
    Fail,
    Phase,
    Record,
    Release,
    Renew,
    Rule,
    State,
    diagram,
    phase,
    step,
)
from idemstore.outcomes import DONE, LEASE_LOST, MISMATCH, Abandoned, Claimed, Completed, Done, Failed, InFlight

NOW = 1_000_000 * MICROSECONDS
OWNER, OTHER = "owner", "other"


def record_in(at: Phase, *, kept: bool = True) -> Record | None:
    """A record that is in this phase at NOW, with an end or without."""
    end = NOW + 900 if kept else None
    base = Record(State.IN_FLIGHT, OWNER, 7, 2, b"fp", NOW + 100, end, None, None, b"checkpoint")
    finished = base._replace(lease_until=None, result=b"result")
    match at:
        case Phase.ABSENT:
            return base._replace(expires_at=NOW) if kept else None
        case Phase.RUNNING:
            return base
        case Phase.LAPSED:
            return base._replace(lease_until=NOW)
        case Phase.COMPLETED:
            return finished._replace(state=State.COMPLETED, checkpoint=None)
        case Phase.FAILED:
            return finished._replace(state=State.FAILED)
        case Phase.BACKING_OFF:
            return finished._replace(state=State.FAILED, retry_at=NOW + 50)
        case Phase.RETRYABLE:
            return finished._replace(state=State.FAILED, retry_at=NOW)


def events(kind: type[Event], caller: Caller) -> list[Event]:
    """Events of a kind, as this caller would send them."""
    token = OWNER if caller is Caller.OWNER else OTHER
    takeover = caller is not Caller.CAUTIOUS
    by_kind: dict[type[Event], list[Event]] = {
        Claim: [Claim(fp, token, 60, kept, takeover) for fp in (None, b"fp") for kept in (None, 500)],
        Complete: [Complete(token, result, kept) for result in (b"result", b"") for kept in (None, 500)],
        Fail: [Fail(token, result, 500, after) for result in (b"result", b"") for after in (None, 0, 30)],
        Renew: [Renew(token, 60, checkpoint) for checkpoint in (None, b"", b"new")],
        Release: [Release(token)],
    }
    return by_kind[kind]


CASES = [
    (kind, at, caller, event)
    for kind in TABLES
    for at in Phase
    for caller in Caller
    for event in events(kind, caller)
    if not (at is Phase.ABSENT and caller is Caller.OWNER)
    if kind is Claim or caller is not Caller.CAUTIOUS
]


def test_phases_read_the_clock():
    """Every record is in the phase it was made for; at its very end it is over."""
    for at, kept in itertools.product(Phase, (True, False)):
        assert phase(record_in(at, kept=kept), NOW) is at
    running = record_in(Phase.RUNNING)
    assert phase(running, NOW + 99) is Phase.RUNNING
    assert phase(running, NOW + 100) is Phase.LAPSED
    assert phase(running, NOW + 899) is Phase.LAPSED
    assert phase(running, NOW + 900) is Phase.ABSENT
    assert phase(record_in(Phase.BACKING_OFF), NOW + 50) is Phase.RETRYABLE


def test_every_phase_answers_every_claimer():
    """A claim has an answer everywhere; an absent record has no owner."""
    wanted = set(itertools.product(Phase, Caller)) - {(Phase.ABSENT, Caller.OWNER)}
    assert set(CLAIM) == wanted


@pytest.mark.parametrize(("kind", "at", "caller", "event"), CASES)
def test_table_says_what_happens(kind, at, caller, event):
    """Outcome and next phase are those that the row declares; without a row: LeaseLost, and nothing changes."""
    rule = TABLES[kind].get((at, caller))
    for kept in (True, False):
        before = record_in(at, kept=kept)
        after, outcome = step(before, event, NOW)
        if rule is None:
            assert outcome == LEASE_LOST
            assert after is before or at is Phase.ABSENT
            continue
        assert isinstance(rule, Rule)
        assert isinstance(outcome, rule.outcome) or outcome == LEASE_LOST
        if rule.leads_to:
            assert isinstance(outcome, rule.outcome)
            assert phase(after, NOW) in rule.leads_to
        else:
            assert after is before


@pytest.mark.parametrize("kind", TABLES)
def test_declared_transitions_are_reached(kind):
    """Every phase that a row leads to is reached from there by some event: no row promises too much."""
    for (at, caller), rule in TABLES[kind].items():
        assert isinstance(rule, Rule)
        reached = {phase(step(record_in(at), event, NOW)[0], NOW) for event in events(kind, caller)}
        assert reached >= set(rule.leads_to)


@pytest.mark.parametrize(("kind", "at", "caller", "event"), CASES)
def test_step_is_pure(kind, at, caller, event):
    """The same arguments give the same answer; nothing is changed in place."""
    before, twin = record_in(at), record_in(at)
    assert step(before, event, NOW) == step(twin, event, NOW)
    assert before == twin


@pytest.mark.parametrize(("kind", "at", "caller", "event"), CASES)
def test_every_event_may_arrive_twice(kind, at, caller, event):
    """Applied again, at once or later, an event is answered the same, and changes nothing that has not moved on."""
    once, first = step(record_in(at), event, NOW)
    for later in (NOW, NOW + 20):
        twice, second = step(once, event, later)
        match first:
            case InFlight() | Failed():
                assert type(second) is type(first)
            case _:
                assert second == first
        if kind is not Renew:
            assert twice == once


@pytest.mark.parametrize("at", [at for at in Phase if at is not Phase.ABSENT])
def test_other_fingerprint_is_refused(at):
    """Mismatch in every phase, for the owner, too; nothing changes."""
    for token, takeover in itertools.product((OWNER, OTHER), (True, False)):
        before = record_in(at)
        after, outcome = step(before, Claim(b"else", token, 60, 500, takeover), NOW)
        assert outcome is MISMATCH
        assert after is before


def test_expired_record_has_no_fingerprint():
    """Absence is looked at before the fingerprint."""
    after, outcome = step(record_in(Phase.ABSENT), Claim(b"else", OTHER, 60, 500), NOW)
    assert outcome == Claimed(OTHER, NOW, 1)
    assert after is not None
    assert after.fingerprint == b"else"


def test_first_claim():
    """All fields of a new record."""
    after, outcome = step(None, Claim(b"fp", "token", 60, 500), NOW)
    assert after == Record(State.IN_FLIGHT, "token", NOW, 1, b"fp", NOW + 60, NOW + 560)
    assert outcome == Claimed("token", NOW, 1, None)


@pytest.mark.parametrize("at", [Phase.LAPSED, Phase.RETRYABLE])
def test_next_attempt(at):
    """Attempt + 1, a greater fence, the checkpoint, the record's fingerprint; lease and retention of the new claim."""
    after, outcome = step(record_in(at), Claim(None, OTHER, 60, 500), NOW)
    assert after == Record(State.IN_FLIGHT, OTHER, NOW, 3, b"fp", NOW + 60, NOW + 560, None, None, b"checkpoint")
    assert outcome == Claimed(OTHER, NOW, 3, b"checkpoint")


def test_next_attempt_brings_a_missing_fingerprint():
    """A record without fingerprint takes the next attempt's."""
    before = record_in(Phase.LAPSED)
    assert before is not None
    after, _ = step(before._replace(fingerprint=None), Claim(b"new", OTHER, 60, 500), NOW)
    assert after is not None
    assert after.fingerprint == b"new"


def test_fence_outgrows_a_clock_that_went_back():
    """The fence is greater than the last one even where the clock is not, in a new life of the key, too."""
    for at in (Phase.LAPSED, Phase.RETRYABLE, Phase.ABSENT):
        before = record_in(at)
        assert before is not None
        after, outcome = step(before._replace(fence=NOW + 5), Claim(None, OTHER, 60, 500), NOW)
        assert isinstance(outcome, Claimed)
        assert outcome.fence == NOW + 6
        assert after is not None
        assert after.fence == NOW + 6


def test_busy_and_back_off_tell_the_time_left():
    """In seconds, as floats."""
    assert step(record_in(Phase.RUNNING), Claim(None, OTHER, 60, 500), NOW)[1] == InFlight(100 / MICROSECONDS)
    answer = step(record_in(Phase.BACKING_OFF), Claim(None, OTHER, 60, 500), NOW)[1]
    assert answer == Failed(b"result", 50 / MICROSECONDS)
    assert step(record_in(Phase.FAILED), Claim(None, OTHER, 60, 500), NOW)[1] == Failed(b"result", None)


def test_abandoned_tells_what_the_owner_left():
    """Token, fence, attempt and checkpoint."""
    answer = step(record_in(Phase.LAPSED), Claim(None, OTHER, 60, 500, takeover=False), NOW)[1]
    assert answer == Abandoned(OWNER, 7, 2, b"checkpoint")


@pytest.mark.parametrize("at", [Phase.RUNNING, Phase.LAPSED])
def test_complete(at):
    """The result replaces lease and checkpoint; the retention counts from now."""
    for kept, end in ((500, NOW + 500), (None, None)):
        after, outcome = step(record_in(at), Complete(OWNER, b"r", kept), NOW)
        assert after == Record(State.COMPLETED, OWNER, 7, 2, b"fp", None, end, None, b"r")
        assert outcome is DONE


@pytest.mark.parametrize("at", [Phase.RUNNING, Phase.LAPSED])
def test_fail(at):
    """The failure replaces the lease; the checkpoint stays for the next attempt."""
    for after_, retry_at in ((None, None), (0, NOW), (30, NOW + 30)):
        after, outcome = step(record_in(at), Fail(OWNER, b"r", 500, after_), NOW)
        assert after == Record(State.FAILED, OWNER, 7, 2, b"fp", None, NOW + 500, retry_at, b"r", b"checkpoint")
        assert outcome is DONE


def test_second_results_are_refused():
    """Another result, or another kind of failure, under a spent token is lost; the same one is done."""
    completed, failed, retried = map(record_in, (Phase.COMPLETED, Phase.FAILED, Phase.BACKING_OFF))
    assert step(completed, Complete(OWNER, b"result", None), NOW) == (completed, DONE)
    assert step(completed, Complete(OWNER, b"else", None), NOW) == (completed, LEASE_LOST)
    assert step(completed, Fail(OWNER, b"result", None), NOW) == (completed, LEASE_LOST)
    assert step(failed, Fail(OWNER, b"result", None), NOW) == (failed, DONE)
    assert step(failed, Fail(OWNER, b"result", None, 0), NOW) == (failed, LEASE_LOST)
    assert step(failed, Complete(OWNER, b"result", None), NOW) == (failed, LEASE_LOST)
    assert step(retried, Fail(OWNER, b"result", None, 99), NOW) == (retried, DONE)
    assert step(retried, Fail(OWNER, b"result", None), NOW) == (retried, LEASE_LOST)


def test_renew_moves_lease_and_end_together():
    """The retention behind the lease stays what it was."""
    before = record_in(Phase.RUNNING)
    assert before is not None
    after, outcome = step(before, Renew(OWNER, 300, None), NOW)
    assert after == before._replace(lease_until=NOW + 300, expires_at=NOW + 300 + 800)
    assert outcome is DONE
    after, _ = step(before._replace(expires_at=None), Renew(OWNER, 300, b"c"), NOW)
    assert after == before._replace(lease_until=NOW + 300, expires_at=None, checkpoint=b"c")


def test_release_deletes():
    """A release leaves nothing; on nothing it is done."""
    assert step(record_in(Phase.RUNNING), Release(OWNER), NOW) == (None, DONE)
    assert step(None, Release(OWNER), NOW) == (None, DONE)
    assert step(record_in(Phase.ABSENT), Release(OTHER), NOW) == (None, DONE)


def test_finished_records_stay_as_they_are():
    """Replays are read-only: the record that comes back is the one that went in."""
    for at in (Phase.COMPLETED, Phase.FAILED, Phase.BACKING_OFF, Phase.RUNNING):
        before = record_in(at)
        after, outcome = step(before, Claim(b"fp", OTHER, 60, 500), NOW)
        assert after is before
        assert isinstance(outcome, Completed | Failed | InFlight)


def test_record_hides_what_may_be_secret():
    """A record may be logged."""
    text = repr(Record(State.FAILED, "the-token", 7, 2, b"the-fp", None, None, None, b"the-result", b"the-checkpoint"))
    assert "the-" not in text
    assert "failed" in text


def test_diagram_is_drawn_from_the_table():
    """Every transition of the table is in the Mermaid text, once, and nothing else but the passing of time."""
    text = diagram()
    lines = text.splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(set(lines)) == len(lines)
    names = {at: "[*]" if at is Phase.ABSENT else at.name.lower() for at in Phase}
    wanted = {
        f"    {names[at]} --> {names[target]}: {kind.__name__.lower()}"
        for kind, table in TABLES.items()
        for (at, caller), rule in table.items()
        if caller is not Caller.CAUTIOUS
        for target in rule.leads_to
        if target is not at
    }
    drawn = {line for line in lines if "-->" in line}
    assert drawn - wanted == {"    running --> lapsed: time", "    backing_off --> retryable: time"}
    assert wanted <= drawn


def test_done_is_one_value():
    """Outcomes compare by value."""
    assert Done() == DONE
    assert machine.MICROSECONDS == 10**6
