"""The update expressions: ``machine.step`` in DynamoDB's own words, one conditional write for each operation.

Each function makes the parameters of one ``UpdateItem``. Times come from a ``Reading``: ``late`` where one is written,
``early`` where one is judged. Every condition decides alone whether the write happens; a failed one brings the old
item back (ALL_OLD), and the dialect reads from it what the machine says.
"""

from collections.abc import Mapping
from typing import Final

from idemstore.backends.dynamodb.clock import Reading
from idemstore.backends.dynamodb.messages import Attr, Params, binary, number, text
from idemstore.backends.dynamodb.record import NEVER, TTL_SLACK, Stored, ttl
from idemstore.machine import MICROSECONDS, Claim, State

LONG_AGO: Final = 60 * MICROSECONDS
"""A failure that may be retried at once is written as if its retry time were past for every client's clock."""

FREE: Final = "attribute_not_exists(id) OR (expires_at <= :early AND fence < :late)"
"""Absent, or no longer alive; the second part keeps the fence growing where the clock did not outrun the last one."""
OWNED: Final = "claim_token = :token AND record_state = :running AND expires_at > :early"
"""The token decides, never the lease."""
UNCHANGED: Final = "fence = :seen_fence AND record_state = :seen_state AND expires_at = :seen_ends"
"""The very version that was read: every transition changes one of the three."""

START: Final = (
    "SET record_state = :running, claim_token = :token, fence = :late, attempt = :attempt, lease_until = :lease, "
    "expires_at = :ends, retention = :kept, ttl_after = :ttl_after, ttl_at = :ttl"
)
CLEAR: Final = " REMOVE record_result, retry_at, checkpoint"
KEEP: Final = " REMOVE record_result, retry_at"
RENEW: Final = "SET lease_until = :lease, expires_at = retention + :lease, ttl_at = ttl_after + :lease_seconds"
FINISH: Final = "SET record_state = :state, record_result = :result, expires_at = :ends"
BURY: Final = (
    "SET expires_at = :zero, ttl_at = :ttl REMOVE record_result, retry_at, checkpoint, fingerprint, lease_until, "
    "retention, ttl_after"
)
"""What remains of a released or forgotten key: its fence, for as long as clocks may differ, and longer."""

_RUNNING: Final = text(State.IN_FLIGHT.value)
_FIRST: Final = number(1)
_ZERO: Final = number(0)

Values = dict[str, Attr]


def update(table: str, key: str, expression: str, condition: str, values: Mapping[str, Attr]) -> Params:
    """One conditional write that answers a failed condition with the old item."""
    return {
        "TableName": table,
        "Key": {"id": {"S": key}},
        "UpdateExpression": expression,
        "ConditionExpression": condition,
        "ExpressionAttributeValues": values,
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def start(table: str, key: str, event: Claim, now: Reading) -> Params:
    """Claim a key that is absent: the common case, and the first try in every other."""
    values = _claimed(event, now, now.late)
    values[":attempt"] = _FIRST
    values[":early"] = number(now.early)
    return update(table, key, *_expression(event.fingerprint, values, fresh=True), FREE, values)


def next_fence(seen: Stored, now: Reading) -> int:
    """A fence outgrows the one before it even where the clock does not."""
    return max(seen.record.fence + 1, now.late)


def seize(table: str, key: str, event: Claim, seen: Stored, attempt: int, now: Reading) -> Params:
    """Claim a key whose record was read and may be claimed, if nothing has changed since.

    A new attempt keeps checkpoint and fingerprint, a new life starts with neither.
    """
    values = _claimed(event, now, next_fence(seen, now))
    values[":attempt"] = number(attempt)
    fresh = attempt == 1
    keeps = event.fingerprint if fresh or seen.record.fingerprint is None else seen.record.fingerprint
    expression = _expression(keeps, values, fresh=fresh)
    values[":seen_fence"] = number(seen.record.fence)
    values[":seen_ends"] = number(seen.ends)
    if seen.ends == 0:
        return update(table, key, *expression, "fence = :seen_fence AND expires_at = :seen_ends", values)
    values[":seen_state"] = text(seen.record.state.value)
    return update(table, key, *expression, UNCHANGED, values)


def _claimed(event: Claim, now: Reading, fence: int) -> Values:
    """The values of a new claim."""
    lease = now.late + event.lease
    kept = NEVER if event.retention is None else event.retention
    after = TTL_SLACK + -(-kept // MICROSECONDS)
    return {
        ":running": _RUNNING,
        ":token": text(event.token),
        ":late": number(fence),
        ":lease": number(lease),
        ":ends": number(lease + kept),
        ":kept": number(kept),
        ":ttl_after": number(after),
        ":ttl": number(_seconds(lease) + after),
    }


def _expression(fingerprint: bytes | None, values: Values, *, fresh: bool) -> tuple[str]:
    """What a claim sets and removes; adds the fingerprint's value where there is one."""
    removed = CLEAR if fresh else KEEP
    if fingerprint is None:
        return (START + removed + ", fingerprint",)
    values[":fingerprint"] = binary(fingerprint)
    return (START + ", fingerprint = :fingerprint" + removed,)


def _seconds(moment: int) -> int:
    """Whole seconds, rounded up."""
    return -(-moment // MICROSECONDS)


def _owned(token: str, now: Reading) -> Values:
    """The values of the condition ``OWNED``."""
    return {":token": text(token), ":running": _RUNNING, ":early": number(now.early)}


def complete(table: str, key: str, token: str, result: Attr, retention: int | None, now: Reading) -> Params:
    """Store a result. The checkpoint has served."""
    values = _owned(token, now)
    setting, removing = _finish(values, State.COMPLETED, result, retention, now)
    removed = "lease_until, retention, ttl_after, checkpoint"
    return update(table, key, f"{setting} REMOVE {removed}{removing}", OWNED, values)


def fail(
    table: str, key: str, token: str, result: Attr, retention: int | None, retry_after: int | None, now: Reading
) -> Params:
    """Store a failure. The checkpoint stays for the next attempt."""
    values = _owned(token, now)
    setting, removing = _finish(values, State.FAILED, result, retention, now)
    if retry_after is not None:
        values[":retry"] = number(now.late + retry_after if retry_after else now.late - LONG_AGO)
        setting += ", retry_at = :retry"
    return update(table, key, f"{setting} REMOVE lease_until, retention, ttl_after{removing}", OWNED, values)


def _finish(values: Values, state: State, result: Attr, retention: int | None, now: Reading) -> tuple[str, str]:
    """What every end sets, and what it removes for the TTL's sake."""
    ends = NEVER if retention is None else now.late + retention
    values[":state"], values[":result"], values[":ends"] = text(state.value), result, number(ends)
    if retention is None:
        return FINISH, ", ttl_at"
    values[":ttl"] = number(ttl(ends))
    return FINISH + ", ttl_at = :ttl", ""


def renew(table: str, key: str, token: str, lease: int, checkpoint: bytes | None, now: Reading) -> Params:
    """Count the lease from now; the ends of retention and TTL move with it, by what the claim stored."""
    values = _owned(token, now)
    until = now.late + lease
    values[":lease"], values[":lease_seconds"] = number(until), number(_seconds(until))
    if checkpoint is None:
        return update(table, key, RENEW, OWNED, values)
    values[":checkpoint"] = binary(checkpoint)
    return update(table, key, RENEW + ", checkpoint = :checkpoint", OWNED, values)


def release(table: str, key: str, token: str, now: Reading) -> Params:
    """Give a key back; its fence remains."""
    return update(table, key, BURY, OWNED, {**_owned(token, now), **_grave(now)})


def forget(table: str, key: str, now: Reading) -> Params:
    """Delete a record of ours whatever its state; its fence remains."""
    values = {**_grave(now), ":number": text("N")}
    return update(table, key, BURY, "attribute_type(fence, :number) AND expires_at <> :zero", values)


def bury(table: str, key: str, fence: int, ends: int, now: Reading) -> Params:
    """Delete an expired record whose fence is still too young to be lost."""
    values = {**_grave(now), ":seen_fence": number(fence), ":seen_ends": number(ends)}
    return update(table, key, BURY, "fence = :seen_fence AND expires_at = :seen_ends", values)


def _grave(now: Reading) -> Values:
    """The values of ``BURY``."""
    return {":zero": _ZERO, ":ttl": number(ttl(now.late))}
