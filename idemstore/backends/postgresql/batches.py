"""Many calls in few round trips: which of them travel together, and whose reply is whose. Pure.

Operations on records, of whatever kind, become one call of the function ``many``, as long as their bytes fit one
message. Anything else goes alone, equal calls once. Where the server refuses a whole batch because of one of its items,
the items are sent one by one, so that the error stays with its item.
"""

from collections.abc import Container, Generator, Sequence
from typing import Final, cast

from idemstore.backends.postgresql import frames
from idemstore.backends.postgresql.dialect import Arg, Call, Reply
from idemstore.backends.postgresql.refusals import BLOCKED, Refusal
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import IdemstoreError
from idemstore.exchange import ALONE, Alone

MAX_BYTES: Final = 32 * 2**20
"""Of the results and checkpoints in one message; the server takes 1 GB."""

HEAVY: Final = 32 * 2**10
"""Bytes. A larger result or checkpoint is no company for calls of others: the server copies all of a batch several
times, beyond its working memory by way of the disk, so that a megabyte takes four times as long there as by itself.
"""

Answer = Reply | IdemstoreError
Answers = dict[int, Answer | Alone]
Batch = Generator[Call, Answer, list[Answer | Alone]]

_STEPS: Final = frozenset({"claim", "complete", "fail", "renew", "release"})

_ONE_ITEM: Final = ("22", "23", "P0", "XX001", "54")
"""Refusals that one item can bring on all: data that the database cannot take or read, too much of it, or what a
trigger of somebody's objects to.
"""

_ENDED: Final = "25P02"
"""The transaction was aborted by something before."""

_STRANGE: Final = (*_ONE_ITEM, BLOCKED, "40001", "40P01")
"""Those that strangers need not bear, either: locks of others, and conflicts, which a batch meets more often than a
call by itself. Nothing was applied.
"""


def step_key(call: Call) -> str | None:
    """The key of an operation on a record; None for anything else, which no batch carries."""
    return cast("str", call.args[0]) if call.statement.name in _STEPS else None


def together(requests: Sequence[Call], schema: Schema, *, strangers: bool = False) -> Batch:
    """Yields calls, is sent their replies (or errors), returns one answer per request. ``strangers``: they are of
    different callers; where one of them would hold up or spoil the batch, all are to be sent alone.
    """
    answers: Answers = dict.fromkeys(_heavy(requests), ALONE) if strangers else {}
    for group in _groups(requests, answers):
        if len(group) == 1:
            answers[group[0]] = yield requests[group[0]]
        else:
            yield from _group(group, requests, schema, answers, strangers)
    return [answers[index] for index in range(len(requests))]


def _group(
    group: list[int], requests: Sequence[Call], schema: Schema, answers: Answers, strangers: bool
) -> Generator[Call, Answer, None]:
    """Calls that travel as one."""
    first = requests[group[0]]
    if first.statement.name not in _STEPS:
        answers.update(dict.fromkeys(group, (yield first)))
        return
    columns = _columns([requests[index] for index in group])
    if strangers:
        different = len({step_key(requests[index]) for index in group}) == len(group)
        reply = yield Call(schema.many_briefly, (*columns, different))
    else:
        reply = yield Call(schema.many, columns)
    if strangers and isinstance(reply, Refusal) and reply.sqlstate.startswith(_STRANGE):
        answers.update(dict.fromkeys(group, ALONE))
    elif isinstance(reply, Refusal) and reply.sqlstate.startswith(_ONE_ITEM):
        yield from _one_by_one(group, requests, answers, reply)
    elif isinstance(reply, list) and len(reply) == len(group):
        answers.update(zip(group, [[cell] for cell in reply], strict=True))
    elif isinstance(reply, list):
        answers.update(dict.fromkeys(group, frames.misbehaved(None)))
    else:
        answers.update(dict.fromkeys(group, reply))


def _one_by_one(
    group: list[int], requests: Sequence[Call], answers: Answers, refusal: Refusal
) -> Generator[Call, Answer, None]:
    """Each by itself, after a refusal that one of them brought on all. Within a caller's own transaction that refusal
    has ended it, and says more than that it has ended.
    """
    for index in group:
        answer = yield requests[index]
        ended = isinstance(answer, Refusal) and answer.sqlstate == _ENDED
        answers[index] = refusal if ended else answer


def _weight(call: Call) -> int:
    """Bytes of its result or checkpoint, more or less."""
    return sum(len(arg) for arg in call.args if isinstance(arg, bytes))


def _heavy(requests: Sequence[Call]) -> list[int]:
    """Indexes of the calls that are too large to travel with strangers, and of those behind them on the same keys."""
    keys: set[str | None] = set()
    found: list[int] = []
    for index, call in enumerate(requests):
        key = step_key(call)
        if key in keys or (_weight(call) > HEAVY and key is not None):
            keys.add(key)
            found.append(index)
    return found


def _groups(requests: Sequence[Call], without: Container[int]) -> list[list[int]]:
    """Indexes of the calls that travel together, but for some."""
    groups: list[list[int]] = []
    steps: list[int] = []
    others: dict[Call, list[int]] = {}
    size = 0
    for index, call in enumerate(requests):
        if index in without:
            continue
        if call.statement.name not in _STEPS:
            others.setdefault(call, []).append(index)
            continue
        weight = _weight(call)
        if steps and size + weight > MAX_BYTES:
            groups.append(steps)
            steps, size = [], 0
        steps.append(index)
        size += weight
    return [group for group in (*groups, steps, *others.values()) if group]


Row = tuple[str, str, str, bytes | None, int | None, int | None, bool | None]


def _row(call: Call) -> Row:
    """One item, in the columns of ``many``: what, key, token, bytes, two numbers, a flag."""
    key, token = cast("str", call.args[0]), cast("str", call.args[1])
    blob: bytes | None = None
    flag: bool | None = None
    numbers: list[int | None] = []
    for kind, arg in zip(call.statement.types[2:], call.args[2:], strict=True):
        if kind == "b":
            blob = cast("bytes | None", arg)
        elif kind == "f":
            flag = cast("bool", arg)
        else:
            numbers.append(cast("int | None", arg))
    one, two = (*numbers, None, None)[:2]
    return call.statement.name, key, token, blob, one, two, flag


def _columns(calls: Sequence[Call]) -> tuple[Arg, ...]:
    """The arguments of ``many``: one list per column."""
    return tuple(cast("Arg", list(column)) for column in zip(*map(_row, calls), strict=True))
