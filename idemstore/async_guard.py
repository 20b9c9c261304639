"""``AsyncGuard``: ``Guard`` for coroutines.

Cancellation: of the claim, and it is given back; of the function, and it is recorded like any failure; of the
completion, and the completion is carried to its end before the cancellation goes on. Only a coroutine that is closed
from outside (``GeneratorExit``, a loop torn down) can tell the store nothing: its lease ends by itself.
"""

import asyncio
import contextlib
import contextvars
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, cast

from idemstore.async_insist import async_insist, outlast, to_the_end
from idemstore.async_keepalive import async_keepalive
from idemstore.async_store import AsyncStore
from idemstore.binding import FingerprintOf, KeyOf, ScopeOf
from idemstore.codec.base import Codec
from idemstore.errors import ConfigurationError, IdemstoreError, LeaseLostError
from idemstore.guard_core import DOWN, UNFINISHED, GuardCore, log, unfinished
from idemstore.keys import KeyLike, redact
from idemstore.outcomes import DONE, Claimed, ClaimOutcome, SettleOutcome
from idemstore.policy import Keep, LeaseLoss, Policy, Retry
from idemstore.running import BaseOperation, Home, current, find

P = ParamSpec("P")
T = TypeVar("T")

Telling = Callable[[], Awaitable[SettleOutcome]]


class AsyncOperation(BaseOperation):
    """The running operation of an async guard."""

    __slots__ = ("_store", "cancelled", "task")

    def __init__(self, home: Home, store: AsyncStore, key: KeyLike, stored: str, claimed: Claimed | None) -> None:
        BaseOperation.__init__(self, home, key, stored, claimed)  # ``super()`` takes longer, and every request does
        self._store = store
        self.task: asyncio.Task[object] | None = None
        """The task that runs the function, where the policy is to cancel it if the lease is lost."""
        self.cancelled = False

    def cancel_on_loss(self) -> None:
        """Where the lease is lost, the task that runs now is to be cancelled."""
        self.task = asyncio.current_task()
        if self.beat is not None:
            self.beat.on_loss = self._lost

    def never_cancel(self) -> None:
        """Undo that: operation, lease and task (whose context has the operation) hold one another no more."""
        self.task = None
        if self.beat is not None:
            self.beat.on_loss = None

    def _lost(self) -> None:
        """Told by the heartbeat that the lease is lost."""
        if self.task is not None and self.live:
            self.cancelled = self.task.cancel("idemstore: lease lost")

    def obeyed(self) -> bool:
        """Whether the cancellation that the task got was the heartbeat's alone; takes it back."""
        if not self.cancelled or self.task is None:
            return False
        self.cancelled = False
        return self.task.uncancel() == 0

    async def checkpoint(self, data: bytes) -> None:
        """As ``Operation.checkpoint``."""
        beat = self._holds()
        if beat is None:
            return
        store, key, token, lease = self._store, self.key, self.token, self.home.lease
        sealed, sent = self.home.envelope.checkpoint(data, self.stored), time.monotonic()
        saved = await async_insist(lambda: store.renew(key, token, lease=lease, checkpoint=sealed), beat.until)
        self._saved(beat, sent, saved)


def async_operation() -> AsyncOperation:
    """The operation that runs in this context, inside a coroutine function called by an ``AsyncGuard``."""
    return find(AsyncOperation, "async_operation", "an AsyncGuard")


class AsyncGuard(GuardCore[AsyncOperation]):
    """Run coroutine functions once for a key; for tasks of one event loop."""

    def __init__(self, store: AsyncStore, policy: Policy | None = None, codec: Codec[T] | None = None) -> None:
        """As ``Guard``."""
        if not isinstance(store, AsyncStore):
            raise ConfigurationError("AsyncGuard takes an AsyncStore: use idemstore.open_async(url), or Guard")
        super().__init__(store, async_keepalive(store), policy, codec)
        self.store = store

    async def call(self, key: KeyLike, fn: Callable[[], Awaitable[T]], *, fingerprint: bytes | None = None) -> T:
        """As ``Guard.call``; ``async_operation()`` gives attempt, fence and checkpoints."""
        stored = self.enter(key)
        token = self.unsure.take(stored)
        try:
            outcome = await self._claim(key, stored, token, fingerprint)
        except DOWN as error:
            self.no_answer(stored, token, error)
            return await self._run_unprotected(key, stored, token, fn)
        except (IdemstoreError, GeneratorExit):
            raise
        except BaseException as interruption:
            await self.give_back(key, stored, token, interruption)
            raise
        if not isinstance(outcome, Claimed):
            return cast("T", self.answer(outcome, stored))
        operation = self.begin(key, stored, outcome)
        return await self.complete(operation, await self.run(operation, fn))

    async def _claim(self, key: KeyLike, stored: str, token: str, fingerprint: bytes | None) -> ClaimOutcome:
        """Claim as the policy says."""
        policy = self.policy
        return await self.store.claim(
            key,
            lease=policy.lease,
            retention=policy.retention,
            fingerprint=fingerprint,
            token=token,
            takeover=policy.takeover,
            wait=self.wait(stored),
        )

    async def give_back(self, key: KeyLike, stored: str, token: str, why: BaseException) -> None:
        """As ``Guard.give_back``."""
        telling = self.telling(self.store, key, stored, token, Retry(), why)

        async def tell() -> None:
            try:
                await telling()
            except IdemstoreError as error:
                self.unsure.remember(stored, token)
                log.warning("the interrupted claim of %s could not be given back: %s", redact(stored), error)

        await outlast(tell)

    def _operation(self, key: KeyLike, stored: str, claimed: Claimed | None) -> AsyncOperation:
        """An async one."""
        return AsyncOperation(self.home, self.store, key, stored, claimed)

    async def run(self, operation: AsyncOperation, fn: Callable[[], Awaitable[T]]) -> T:
        """As ``Guard.run``."""
        if self.policy.lease_loss is LeaseLoss.CANCEL:
            operation.cancel_on_loss()
        outer = current.set(operation)
        try:
            operation.live = True
            value = await fn()
            if isinstance(value, UNFINISHED):
                raise unfinished(operation.stored, value)
        except BaseException as error:
            await self._ended_by(operation, error)
            raise
        finally:
            operation.live = False
            _leave(outer)
        operation.obeyed()
        return value

    async def _ended_by(self, operation: AsyncOperation, error: BaseException) -> None:
        """The function raised or was cancelled: record it."""
        beat = operation.beat
        if beat is None:
            return
        self.heartbeat.drop(beat)
        if isinstance(error, GeneratorExit):
            return  # closed from outside: nothing can be awaited any more
        if operation.obeyed() and isinstance(error, asyncio.CancelledError):
            raise LeaseLostError(
                f"somebody else has taken over {redact(operation.stored)}: the function was cancelled half-way"
            ) from error
        verdict = self.policy.verdict(error, operation.attempt)
        telling = self.telling(self.store, operation.key, operation.stored, operation.token, verdict, error)
        until = beat.until if isinstance(verdict, Keep) else 0.0  # as in ``Guard._failed``

        async def tell() -> None:
            try:
                self.told_failure(operation, error, verdict, await async_insist(telling, until))
            except IdemstoreError as trouble:
                self.not_recorded(operation, error, trouble)

        await to_the_end(tell)

    async def _run_unprotected(self, key: KeyLike, stored: str, token: str, fn: Callable[[], Awaitable[T]]) -> T:
        """As ``Guard._run_unprotected``."""
        try:
            return await self.run(self.unprotected(key, stored), fn)
        except BaseException:
            self.unsure.remember(stored, token)
            raise

    async def complete(self, operation: AsyncOperation, value: T) -> T:
        """As ``Guard.complete``."""
        beat = operation.beat
        if beat is None:
            return value
        self.heartbeat.drop(beat)
        data, trouble = self.envelope.value(value, operation.stored)
        store, key, token, kept = self.store, operation.key, operation.token, self.policy.retention
        until = beat.until

        async def tell() -> SettleOutcome:
            try:
                return await async_insist(lambda: store.complete(key, token, data, retention=kept), until)
            except IdemstoreError as error:
                raise self.unknown(operation, value, error) from error

        answer = await to_the_end(tell)
        return value if answer is DONE and trouble is None else self.finished(operation, answer, value, trouble)

    def idempotent(
        self, *, key: KeyOf, scope: ScopeOf = None, fingerprint: FingerprintOf = True
    ) -> Callable[[Callable[P, Coroutine[object, object, T]]], Callable[P, Coroutine[object, object, T]]]:
        """As ``Guard.idempotent``, for ``async def``."""

        def decorate(fn: Callable[P, Coroutine[object, object, T]]) -> Callable[P, Coroutine[object, object, T]]:
            binding = self.bind(fn, key, scope, fingerprint, "async")

            @functools.wraps(fn)
            async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
                bound = binding.read(args, kwargs)
                return await self.call(bound.key, lambda: fn(*args, **kwargs), fingerprint=bound.fingerprint)

            return guarded

        return decorate

    async def __aenter__(self) -> Self:
        """The guard itself; leaving the block closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _leave(outer: "contextvars.Token[BaseOperation | None]") -> None:
    """Leave the operation; a coroutine that is closed from another context has none to leave."""
    with contextlib.suppress(ValueError):
        current.reset(outer)
