"""Many calls in few round trips: which of them travel together, and whose reply is whose. Pure.

Operations on records, of whatever kind, become one call of the function ``many``, as long as their bytes fit one
message. Anything else goes alone, equal calls once. Where the server refuses a whole batch because of one of its items,
the items are sent one by one, so that the error stays with its item.
"""

from collections.abc import Generator, Sequence
from typing import Final, cast

from idemstore.backends.postgresql import frames
from idemstore.backends.postgresql.dialect import Arg, Call, Reply
from idemstore.backends.postgresql.refusals import BLOCKED, Refusal
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import IdemstoreError
from idemstore.exchange import ALONE, Alone

MAX_BYTES: Final = 32 * 2**20
"""Of the results and checkpoints in one message; the server takes 1 GB."""

Answer = Reply | IdemstoreError
Answers = dict[int, Answer | Alone]
Batch = Generator[Call, Answer, list[Answer | Alone]]

_STEPS: Final = frozenset({"claim", "complete", "fail", "renew", "release"})

_ONE_ITEM: Final = ("22", "23", "XX001", "54")
"""Refusals that one item can bring on all: data that the database cannot take or read, or too much of it."""


def step_key(call: Call) -> str | None:
    """The key of an operation on a record; None for anything else, which no batch carries."""
    return cast("str", call.args[0]) if call.statement.name in _STEPS else None


def together(requests: Sequence[Call], schema: Schema, *, strangers: bool = False) -> Batch:
    """Yields calls, is sent their replies (or errors), returns one answer per request. ``strangers``: they are of
    different callers; where one of them would hold up or spoil the batch, all are to be sent alone.
    """
    answers: Answers = {}
    for group in _groups(requests):
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
    if strangers and isinstance(reply, Refusal) and reply.sqlstate.startswith((BLOCKED, *_ONE_ITEM)):
        answers.update(dict.fromkeys(group, ALONE))
    elif isinstance(reply, Refusal) and reply.sqlstate.startswith(_ONE_ITEM):
        for index in group:
            answers[index] = yield requests[index]
    elif isinstance(reply, list) and len(reply) == len(group):
        answers.update(zip(group, [[cell] for cell in reply], strict=True))
    elif isinstance(reply, list):
        answers.update(dict.fromkeys(group, frames.misbehaved(None)))
    else:
        answers.update(dict.fromkeys(group, reply))


def _groups(requests: Sequence[Call]) -> list[list[int]]:
    """Indexes of the calls that travel together."""
    groups: list[list[int]] = []
    steps: list[int] = []
    others: dict[Call, list[int]] = {}
    size = 0
    for index, call in enumerate(requests):
        if call.statement.name not in _STEPS:
            others.setdefault(call, []).append(index)
            continue
        weight = sum(len(arg) for arg in call.args if isinstance(arg, bytes))
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
