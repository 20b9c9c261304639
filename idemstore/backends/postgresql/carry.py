"""The two interpreters of ``batches.together``, sync and async, for every driver."""

from collections.abc import Awaitable, Callable, Sequence

from idemstore.backends.postgresql import batches
from idemstore.backends.postgresql.dialect import Call, Reply
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import IdemstoreError


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
            answers: list[Reply | IdemstoreError] = stop.value
            return answers
        try:
            reply = ask(call)
        except IdemstoreError as error:
            reply = error


async def carry_many_async(
    requests: Sequence[Call], schema: Schema, ask: Callable[[Call], Awaitable[Reply]]
) -> Sequence[Reply | IdemstoreError]:
    """One answer or error per request."""
    steps = batches.together(requests, schema)
    reply: Reply | IdemstoreError | None = None
    while True:
        try:
            call = next(steps) if reply is None else steps.send(reply)
        except StopIteration as stop:
            answers: list[Reply | IdemstoreError] = stop.value
            return answers
        try:
            reply = await ask(call)
        except IdemstoreError as error:
            reply = error
