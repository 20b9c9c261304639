"""Operations of several steps, each written once as a generator, and the two interpreters that run it.

A flow yields exchanges (and is sent their answers), ``ARM`` and ``Pause``. Rules for flows: hold no resource, catch
nothing. The interpreters own the watch and close it however the flow ends.
"""

import copy
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

from idemstore.errors import IdemstoreError, InvalidKey
from idemstore.exchange import AsyncWatch, Exchange, Watch
from idemstore.keys import KeyLike, encode_key, redact
from idemstore.outcomes import ClaimOutcome, Failed, InFlight

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

FIRST_POLL: Final = 0.01
LAST_POLL: Final = 0.5
"""A waiter that nobody can notify asks after 10 ms, then ever more rarely, at last every half second (seconds)."""

SHORTEST_PAUSE: Final = 0.001

ARM: Final = "arm"


class Pause(NamedTuple):
    """Wait for a change: ``poll`` seconds where nobody can tell of one, ``limit`` seconds at most."""

    poll: float
    limit: float


Flow = Generator[Exchange[Q, R, ClaimOutcome] | Pause | Literal["arm"], ClaimOutcome | None, ClaimOutcome]


def claim_or_wait(exchange: Exchange[Q, R, ClaimOutcome], wait: float) -> Flow[Q, R]:
    """Claim; while somebody else runs or backs off, wait up to ``wait`` seconds for the end of that and claim again.

    A waiter re-claims, with its own fingerprint and always the same token. So it takes over the moment the owner
    releases, fails with a retry or loses its lease; a result stored for another payload never reaches it; and a claim
    whose reply was lost is answered when asked again. Arm, then ask, then wait: no change falls between.
    """
    import random  # only waiters need it

    deadline = time.monotonic() + wait
    outcome = yield exchange
    left = _worth_waiting(outcome, deadline)
    poll = FIRST_POLL
    if left is not None:
        yield ARM
        outcome = yield exchange
        left = _worth_waiting(outcome, deadline)
    while left is not None:
        yield Pause(min(poll * random.uniform(0.75, 1.25), left), left)  # noqa: S311 - jitter, not a secret
        poll = min(poll * 1.5, LAST_POLL)
        outcome = yield exchange
        left = _worth_waiting(outcome, deadline)
    assert outcome is not None, "an interpreter answers every exchange"
    return outcome


def _worth_waiting(outcome: ClaimOutcome | None, deadline: float) -> float | None:
    """Seconds to wait before the next claim, at most; None where the outcome is final or the time is up."""
    left = deadline - time.monotonic()
    if left <= 0:
        return None
    match outcome:
        case InFlight(retry_after):
            return max(min(retry_after, left), SHORTEST_PAUSE)
        case Failed(_, retry_after) if retry_after is not None and retry_after < left:
            return max(retry_after, SHORTEST_PAUSE)
        case _:
            return None


class SleepWatch:
    """The watch of a sync driver that nobody notifies: it polls."""

    def wait(self, poll: float, limit: float) -> None:
        """Sleep until the next poll is due."""
        time.sleep(min(poll, limit))

    def close(self) -> None:
        """Nothing is held."""


class AsyncSleepWatch:
    """The watch of an async driver that nobody notifies: it polls."""

    async def wait(self, poll: float, limit: float) -> None:
        """Sleep until the next poll is due."""
        import asyncio  # sync programs never pay for it

        await asyncio.sleep(min(poll, limit))

    def close(self) -> None:
        """Nothing is held."""


def run(
    flow: Flow[Q, R], ask: Callable[[Exchange[Q, R, ClaimOutcome]], ClaimOutcome], arm: Callable[[], Watch]
) -> ClaimOutcome:
    """Run a flow in sync mode."""
    watch: Watch | None = None
    answer: ClaimOutcome | None = None
    try:
        while True:
            try:
                command = flow.send(answer)
            except StopIteration as stop:
                return _final(stop)
            answer = None
            if isinstance(command, Exchange):
                answer = ask(command)
            elif isinstance(command, Pause):
                assert watch is not None, "a flow arms before it pauses"
                watch.wait(command.poll, command.limit)
            else:
                watch = arm()
    finally:
        if watch is not None:
            watch.close()


async def run_async(
    flow: Flow[Q, R],
    ask: Callable[[Exchange[Q, R, ClaimOutcome]], Awaitable[ClaimOutcome]],
    arm: Callable[[], AsyncWatch],
) -> ClaimOutcome:
    """Run a flow in async mode."""
    watch: AsyncWatch | None = None
    answer: ClaimOutcome | None = None
    try:
        while True:
            try:
                command = flow.send(answer)
            except StopIteration as stop:
                return _final(stop)
            answer = None
            if isinstance(command, Exchange):
                answer = await ask(command)
            elif isinstance(command, Pause):
                assert watch is not None, "a flow arms before it pauses"
                await watch.wait(command.poll, command.limit)
            else:
                watch = arm()
    finally:
        if watch is not None:
            watch.close()


def _final(stop: StopIteration) -> ClaimOutcome:
    """What the flow returned."""
    outcome: ClaimOutcome = stop.value
    return outcome


Batch = Generator[list[Q], Sequence[R | IdemstoreError], list[T | IdemstoreError]]


def batch(exchanges: Sequence[Exchange[Q, R, T] | IdemstoreError], size: int) -> Batch[Q, R, T]:
    """Ask many at once, ``size`` per round trip: one answer or error per item, in order; no item harms its neighbours.

    Exchanges that must follow travel together in the next round.
    """
    answers: dict[int, T | IdemstoreError] = {}
    due: list[tuple[int, Exchange[Q, R, T]]] = []
    for index, item in enumerate(exchanges):
        if isinstance(item, Exchange):
            due.append((index, item))
        else:
            answers[index] = item
    while due:
        part, due = due[:size], due[size:]
        replies = yield [exchange.request for _, exchange in part]
        for (index, exchange), reply in zip(part, replies, strict=True):
            answer = _read(exchange, reply)
            if isinstance(answer, Exchange):
                due.append((index, answer))
            else:
                answers[index] = answer
    return [answers[index] for index in range(len(exchanges))]


def _read(exchange: Exchange[Q, R, T], reply: R | IdemstoreError) -> T | Exchange[Q, R, T] | IdemstoreError:
    """One answer of a batch; what is wrong with one item stays with that item."""
    if isinstance(reply, IdemstoreError):
        return reply
    try:
        return exchange.parse(reply)
    except IdemstoreError as error:
        return error


def named(
    answers: list[T | IdemstoreError], keys: Sequence[KeyLike | None], key_bytes: int
) -> list[T | IdemstoreError]:
    """The answers of a batch, each error with the (redacted) key of its item, but for keys that are none.

    Drivers give one error to all that it concerns: each further item gets a copy of it.
    """
    given: set[int] = set()
    for index, answer in enumerate(answers):
        key = keys[index]
        if key is not None and isinstance(answer, IdemstoreError) and not isinstance(answer, InvalidKey):
            error = answers[index] = copied(answer) if id(answer) in given else answer
            given.add(id(answer))
            error.key = redact(encode_key(key, key_bytes))
    return answers


def copied(error: IdemstoreError) -> IdemstoreError:
    """The same error for another item."""
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other
