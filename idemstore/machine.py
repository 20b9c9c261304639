"""THE state machine of an idempotency key: one pure function, its table, and nothing else.

``step(record, event, now)`` says what becomes of a record and what the caller is told. The memory and SQLite families
run it; Lua, SQL and update expressions are hand translations of it; the contract suite and the Hypothesis model hold
every backend to it; the diagram in the docs is drawn from ``TABLES``. No other file decides a transition.

All times are integers: microseconds since the epoch by the *server's* clock. Durations are microseconds, too.
Records, events and rules are named tuples rather than frozen dataclasses: as immutable, and several times cheaper to
make on CPython 3.11, which the memory family's hot path feels.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar, assert_never, overload

from idemstore.outcomes import (
    DONE,
    LEASE_LOST,
    MISMATCH,
    Abandoned,
    Claimed,
    ClaimOutcome,
    Completed,
    Done,
    Failed,
    InFlight,
    SettleOutcome,
)

MICROSECONDS: Final = 1_000_000


class State(StrEnum):
    """What is stored. A key without a record is *absent*."""

    IN_FLIGHT = "in-flight"
    COMPLETED = "completed"
    FAILED = "failed"


class Record(NamedTuple):
    """What is stored under a key.

    ``lease_until`` is set while in flight, ``result`` once finished, ``retry_at`` after a failure that may be retried.
    ``expires_at`` is the end of retention (None: never). While in flight it lies one retention behind ``lease_until``,
    so a crash stays visible; the retention needs no field of its own.
    """

    state: State
    token: str
    fence: int
    attempt: int
    fingerprint: bytes | None = None
    lease_until: int | None = None
    expires_at: int | None = None
    retry_at: int | None = None
    result: bytes | None = None
    checkpoint: bytes | None = None

    def __repr__(self) -> str:
        """Everything but what could be secret: no token, result or checkpoint."""
        return (
            f"Record({self.state}, attempt={self.attempt}, fence={self.fence}, lease_until={self.lease_until}, "
            f"expires_at={self.expires_at}, retry_at={self.retry_at})"
        )


_record: Final = partial(tuple.__new__, Record)
"""A record from a tuple of its fields in order, in half the time that ``Record(...)`` takes: for the hot path."""


class Claim(NamedTuple):
    """Ask for a key: run it now, or learn what became of it."""

    fingerprint: bytes | None
    token: str
    lease: int
    retention: int | None
    takeover: bool = True


class Complete(NamedTuple):
    """Store the result of an execution that succeeded."""

    token: str
    result: bytes
    retention: int | None


class Fail(NamedTuple):
    """Store the result of an execution that failed: for good (``retry_after`` None), or with a back-off."""

    token: str
    result: bytes
    retention: int | None
    retry_after: int | None = None


class Renew(NamedTuple):
    """Extend the lease, counted from now; save a checkpoint if one is given."""

    token: str
    lease: int
    checkpoint: bytes | None = None


class Release(NamedTuple):
    """Give the key back as if it had never been claimed."""

    token: str


Event = Claim | Complete | Fail | Renew | Release


class Phase(StrEnum):
    """What a record is *now*: its state, read with the clock."""

    ABSENT = "absent"
    RUNNING = "in-flight, lease running"
    LAPSED = "in-flight, lease over"
    COMPLETED = "completed"
    FAILED = "failed for good"
    BACKING_OFF = "failed, backing off"
    RETRYABLE = "failed, may be retried"


class Caller(StrEnum):
    """Who asks, as far as the record can tell."""

    OWNER = "owner"
    OTHER = "other"
    CAUTIOUS = "other, takeover=False"


E = TypeVar("E", Claim, Complete, Fail, Renew, Release)
O = TypeVar("O", ClaimOutcome, SettleOutcome)  # noqa: E741


class Rule(NamedTuple, Generic[E, O]):
    """One row of the table: what happens (``act``), and, for readers, diagram and tests, where it can lead.

    ``leads_to`` is empty where nothing changes.
    """

    act: Callable[[Record | None, E, int], tuple[Record | None, O]]
    leads_to: tuple[Phase, ...]
    outcome: type[ClaimOutcome | SettleOutcome]


_IN_FLIGHT: Final = State.IN_FLIGHT
_COMPLETED: Final = State.COMPLETED
_ABSENT: Final = Phase.ABSENT
_RUNNING: Final = Phase.RUNNING
_OTHER: Final = Caller.OTHER
_OWNER: Final = Caller.OWNER
# Names of the hot path: on CPython 3.11 looking a member up on its enum costs more than the comparison.


def phase(record: Record | None, now: int) -> Phase:
    """Read a record with the clock. A record whose retention is over is absent."""
    if record is None:
        return _ABSENT
    expires_at = record.expires_at
    if expires_at is not None and expires_at <= now:
        return _ABSENT
    lease_until = record.lease_until
    if lease_until is not None:
        return _RUNNING if lease_until > now else Phase.LAPSED
    if record.state is _COMPLETED:
        return Phase.COMPLETED
    if record.retry_at is None:
        return Phase.FAILED
    return Phase.BACKING_OFF if record.retry_at > now else Phase.RETRYABLE


def _lease(record: Record) -> int:
    """End of the lease of an in-flight record."""
    assert record.lease_until is not None, "an in-flight record has a lease"
    return record.lease_until


def _known(record: Record | None) -> Record:
    """The record, where the phase says that there is one."""
    assert record is not None, "only an absent record is None"
    return record


def _after(now: int, retention: int | None) -> int | None:
    """When retention that starts ``now`` is over."""
    return None if retention is None else now + retention


# -- claim ------------------------------------------------------------------------------------------------------------


def _start(before: Record | None, event: Claim, now: int, attempt: int = 1) -> tuple[Record | None, ClaimOutcome]:
    """A new claim, the first unless ``attempt`` says otherwise. The fence outgrows an earlier life of the key even
    where the clock stood still.
    """
    fence, fingerprint, checkpoint = now, event.fingerprint, None
    if before is not None:
        fence = max(before.fence + 1, now)
        if attempt > 1:
            checkpoint = before.checkpoint
            fingerprint = fingerprint if before.fingerprint is None else before.fingerprint
    lease_until = now + event.lease
    token, expires_at = event.token, _after(lease_until, event.retention)
    record = _record((_IN_FLIGHT, token, fence, attempt, fingerprint, lease_until, expires_at, None, None, checkpoint))
    return record, Claimed(token, fence, attempt, checkpoint)


def _again(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]:
    """A new attempt: the owner's lease is over, or its failure may be retried. Fingerprint and checkpoint stay."""
    return _start(record, event, now, _known(record).attempt + 1)


def _resent(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]:
    """The claim that is already in force, delivered once more: the same answer, nothing changes."""
    found = _known(record)
    return found, Claimed(found.token, found.fence, found.attempt, found.checkpoint)


def _busy(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]:
    """Somebody else owns it and the lease runs."""
    return record, InFlight((_lease(_known(record)) - now) / MICROSECONDS)


def _abandoned(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]:
    """The lease is over, but this caller must rather not run than run twice."""
    found = _known(record)
    return found, Abandoned(found.token, found.fence, found.attempt, found.checkpoint)


def _replay(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]:
    """Completed: hand out the stored result."""
    return record, Completed(_known(record).result or b"")


def _replay_failure(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]:
    """Failed, for good or until its retry time: hand out the stored failure."""
    found = _known(record)
    retry_after = None if found.retry_at is None else (found.retry_at - now) / MICROSECONDS
    return found, Failed(found.result or b"", retry_after)


# -- complete, fail, renew, release -----------------------------------------------------------------------------------


def _complete(record: Record | None, event: Complete, now: int) -> tuple[Record | None, SettleOutcome]:
    """Store the result. The checkpoint has served."""
    found, expires_at = _known(record), _after(now, event.retention)
    identity = found.token, found.fence, found.attempt, found.fingerprint
    return _record((_COMPLETED, *identity, None, expires_at, None, event.result, None)), DONE


def _completed_again(record: Record | None, event: Complete, now: int) -> tuple[Record | None, SettleOutcome]:
    """A second delivery of the same completion is done; another result under a spent token is refused."""
    return record, DONE if _known(record).result == event.result else LEASE_LOST


def _fail(record: Record | None, event: Fail, now: int) -> tuple[Record | None, SettleOutcome]:
    """Store the failure. The checkpoint stays for the next attempt."""
    found = _known(record)
    return Record(
        State.FAILED,
        found.token,
        found.fence,
        found.attempt,
        found.fingerprint,
        None,
        _after(now, event.retention),
        _after(now, event.retry_after) if event.retry_after is not None else None,
        event.result,
        found.checkpoint,
    ), DONE


def _failed_again(record: Record | None, event: Fail, now: int) -> tuple[Record | None, SettleOutcome]:
    """A second delivery of the same failure is done; another one under a spent token is refused."""
    found = _known(record)
    same = found.result == event.result and (found.retry_at is None) == (event.retry_after is None)
    return found, DONE if same else LEASE_LOST


def _renew(record: Record | None, event: Renew, now: int) -> tuple[Record | None, SettleOutcome]:
    """Count the lease from now; the end of retention moves with it."""
    found = _known(record)
    lease_until = now + event.lease
    expires_at = None if found.expires_at is None else lease_until + found.expires_at - _lease(found)
    checkpoint = found.checkpoint if event.checkpoint is None else event.checkpoint
    return found._replace(lease_until=lease_until, expires_at=expires_at, checkpoint=checkpoint), DONE


def _release(record: Record | None, event: Release, now: int) -> tuple[Record | None, SettleOutcome]:
    """Forget the claim. Nothing there is fine, too: it may be the second delivery of the same release."""
    return None, DONE


# -- the table --------------------------------------------------------------------------------------------------------

_START = Rule(_start, (Phase.RUNNING,), Claimed)
_RESENT = Rule(_resent, (), Claimed)
_AGAIN = Rule(_again, (Phase.RUNNING,), Claimed)
_REPLAY = Rule(_replay, (), Completed)
_REPLAY_FAILURE = Rule(_replay_failure, (), Failed)
_BUSY = Rule(_busy, (), InFlight)

CLAIM: Final[Mapping[tuple[Phase, Caller], Rule[Claim, ClaimOutcome]]] = {
    (Phase.ABSENT, Caller.OTHER): _START,
    (Phase.ABSENT, Caller.CAUTIOUS): _START,
    (Phase.RUNNING, Caller.OWNER): _RESENT,
    (Phase.RUNNING, Caller.OTHER): _BUSY,
    (Phase.RUNNING, Caller.CAUTIOUS): _BUSY,
    (Phase.LAPSED, Caller.OWNER): _RESENT,
    (Phase.LAPSED, Caller.OTHER): _AGAIN,
    (Phase.LAPSED, Caller.CAUTIOUS): Rule(_abandoned, (), Abandoned),
    **{(Phase.COMPLETED, caller): _REPLAY for caller in Caller},
    **{(Phase.FAILED, caller): _REPLAY_FAILURE for caller in Caller},
    **{(Phase.BACKING_OFF, caller): _REPLAY_FAILURE for caller in Caller},
    **{(Phase.RETRYABLE, caller): _AGAIN for caller in Caller},
}
"""Every phase answers every claimer; a different fingerprint is refused before this table is read."""

_OWNED: Final = (Phase.RUNNING, Phase.LAPSED)
_FAILURES: Final = (Phase.FAILED, Phase.BACKING_OFF, Phase.RETRYABLE)

COMPLETE: Final[Mapping[tuple[Phase, Caller], Rule[Complete, SettleOutcome]]] = {
    **{(held, Caller.OWNER): Rule(_complete, (Phase.COMPLETED,), Done) for held in _OWNED},
    (Phase.COMPLETED, Caller.OWNER): Rule(_completed_again, (), Done),
}
FAIL: Final[Mapping[tuple[Phase, Caller], Rule[Fail, SettleOutcome]]] = {
    **{(held, Caller.OWNER): Rule(_fail, _FAILURES, Done) for held in _OWNED},
    **{(failed, Caller.OWNER): Rule(_failed_again, (), Done) for failed in _FAILURES},
}
RENEW: Final[Mapping[tuple[Phase, Caller], Rule[Renew, SettleOutcome]]] = {
    (held, Caller.OWNER): Rule(_renew, (Phase.RUNNING,), Done) for held in _OWNED
}
RELEASE: Final[Mapping[tuple[Phase, Caller], Rule[Release, SettleOutcome]]] = {
    **{(held, Caller.OWNER): Rule(_release, (Phase.ABSENT,), Done) for held in _OWNED},
    (Phase.ABSENT, Caller.OTHER): Rule(_release, (Phase.ABSENT,), Done),
}
"""In these four a missing entry *is* the illegal transition: ``LeaseLost``, and nothing changes."""


@overload
def step(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]: ...
@overload
def step(
    record: Record | None, event: Complete | Fail | Renew | Release, now: int
) -> tuple[Record | None, SettleOutcome]: ...
def step(record: Record | None, event: Event, now: int) -> tuple[Record | None, ClaimOutcome | SettleOutcome]:
    """What becomes of ``record`` when ``event`` arrives at ``now``, and what its sender is told. Pure.

    A record that comes back unchanged (``is``) needs no write: busy answers, replays and re-deliveries are read-only.
    """
    if isinstance(event, Claim):  # on CPython 3.11 ``match`` costs several times as much
        return _claim(record, event, now)
    if isinstance(event, Complete):
        return _settle(COMPLETE, record, event, now)
    if isinstance(event, Renew):
        return _settle(RENEW, record, event, now)
    if isinstance(event, Fail):
        return _settle(FAIL, record, event, now)
    if isinstance(event, Release):
        return _settle(RELEASE, record, event, now)
    assert_never(event)


def _claim(record: Record | None, event: Claim, now: int) -> tuple[Record | None, ClaimOutcome]:
    """Rules 1 to 7 of a claim: absence, then the fingerprint, then the table."""
    at = phase(record, now)
    caller = _OTHER if event.takeover else Caller.CAUTIOUS
    if record is not None and at is not _ABSENT:
        if record.fingerprint != event.fingerprint and None not in (record.fingerprint, event.fingerprint):
            return record, MISMATCH
        if record.token == event.token:
            caller = _OWNER
    return CLAIM[at, caller].act(record, event, now)


def _settle(
    table: Mapping[tuple[Phase, Caller], Rule[E, SettleOutcome]], record: Record | None, event: E, now: int
) -> tuple[Record | None, SettleOutcome]:
    """The token decides, never the clock: an owner that lapsed but was not replaced still owns its record."""
    at = phase(record, now)
    if record is None or at is _ABSENT:
        record, caller = None, _OTHER
    else:
        caller = _OWNER if record.token == event.token else _OTHER
    rule = table.get((at, caller))
    return (record, LEASE_LOST) if rule is None else rule.act(record, event, now)


TABLES: Final[Mapping[type[Event], Mapping[tuple[Phase, Caller], object]]] = {
    Claim: CLAIM,
    Complete: COMPLETE,
    Fail: FAIL,
    Renew: RENEW,
    Release: RELEASE,
}


def diagram() -> str:
    """The state diagram of the docs, as Mermaid text, drawn from ``TABLES``; rows that change nothing are left out."""
    names = {at: "[*]" if at is Phase.ABSENT else at.name.lower() for at in Phase}
    lines = ["stateDiagram-v2", *(f"    {names[at]}: {at}" for at in Phase if at is not Phase.ABSENT)]
    for event, table in TABLES.items():
        for (at, caller), rule in table.items():
            assert isinstance(rule, Rule)
            if caller is not Caller.CAUTIOUS:
                targets = [target for target in rule.leads_to if target is not at]
                lines += [f"    {names[at]} --> {names[target]}: {event.__name__.lower()}" for target in targets]
    for before, after in ((Phase.RUNNING, Phase.LAPSED), (Phase.BACKING_OFF, Phase.RETRYABLE)):
        lines.append(f"    {names[before]} --> {names[after]}: time")
    return "\n".join(dict.fromkeys(lines)) + "\n"
