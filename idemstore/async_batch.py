"""``AsyncBatch``: ``Batch`` for coroutine functions, several of which may run at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from idemstore.async_guard import AsyncGuard, AsyncOperation
from idemstore.async_insist import outlast, to_the_end
from idemstore.batch_core import NEVER_RAN, Ask, Item, Ran, Ready, Work, bounds
from idemstore.checks import Duration
from idemstore.errors import IdemstoreError, InvalidInput
from idemstore.face import Failure
from idemstore.guard_core import DOWN, log
from idemstore.insist import pauses
from idemstore.keys import KeyLike
from idemstore.outcomes import Claimed

T = TypeVar("T")


class AsyncBatch:
    """As ``Batch``; ``concurrency`` functions run at a time. With one, they run in the order of the keys."""

    def __init__(
        self,
        guard: AsyncGuard,
        *,
        claim_at_once: int = 100,
        flush_every: int = 50,
        flush_after: Duration = 1.0,
        concurrency: int = 1,
    ) -> None:
        """As ``Batch``."""
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidInput(f"concurrency is {concurrency!r}: give a whole number from 1")
        self._guard, self._concurrency = guard, concurrency
        self._bounds = bounds(claim_at_once, flush_every, flush_after)

    async def map(
        self,
        keys: Sequence[KeyLike],
        fn: Callable[[KeyLike], Awaitable[T]],
        *,
        fingerprints: Sequence[bytes | None] | None = None,
    ) -> list[Item[T]]:
        """As ``Batch.map``. A cancellation goes on after what has run is recorded and what has not is given back."""
        work = Work[T, AsyncOperation](self._guard, keys, fingerprints, self._bounds)
        while asks := work.asks():
            await self._claim(work, asks)
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self._concurrency, len(work.ready))):
                        workers.create_task(self._work(work, fn))
            except GeneratorExit:
                raise  # closed from outside: nothing can be awaited any more
            except BaseException:
                await outlast(lambda: self._tidy(work))
                raise
            await self._flush(work)
        return work.items()

    async def _tidy(self, work: Work[T, AsyncOperation]) -> None:
        """After an interruption."""
        await self._flush(work)
        await self._give_back(work)

    async def _claim(self, work: Work[T, AsyncOperation], asks: Sequence[Ask]) -> None:
        """As ``Batch._claim``."""
        guard, policy = self._guard, self._guard.policy
        try:
            outcomes = await guard.store.claim_many(
                [ask.key for ask in asks],
                fingerprints=[ask.fingerprint for ask in asks],
                tokens=[ask.token for ask in asks],
                lease=policy.lease,
                retention=policy.retention,
                takeover=policy.takeover,
            )
        except DOWN as error:
            outcomes = [error] * len(asks)
            if not work.proceeds(error):
                work.refuse_rest(error)
        except (IdemstoreError, GeneratorExit):
            raise
        except BaseException as interruption:
            why, claims = interruption, [(ask.key, ask.stored, ask.token) for ask in asks]
            await outlast(lambda: self._tell_given_back(claims, why))
            raise
        for ask, outcome in zip(asks, outcomes, strict=True):
            if isinstance(outcome, Claimed):
                work.ready.append(Ready(ask.at, guard.begin(ask.key, ask.stored, outcome)))
            elif not isinstance(outcome, IdemstoreError):
                work.answered(ask, outcome)
            elif work.refused(ask, outcome):
                work.ready.append(Ready(ask.at, guard.unprotected(ask.key, ask.stored)))

    async def _work(self, work: Work[T, AsyncOperation], fn: Callable[[KeyLike], Awaitable[T]]) -> None:
        """Run one operation after the other; their errors stay their own."""
        while work.ready:
            index, operation = work.ready.popleft()
            try:
                self._guard.check_begin(operation)
                value = await self._guard.run(operation, partial(fn, operation.key))
            except asyncio.CancelledError as error:
                if _cancelled_from_outside():
                    raise
                work.raised(index, operation, error)  # the function's own, of a task that it waited for
            except Exception as error:  # noqa: BLE001 - an item's error is handed to the caller in its item
                self._guard.drop(operation)
                work.raised(index, operation, error)
            else:
                work.returned(index, operation, value)
            if work.due():
                await self._flush(work)

    async def _flush(self, work: Work[T, AsyncOperation]) -> None:
        """As ``Batch._flush``. While one worker records, others run."""
        told = work.take()
        if told:
            for ran in told:
                self._guard.drop(ran.running)
            await to_the_end(lambda: self._insist(work, told))

    async def _insist(self, work: Work[T, AsyncOperation], told: Sequence[Ran[T]]) -> None:
        """Record, trying until the last of the leases would be over."""
        waiting = pauses(max(ran.until for ran in told))
        while told:
            pause = next(waiting, None)
            told = await self._tell(work, told, last=pause is None)
            if told and pause is not None:
                await asyncio.sleep(pause)

    async def _tell(self, work: Work[T, AsyncOperation], told: Sequence[Ran[T]], last: bool) -> list[Ran[T]]:
        """As ``Batch._tell``."""
        guard = self._guard
        try:
            completions = [ran.completion for ran in told]
            answers = await guard.store.complete_many(completions, retention=guard.policy.retention)
        except IdemstoreError as error:
            answers = [error] * len(told)
        return work.recorded(told, answers, last)

    async def _give_back(self, work: Work[T, AsyncOperation]) -> None:
        """As ``Batch._give_back``."""
        unused = work.unused()
        for operation in unused:
            self._guard.drop(operation)
        fresh = [(operation.key, operation.token) for operation in unused if operation.attempt == 1]
        try:
            if fresh:
                await self._guard.store.release_many(fresh)
        except IdemstoreError as error:
            log.warning("%d claims that did not run could not be released: %s", len(fresh), error)
        again = [(operation.key, operation.stored, operation.token) for operation in unused if operation.attempt > 1]
        await self._tell_given_back(again, InterruptedError(NEVER_RAN))

    async def _tell_given_back(self, claims: Sequence[tuple[KeyLike, str, str]], why: BaseException) -> None:
        """As ``Batch._tell_given_back``."""
        guard = self._guard
        failures = [Failure(key, token, guard.envelope.failure(why, stored), 0) for key, stored, token in claims]
        try:
            if failures:
                await guard.store.fail_many(failures, retention=guard.policy.failure_retention)
        except IdemstoreError as error:
            log.warning("%d claims that did not run could not be given back: %s", len(failures), error)


def _cancelled_from_outside() -> bool:
    """Whether somebody wants this task to end."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
