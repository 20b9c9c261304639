"""``AsyncGuard``: ``Guard`` for coroutines.

Cancellation: the function's own is recorded like any failure, a cancelled claim is given back, and a completion that
has begun is carried to its end before the cancellation goes on. Only a coroutine that is closed from outside
(``GeneratorExit``, a loop torn down) can tell the store nothing: its lease ends by itself.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, assert_never, cast

from idemstore.async_store import AsyncStore
from idemstore.binding import FingerprintOf, KeyOf, ScopeOf
from idemstore.codec import Codec
from idemstore.errors import ConfigurationError, IdemstoreError, LeaseLostError, StoreError, StoreUnavailable
from idemstore.guard import BaseOperation, GuardCore, _current, _saved, log, retries
from idemstore.keepalive import Beat, async_keepalive
from idemstore.keys import KeyLike, redact
from idemstore.outcomes import Claimed, ClaimOutcome, LeaseLost
from idemstore.policy import Keep, LeaseLoss, Policy, Release, Retry

P = ParamSpec("P")
T = TypeVar("T")


class AsyncOperation(BaseOperation):
    """The running operation of an async guard."""

    def __init__(
        self, guard: "AsyncGuard", key: KeyLike, stored: str, claimed: Claimed | None, beat: Beat | None
    ) -> None:
        super().__init__(guard, key, stored, claimed, beat)
        self._store, self._lease = guard.store, guard.policy.lease

    async def checkpoint(self, data: bytes) -> None:
        """As ``Operation.checkpoint``."""
        if self.protected:
            sent = time.monotonic()
            _saved(self, sent, await self._store.renew(self.key, self.token, lease=self._lease, checkpoint=data))


def async_operation() -> AsyncOperation:
    """The operation that runs in this context, inside a coroutine function called by an ``AsyncGuard``."""
    found = _current.get()
    if not isinstance(found, AsyncOperation):
        raise ConfigurationError("async_operation() is for functions that an AsyncGuard runs; none runs here")
    return found


class AsyncGuard(GuardCore):
    """Run coroutine functions once for a key; for tasks of one event loop."""

    def __init__(self, store: AsyncStore, policy: Policy | None = None, codec: Codec[T] | None = None) -> None:
        """As ``Guard``."""
        super().__init__(store, policy or Policy(), codec)
        self.store = store

    async def call(self, key: KeyLike, fn: Callable[[], Awaitable[T]], *, fingerprint: bytes | None = None) -> T:
        """As ``Guard.call``; ``async_operation()`` gives attempt, fence and checkpoints."""
        stored = self._enter(key)
        token = self._token(stored)
        try:
            outcome = await self._claim(key, token, fingerprint)
        except StoreUnavailable as error:
            self._remember(stored, token)
            if not self._unprotected(stored, error):
                raise
            return await self._run(AsyncOperation(self, key, stored, None, None), fn)
        except asyncio.CancelledError:
            await _to_the_end(self._give_back(key, stored, token))
            raise
        if not isinstance(outcome, Claimed):
            return cast("T", self.answer(outcome, stored))
        beat = Beat(key, token, self._lease, time.monotonic(), self._on_loss())
        return await self._run(AsyncOperation(self, key, stored, outcome, beat), fn)

    async def _claim(self, key: KeyLike, token: str, fingerprint: bytes | None) -> ClaimOutcome:
        """Claim as the policy says."""
        policy = self.policy
        return await self.store.claim(
            key,
            lease=policy.lease,
            retention=policy.retention,
            fingerprint=fingerprint,
            token=token,
            takeover=policy.takeover,
            wait=policy.wait,
        )

    async def _give_back(self, key: KeyLike, stored: str, token: str) -> None:
        """A claim that was cancelled under way may have been applied: nobody is going to use it."""
        try:
            await self.store.release(key, token)
        except IdemstoreError as error:
            self._remember(stored, token)
            log.warning("a cancelled claim of %s could not be given back: %s", redact(stored), error)

    def _on_loss(self) -> Callable[[], None]:
        """What the heartbeat does when the lease is lost."""
        task = asyncio.current_task()
        if self.policy.lease_loss is LeaseLoss.FINISH or task is None:
            return _ignore
        return lambda: None if task.done() else _cancel(task)

    async def _run(self, running: AsyncOperation, fn: Callable[[], Awaitable[T]]) -> T:
        """Run the function under its claim."""
        beating = async_keepalive(self.store) if running.beat is not None and self.policy.heartbeat else None
        if beating is not None and running.beat is not None:
            beating.add(running.beat)
        outer = _current.set(running)
        try:
            value = await fn()
        except GeneratorExit:
            raise
        except BaseException as error:
            await self._failed(running, error)
            raise
        finally:
            running.live = False
            _current.reset(outer)
            if beating is not None and running.beat is not None:
                beating.drop(running.beat)
        return await _to_the_end(self._complete(running, value)) if running.protected else value

    async def _failed(self, running: AsyncOperation, error: BaseException) -> None:
        """Record a failure to the end; a cancellation by the heartbeat becomes ``LeaseLostError``."""
        task = asyncio.current_task()
        cancelled_by_loss = isinstance(error, asyncio.CancelledError) and running.lease_lost and task is not None
        if (
            cancelled_by_loss
            and task is not None
            and self.policy.lease_loss is LeaseLoss.CANCEL
            and not task.uncancel()
        ):
            raise LeaseLostError(
                f"somebody else has taken over {redact(running.stored)}: the function was cancelled half-way"
            ) from error
        if running.protected:
            await _to_the_end(self._fail(running, error))

    async def _fail(self, running: AsyncOperation, error: BaseException) -> None:
        """As ``Guard._fail``."""
        verdict = self.policy.verdict(error)
        key, token, kept = running.key, running.token, self.policy.failure_retention
        try:
            match verdict:
                case Release():
                    answer = await self.store.release(key, token)
                case Keep():
                    data = self._seal_failure(error, running.stored)
                    answer = await self.store.fail(key, token, data, retention=kept)
                case Retry(after):
                    data = self._seal_failure(error, running.stored)
                    answer = await self.store.fail(key, token, data, retention=kept, retry_after=after)
                case _:
                    assert_never(verdict)
        except IdemstoreError as trouble:
            self._not_recorded(running, error, trouble)
        else:
            if isinstance(answer, LeaseLost):
                self._not_recorded(running, error, "somebody else has taken the key over")

    async def _complete(self, running: AsyncOperation, value: T) -> T:
        """As ``Guard._complete``."""
        sealed = self.seal_value(value, running.stored)
        assert running.beat is not None, "a protected operation has a lease"
        pauses = retries(running.beat.until)
        while True:
            try:
                answer = await self.store.complete(
                    running.key, running.token, sealed.data, retention=self.policy.retention
                )
            except StoreError as error:
                pause = next(pauses, None) if error.retryable else None
                if pause is None:
                    raise self._unknown(running, value, error) from error
                await asyncio.sleep(pause)
            else:
                return self.finished(running, answer, value, sealed.trouble)

    def idempotent(
        self, *, key: KeyOf, scope: ScopeOf = None, fingerprint: FingerprintOf = True
    ) -> Callable[[Callable[P, Coroutine[object, object, T]]], Callable[P, Coroutine[object, object, T]]]:
        """As ``Guard.idempotent``, for ``async def``."""

        def decorate(fn: Callable[P, Coroutine[object, object, T]]) -> Callable[P, Coroutine[object, object, T]]:
            binding = self._binding(fn, key, scope, fingerprint, "async")

            @functools.wraps(fn)
            async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
                bound = binding.read(args, kwargs)
                return await self.call(bound.key, lambda: fn(*args, **kwargs), fingerprint=bound.fingerprint)

            return guarded

        return decorate

    def close(self) -> None:
        """As ``Guard.close``."""
        self._closed = True

    async def __aenter__(self) -> Self:
        """The guard itself; leaving the block closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


async def _to_the_end(step: Coroutine[object, object, T]) -> T:
    """Run a step that must not be cut short: a cancellation waits for it (it is bounded), then goes on."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        raise


def _cancel(task: "asyncio.Task[object]") -> None:
    """Cancel the task whose lease is lost."""
    task.cancel("idemstore: lease lost")


def _ignore() -> None:
    """Let it finish."""
