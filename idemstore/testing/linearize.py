"""Is a history of concurrent operations on one key explained by some order in which they took effect one at a time?

The search of Wing and Gong, with ``machine.step`` as the specification: repeatedly take an operation that began before
every other remaining one ended, and see whether the machine answers it as the store did. Time plays no part: histories
use leases and retentions that outlast the test.
"""

from collections.abc import Sequence

from idemstore.machine import Record, step
from idemstore.outcomes import Abandoned, Claimed, Failed, InFlight
from idemstore.testing.storm import Operation, Outcome

State = tuple[Record | None, int]
"""The model's record, and the store's greatest fence so far."""

NOW = 10**15


def linearizable(history: Sequence[Operation], before: Record | None = None) -> bool:
    """Whether some order of the operations explains every answer."""
    lanes: dict[int, list[Operation]] = {}
    for operation in sorted(history, key=lambda operation: operation.start):
        lanes.setdefault(operation.client, []).append(operation)
    return _search(list(lanes.values()), (before, 0))


def _search(lanes: list[list[Operation]], state: State) -> bool:
    """Depth first, over (how far each client is, state); each of these once."""
    start = (tuple(0 for _ in lanes), state)
    stack, seen = [start], {start}
    while stack:
        done, state = stack.pop()
        pending = [(lane, lanes[lane][at]) for lane, at in enumerate(done) if at < len(lanes[lane])]
        if not pending:
            return True
        first_end = min(operation.end for _, operation in pending)
        for lane, operation in pending:
            after = _explain(state, operation) if operation.start < first_end else None
            if after is not None:
                node = ((*done[:lane], done[lane] + 1, *done[lane + 1 :]), after)
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    return False


def _explain(state: State, operation: Operation) -> State | None:
    """The state after the operation, if the machine would have answered it so."""
    record, fence = state
    after, answer = step(record, operation.event, NOW)
    if isinstance(answer, Claimed) and isinstance(operation.outcome, Claimed):
        real = operation.outcome
        new = record is None or after is not record
        if (new and real.fence <= fence) or (not new and record is not None and real.fence != record.fence):
            return None
        after = None if after is None else after._replace(fence=real.fence)
        fence = max(fence, real.fence)
    return (after, fence) if _timeless(answer) == _timeless(operation.outcome) else None


def _timeless(outcome: Outcome) -> object:
    """An outcome without what depends on the clock; fences are compared apart."""
    match outcome:
        case InFlight():
            return InFlight
        case Failed(result, retry_after):
            return Failed, result, retry_after is None
        case Claimed(token, _, attempt, checkpoint) | Abandoned(token, _, attempt, checkpoint):
            return type(outcome), token, attempt, checkpoint
        case _:
            return outcome
