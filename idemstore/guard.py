"""``Guard``: run a function once for a key. Claim, run, complete, with heartbeat, waiting and checkpoints.

End states, whatever happens (``docs/guard.md`` has the whole table):

- the function returned: completed; or ``LeaseLostError`` / ``CompletionUnknown``, both with the value;
- it raised or was interrupted: failed for good, failed with a retry, or released, as the policy says;
- the process died: in flight until its lease ends, then the next call takes over with the last checkpoint.
"""

import functools
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, cast

from idemstore.binding import FingerprintOf, KeyOf, ScopeOf
from idemstore.codec.base import Codec
from idemstore.envelope import Sealed
from idemstore.errors import ConfigurationError, IdemstoreError
from idemstore.guard_core import DOWN, UNFINISHED, GuardCore, log, unfinished
from idemstore.insist import insist
from idemstore.keepalive import keepalive
from idemstore.keys import KeyLike, redact
from idemstore.outcomes import DONE, Claimed, ClaimOutcome, SettleOutcome
from idemstore.policy import Keep, Policy, Retry
from idemstore.running import Operation, current
from idemstore.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Guard(GuardCore[Operation]):
    """Run functions once for a key, sync. Safe for many threads and across ``fork()``; several guards may share a
    store.
    """

    def __init__(self, store: Store, policy: Policy | None = None, codec: Codec[T] | None = None) -> None:
        """``codec``: how results are stored; JSON unless given, see ``idemstore.codec``."""
        if not isinstance(store, Store):
            raise ConfigurationError("Guard takes a Store: use idemstore.open(url), or AsyncGuard")
        super().__init__(store, keepalive(store), policy, codec)
        self.store = store

    def call(self, key: KeyLike, fn: Callable[[], T], *, fingerprint: bytes | None = None) -> T:
        """Run ``fn`` unless it ran before under ``key``; return its value, or the stored one.

        Raises what ``fn`` raises, or a ``GuardError``; with ``Policy.wait`` it waits for an execution elsewhere first.
        Inside ``fn``, ``operation()`` gives attempt, fence and checkpoints.
        """
        stored = self.enter(key)
        token = self.unsure.take(stored)
        try:
            outcome = self._claim(key, stored, token, fingerprint)
        except DOWN as error:
            self.no_answer(stored, token, error)
            return self._run_unprotected(key, stored, token, fn)
        except IdemstoreError:
            raise
        except BaseException as interruption:
            self.give_back(key, stored, token, interruption)
            raise
        if not isinstance(outcome, Claimed):
            return cast("T", self.answer(outcome, stored))
        running = self.begin(key, stored, outcome)
        return self.complete(running, self.run(running, fn))

    def _claim(self, key: KeyLike, stored: str, token: str, fingerprint: bytes | None) -> ClaimOutcome:
        """Claim as the policy says."""
        policy = self.policy
        return self.store.claim(
            key,
            lease=policy.lease,
            retention=policy.retention,
            fingerprint=fingerprint,
            token=token,
            takeover=policy.takeover,
            wait=self.wait(stored),
        )

    def give_back(self, key: KeyLike, stored: str, token: str, why: BaseException) -> None:
        """A claim that was interrupted may have been applied, and nobody is going to use it. It goes back as a failure
        to retry at once, not as a release, which would take the checkpoint of an earlier attempt with it.
        """
        try:
            self.telling(self.store, key, stored, token, Retry(), why)()
        except IdemstoreError as error:
            self.unsure.remember(stored, token)
            log.warning("the interrupted claim of %s could not be given back: %s", redact(stored), error)

    def _operation(self, key: KeyLike, stored: str, claimed: Claimed | None) -> Operation:
        """A sync one."""
        return Operation(self.home, self.store, key, stored, claimed)

    def run(self, running: Operation, fn: Callable[[], T]) -> T:
        """Run the function; record its failure. Its heartbeat goes on until it is ``complete`` or failed."""
        try:
            current.set(running)
            running.live = True
            value = fn()
            if isinstance(value, UNFINISHED):
                raise unfinished(running.stored, value)
        except BaseException as error:
            self._failed(running, error)
            raise
        finally:
            running.live = False
            current.set(running.outer)  # not by a token: an interruption may come before there is one
        return value

    def _run_unprotected(self, key: KeyLike, stored: str, token: str, fn: Callable[[], T]) -> T:
        """Run without a claim. Should one be in force after all, others leave it alone, unless the function failed."""
        try:
            return self.run(self.unprotected(key, stored), fn)
        except BaseException:
            self.unsure.remember(stored, token)
            raise

    def _failed(self, running: Operation, error: BaseException) -> None:
        """Record a failure; the function's own error is what the caller sees."""
        beat = running.beat
        if beat is None:
            return
        self.heartbeat.drop(beat)
        verdict = self.policy.verdict(error, running.attempt)
        telling = self.telling(self.store, running.key, running.stored, running.token, verdict, error)
        # A final failure must not run again, so the store is told as it is told of a result. The others free the key
        # anyway when the lease ends.
        until = beat.until if isinstance(verdict, Keep) else 0.0
        try:
            self.told_failure(running, error, verdict, insist(telling, until))
        except IdemstoreError as trouble:
            self.not_recorded(running, error, trouble)

    def complete(self, running: Operation, value: T) -> T:
        """Record the result, trying until the lease would be over. An interruption while it is sealed, which may take
        long, must not have the work done again either.
        """
        beat = running.beat
        if beat is None:
            return value
        self.heartbeat.drop(beat)
        store, key, token, kept = self.store, running.key, running.token, self.policy.retention
        sealed = list[Sealed]()

        def tell() -> SettleOutcome:
            if not sealed:  # once: told twice it must be the same to the byte
                sealed.append(self.envelope.value(value, running.stored))
            return store.complete(key, token, sealed[0][0], retention=kept)

        try:
            answer = insist(tell, beat.until)
        except IdemstoreError as error:
            raise self.unknown(running, value, error) from error
        trouble = sealed[0][1]
        return value if answer is DONE and trouble is None else self.finished(running, answer, value, trouble)

    def idempotent(
        self, *, key: KeyOf, scope: ScopeOf = None, fingerprint: FingerprintOf = True
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorate a function so that each call runs once for its key; the signature stays.

        ``key``: the name of an argument, a dotted path into one (``"order.id"``), or a callable of the arguments.
        ``scope``: a tuple of str, or a callable of the arguments; the function's qualified name unless given.
        ``fingerprint``: True (all arguments, which must be JSON-like), None (none), names of arguments, or a callable
        of the arguments that returns ``idemstore.fingerprint(...)``.
        """

        def decorate(fn: Callable[P, T]) -> Callable[P, T]:
            binding = self.bind(fn, key, scope, fingerprint, "sync")

            @functools.wraps(fn)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
                bound = binding.read(args, kwargs)
                return self.call(bound.key, lambda: fn(*args, **kwargs), fingerprint=bound.fingerprint)

            return guarded

        return decorate

    def __enter__(self) -> Self:
        """The guard itself; leaving the block closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()
