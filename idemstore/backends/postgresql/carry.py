"""The two interpreters of ``batches.together``, sync and async, for every driver."""

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from idemstore.backends.postgresql import batches
from idemstore.backends.postgresql.dialect import Call, Reply
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import IdemstoreError
from idemstore.exchange import Alone


def carry_many(
    requests: Sequence[Call], schema: Schema, ask: Callable[[Call], Reply]
) -> Sequence[Reply | IdemstoreError]:
    """One answer or error per request."""
    steps = batches.together(requests, schema)
    reply: Reply | IdemstoreError | None = None
    while True:
        try:
            call = next(steps) if reply is None else steps.send(reply)
        except StopIteration as stop:
            answers: list[Reply | IdemstoreError] = stop.value  # none is to go alone: they are no strangers
            return answers
        try:
            reply = ask(call)
        except IdemstoreError as error:
            reply = error


async def carry_many_async(
    requests: Sequence[Call], schema: Schema, ask: Callable[[Call], Awaitable[Reply]]
) -> Sequence[Reply | IdemstoreError]:
    """One answer or error per request."""
    answers = await _carry_async(batches.together(requests, schema), ask)
    return cast("Sequence[Reply | IdemstoreError]", answers)  # none is to go alone: they are no strangers


async def carry_together(
    requests: Sequence[Call], schema: Schema, ask: Callable[[Call], Awaitable[Reply]]
) -> Sequence[Reply | IdemstoreError | Alone]:
    """For calls of different callers."""
    return await _carry_async(batches.together(requests, schema, strangers=True), ask)


async def _carry_async(
    steps: batches.Batch, ask: Callable[[Call], Awaitable[Reply]]
) -> Sequence[Reply | IdemstoreError | Alone]:
    """Run a batch."""
    reply: Reply | IdemstoreError | None = None
    while True:
        try:
            call = next(steps) if reply is None else steps.send(reply)
        except StopIteration as stop:
            answers: list[Reply | IdemstoreError | Alone] = stop.value
            return answers
        try:
            reply = await ask(call)
        except IdemstoreError as error:
            reply = error
