"""The linearizability checker accepts what some order explains, and rejects what none does."""

import random

import pytest

from idemstore.machine import MICROSECONDS, Claim, Complete, Fail, Release, Renew, step
from idemstore.outcomes import DONE, LEASE_LOST, Claimed, Completed, Failed, InFlight
from idemstore.testing.contract_storm import script
from idemstore.testing.linearize import NOW, linearizable
from idemstore.testing.storm import Operation

LONG = 1000 * MICROSECONDS


def claim(token: str) -> Claim:
    """A claim."""
    return Claim(None, token, LONG, LONG)


def history(*operations: tuple[int, object, object, int, int]) -> list[Operation]:
    """Operations as (client, event, outcome, start, end)."""
    return [Operation(*operation) for operation in operations]


GOOD = {
    "nothing": history(),
    "one after the other": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Complete("a", b"r", LONG), DONE, 2, 3),
        (1, claim("b"), Completed(b"r"), 4, 5),
    ),
    "the second of two at once was first": history(
        (0, claim("a"), InFlight(5), 0, 3), (1, claim("b"), Claimed("b", 1, 1), 1, 2)
    ),
    "a completion seen before its owner heard of it": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Complete("a", b"r", LONG), DONE, 2, 9),
        (1, claim("b"), Completed(b"r"), 3, 4),
    ),
    "one claim sent twice": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 3), (1, claim("a"), Claimed("a", 1, 1), 1, 2)
    ),
    "released and claimed by another": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Release("a"), DONE, 2, 5),
        (1, claim("b"), Claimed("b", 2, 1), 3, 6),
    ),
    "failed and retried": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Renew("a", LONG, b"c"), DONE, 2, 3),
        (0, Fail("a", b"f", LONG, 0), DONE, 4, 7),
        (1, claim("b"), Claimed("b", 5, 2, b"c"), 5, 6),
    ),
}
BAD = {
    "two owners": history((0, claim("a"), Claimed("a", 1, 1), 0, 3), (1, claim("b"), Claimed("b", 2, 1), 1, 2)),
    "an answer from the future": history(
        (1, claim("b"), Completed(b"r"), 0, 1),
        (0, claim("a"), Claimed("a", 1, 1), 2, 3),
        (0, Complete("a", b"r", LONG), DONE, 4, 5),
    ),
    "a result that was never stored": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Complete("a", b"r", LONG), DONE, 2, 3),
        (1, claim("b"), Completed(b"other"), 4, 5),
    ),
    "a result that was forgotten": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Complete("a", b"r", LONG), DONE, 2, 3),
        (1, claim("b"), InFlight(5), 4, 5),
    ),
    "busy with nobody": history((0, claim("a"), InFlight(5), 0, 1)),
    "an owner that lost nothing": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1), (0, Complete("a", b"r", LONG), LEASE_LOST, 2, 3)
    ),
    "a stranger that completed": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1), (1, Complete("b", b"r", LONG), DONE, 2, 3)
    ),
    "two results": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Complete("a", b"1", LONG), DONE, 2, 5),
        (1, Complete("a", b"2", LONG), DONE, 3, 4),
    ),
    "a fence that went back": history(
        (0, claim("a"), Claimed("a", 5, 1), 0, 1),
        (0, Release("a"), DONE, 2, 3),
        (0, claim("b"), Claimed("b", 5, 1), 4, 5),
    ),
    "one claim with two fences": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1), (0, claim("a"), Claimed("a", 2, 1), 2, 3)
    ),
    "an attempt that was not counted": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Fail("a", b"f", LONG, 0), DONE, 2, 3),
        (1, claim("b"), Claimed("b", 2, 1), 4, 5),
    ),
    "a checkpoint that was lost": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Renew("a", LONG, b"c"), DONE, 2, 3),
        (0, claim("a"), Claimed("a", 1, 1, None), 4, 5),
    ),
    "a final failure that was retried": history(
        (0, claim("a"), Claimed("a", 1, 1), 0, 1),
        (0, Fail("a", b"f", LONG), DONE, 2, 3),
        (1, claim("b"), Failed(b"f", 1.0), 4, 5),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_explained(name):
    """Some order gives these answers."""
    assert linearizable(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_not_explained(name):
    """No order does."""
    assert not linearizable(BAD[name])


def made_up(seed: int) -> list[Operation]:
    """Four clients' random operations, taking effect one at a time at a moment between their start and end."""
    chance = random.Random(seed)
    lanes = [list(script(chance, client)) for client in range(4)]
    record, fence, tick, operations = None, 0, 0, []
    pending: dict[int, tuple[object, int, object]] = {}
    while any(lanes) or pending:
        client = chance.choice([client for client in range(4) if lanes[client] or client in pending])
        tick += 1
        if client not in pending:
            event = lanes[client].pop(0)
            fence += 10
            before = record
            record, outcome = step(record, event, NOW)
            if isinstance(outcome, Claimed) and (before is None or record is not before):
                record = record._replace(fence=fence)
                outcome = Claimed(outcome.token, fence, outcome.attempt, outcome.checkpoint)
            pending[client] = (event, tick, outcome)
        else:
            event, start, outcome = pending.pop(client)
            # The effect took place at ``start``; a client may have begun earlier than that, but never before its last.
            operations.append(Operation(client, event, outcome, start * 2, tick * 2))
    return operations


@pytest.mark.parametrize("seed", range(20))
def test_histories_that_were_made_one_at_a_time(seed):
    """Whatever order they were made in, it is found, even if starts are moved back before other clients' ends."""
    operations = made_up(seed)
    assert len(operations) == 32
    assert linearizable(operations)
    last = dict.fromkeys(range(4), -1)
    wider = []
    for operation in sorted(operations, key=lambda operation: operation.start):
        start = max(last[operation.client] + 1, operation.start - 7)
        wider.append(operation._replace(start=start))
        last[operation.client] = operation.end
    assert linearizable(wider)


def test_one_false_answer_is_found():
    """Of a good history with one answer changed, most are rejected."""
    rejected = 0
    for seed in range(20):
        operations = made_up(seed)
        at = next(n for n, operation in enumerate(operations) if isinstance(operation.outcome, Claimed))
        operations[at] = operations[at]._replace(outcome=InFlight(5))
        rejected += not linearizable(operations)
    assert rejected == 20
