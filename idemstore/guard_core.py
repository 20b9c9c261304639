"""What sync and async guards share: every decision, no I/O.

When a call may begin, what an outcome means for its caller, what is remembered of a claim that got no answer, what a
store that is down means: it stands here once, and ``Guard`` and ``AsyncGuard`` carry it out.
"""

import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Final, Generic, Literal, Protocol, TypeVar, assert_never, cast

from idemstore.binding import Binding, FingerprintOf, KeyOf, ScopeOf
from idemstore.checks import Duration, new_token
from idemstore.codec.base import Codec, JsonCodec
from idemstore.envelope import Envelope
from idemstore.errors import (
    CompletionUnknown,
    ConfigurationError,
    GuardClosed,
    IdemstoreError,
    LeaseLostError,
    NestedCall,
    OperationAbandoned,
    OperationInFlight,
    PayloadMismatch,
    RetryLater,
    StoreFull,
    StoreUnavailable,
    TransactionConflict,
    UncarriedResult,
    UndecodableResult,
)
from idemstore.face import Face
from idemstore.keepalive import Beat
from idemstore.keys import KeyLike, encode_key, redact
from idemstore.outcomes import (
    Abandoned,
    Claimed,
    ClaimOutcome,
    Completed,
    Failed,
    InFlight,
    LeaseLost,
    Mismatch,
    SettleOutcome,
)
from idemstore.policy import Keep, Policy, Release, Retry, StoreDown, Verdict
from idemstore.running import BaseOperation, Home, around, current

log: Final = logging.getLogger("idemstore.guard")

T = TypeVar("T")
Op = TypeVar("Op", bound=BaseOperation)
A_co = TypeVar("A_co", covariant=True)

MAX_UNSURE: Final = 10_000
"""Keys with claims that got no answer, whose tokens are remembered,"""
MAX_UNSURE_EACH: Final = 8
"""and how many of them for each key."""

UNFINISHED: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)
"""What a function returns whose work has yet to be done."""

Down = StoreUnavailable | StoreFull
DOWN: Final = (StoreUnavailable, StoreFull)
"""What it looks like when a store cannot take a claim."""


class Unsure:
    """Tokens of claims that got no answer. Such a claim may be in force, and then only its own token opens the key
    before the lease is over. A token is handed out once, to one caller, so no two ever share a claim.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Nothing is remembered: at first, and in a child of ``fork()``, since its parent remembers the same."""
        self._tokens: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def take(self, stored: str) -> str:
        """A token of an earlier try, the oldest since it is the likeliest to be in force; or a new one."""
        if self._tokens:
            with self._lock:
                tokens = self._tokens.get(stored)
                if tokens is not None:
                    token = tokens.pop(0)
                    if not tokens:
                        del self._tokens[stored]
                    return token
        return new_token()

    def remember(self, stored: str, token: str) -> None:
        """Keep the token of a claim that got no answer."""
        with self._lock:
            if stored not in self._tokens and len(self._tokens) >= MAX_UNSURE:
                del self._tokens[next(iter(self._tokens))]
            tokens = self._tokens.setdefault(stored, [])
            if len(tokens) < MAX_UNSURE_EACH:
                tokens.append(token)


class Heartbeat(Protocol):
    """What keeps leases alive: one per store, a thread or a task."""

    def add(self, beat: Beat) -> None:
        """Keep a lease."""
        ...

    def drop(self, beat: Beat) -> None:
        """Keep it no longer; may be repeated."""
        ...


class Settler(Protocol[A_co]):
    """What a failure is told to: a store, whose answer is an outcome, or one to be awaited."""

    def release(self, key: KeyLike, token: str) -> A_co:
        """As ``Store.release``."""
        ...

    def fail(
        self,
        key: KeyLike,
        token: str,
        result: bytes,
        *,
        retention: Duration | None = ...,
        retry_after: Duration | None = ...,
    ) -> A_co:
        """As ``Store.fail``."""
        ...


class GuardCore(Generic[Op]):
    """A store's face, a policy, a codec, and what follows from them."""

    def __init__(self, store: Face, heartbeat: Heartbeat, policy: Policy | None, codec: Codec[T] | None) -> None:
        self.policy = policy if policy is not None else Policy()
        if not isinstance(self.policy, Policy):
            raise ConfigurationError(f"the policy of a guard is an idemstore.Policy, not {type(policy).__name__}")
        self.envelope = Envelope(
            JsonCodec() if codec is None else cast("Codec[object]", codec), store.limits.value_bytes
        )
        self.heartbeat = heartbeat
        self.unsure = Unsure()
        self._face = store
        self._key_bytes = store.limits.key_bytes
        self.home = Home(store, self.envelope, self.policy.lease_seconds)
        self._closed = False
        _guards.add(cast("GuardCore[BaseOperation]", self))

    def _operation(self, key: KeyLike, stored: str, claimed: Claimed | None) -> Op:
        """The operation of a claim; None: of one that the store could not take."""
        raise NotImplementedError

    def begin(self, key: KeyLike, stored: str, claimed: Claimed) -> Op:
        """The operation of a claim, with its heartbeat. Over a caller's own connection there is none: a renewal would
        come between the caller's statements, and nobody sees it before the commit, nor can take over before that.
        """
        running = self._operation(key, stored, claimed)
        if self.policy.heartbeat and running.beat is not None and not self._face.joined:
            self.heartbeat.add(running.beat)
        return running

    def unprotected(self, key: KeyLike, stored: str) -> Op:
        """The operation of a claim that the store could not take."""
        return self._operation(key, stored, None)

    def drop(self, running: BaseOperation) -> None:
        """End its heartbeat; may be repeated."""
        if running.beat is not None:
            self.heartbeat.drop(running.beat)

    def check_open(self) -> None:
        """Refuse to go on after ``close``."""
        if self._closed:
            raise GuardClosed("the guard is closed: make a new one")

    def enter(self, key: KeyLike) -> str:
        """The stored key, if a call may begin."""
        if self._closed:
            self.check_open()
        if self._face.joined and self._face.outside_of_a_transaction():
            raise ConfigurationError(
                "a guard over store.on(connection) needs an open transaction: without one its claim has no heartbeat, "
                "and its result does not commit together with what the function writes; begin one, or give the guard "
                "the store itself"
            )
        stored = encode_key(key, self._key_bytes)
        if current.get() is not None and any(face is self._face for face in around(stored, self._face)):
            raise nested(stored)
        return stored

    def wait(self, stored: str) -> Duration:
        """How long a claim may wait: not for an operation that this call is a part of (over another store object, on
        what may be the same records).
        """
        return 0 if current.get() is not None and around(stored, self._face) else self.policy.wait

    def proceeds(self, error: IdemstoreError) -> bool:
        """Whether the function runs all the same. Not in a transaction that must be run again anyway."""
        return self.policy.store_down is StoreDown.PROCEED and not isinstance(error, TransactionConflict)

    def no_answer(self, stored: str, token: str, error: Down) -> None:
        """A claim that the store could not take. Returns where the function is to run unprotected; else raises."""
        if not self.proceeds(error):
            self.unsure.remember(stored, token)
            raise error
        log.warning("running %s unprotected, the store cannot take its claim: %s", redact(stored), error)

    def answer(self, outcome: ClaimOutcome, stored: str) -> object:
        """What a caller gets who does not run the function: the stored value, or an error."""
        name = redact(stored)
        match outcome:
            case Completed(result):
                return self.envelope.open_value(result, stored)
            case Failed(result, None):
                raise self.envelope.open_failure(result, stored)
            case Failed(_, retry_after):
                raise RetryLater(f"{name} failed and backs off: try again in {retry_after:.3f} s", retry_after or 0.0)
            case InFlight(retry_after):
                if current.get() is not None and around(stored, self._face):
                    raise nested(stored)
                raise OperationInFlight(f"{name} is running elsewhere: try again in a moment", retry_after)
            case Mismatch():
                raise PayloadMismatch(f"{name} was first used with another payload: use a new key for a new operation")
            case Abandoned():
                raise self._abandoned(outcome, stored)
            case Claimed():
                raise AssertionError("a claim is run, not answered")
            case _:
                assert_never(outcome)

    def _abandoned(self, outcome: Abandoned, stored: str) -> OperationAbandoned:
        """The error for a half-run operation; a checkpoint that cannot be opened is handed over as it is stored."""
        text = (
            f"the owner of {redact(stored)} vanished half-way (attempt {outcome.attempt}): find out what it did, then "
            "settle the record with complete, fail or release under the token of this error"
        )
        checkpoint = outcome.checkpoint
        try:
            if checkpoint is not None:
                checkpoint = self.envelope.open_checkpoint(checkpoint, stored)
        except UndecodableResult as error:
            text += f"; its checkpoint is given as it is stored: {error}"
        return OperationAbandoned(text, outcome.token, outcome.attempt, checkpoint)

    def finished(self, running: BaseOperation, answer: SettleOutcome, value: T, trouble: UncarriedResult | None) -> T:
        """What the caller gets once the completion was answered."""
        if isinstance(answer, LeaseLost):
            raise LeaseLostError(
                f"the function of {redact(running.stored)} finished, but somebody else owns the key now: it may have "
                "run twice; its value is in this error and is not stored",
                value,
            )
        if trouble is not None:
            raise trouble
        return value

    def unknown(self, running: BaseOperation, value: object, error: IdemstoreError) -> CompletionUnknown:
        """The completion could not be recorded."""
        return CompletionUnknown(
            f"the function of {redact(running.stored)} finished, but the store could not be told: {error}. The key was "
            "not released, because the work is done; its value is in this error",
            value,
        )

    def check_begin(self, running: BaseOperation) -> None:
        """An operation whose lease was lost before its function began does not run: its new owner does that."""
        if running.lease_lost:
            raise LeaseLostError(
                f"the lease of {redact(running.stored)} was lost before its function began: it did not run"
            )

    def telling(
        self, store: Settler[A_co], key: KeyLike, stored: str, token: str, verdict: Verdict, error: BaseException
    ) -> Callable[[], A_co]:
        """What tells the store of a failure. Sealed once: told twice it must be the same to the byte."""
        kept = self.policy.failure_retention
        match verdict:
            case Release():
                return lambda: store.release(key, token)
            case Keep():
                data = self.envelope.failure(error, stored)
                return lambda: store.fail(key, token, data, retention=kept)
            case Retry(after):
                data = self.envelope.failure(error, stored)
                return lambda: store.fail(key, token, data, retention=kept, retry_after=after)
            case _:
                assert_never(verdict)

    def told_failure(
        self, running: BaseOperation, error: BaseException, verdict: Verdict, answer: SettleOutcome
    ) -> None:
        """What recording a failure was answered."""
        if isinstance(answer, LeaseLost):
            self.not_recorded(running, error, "somebody else has taken the key over")
        else:
            running.settled = verdict

    def not_recorded(self, running: BaseOperation, error: BaseException, why: object) -> None:
        """A failure that could not be recorded: the key frees itself when its lease ends."""
        error.add_note(f"idemstore: the failure was not recorded under {redact(running.stored)}: {why}")
        log.warning("failure of %s not recorded: %s", redact(running.stored), why)

    def bind(
        self,
        fn: Callable[..., object],
        key: KeyOf,
        scope: ScopeOf,
        fingerprint: FingerprintOf,
        mode: Literal["sync", "async"],
    ) -> Binding:
        """How calls of a decorated function are identified."""
        name = getattr(fn, "__qualname__", repr(fn))
        if not callable(fn):
            raise ConfigurationError(f"{name} cannot be called: put the guard's decorator below @classmethod and such")
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ConfigurationError(f"{name} is a generator: a guard stores one result; return a value")
        if inspect.iscoroutinefunction(fn) != (mode == "async"):
            raise ConfigurationError(f"{name} does not fit this guard: use Guard for def, AsyncGuard for async def")
        if scope is None and getattr(fn, "__name__", "<lambda>") == "<lambda>":
            raise ConfigurationError(
                f"a {type(fn).__name__} without a name of its own would share its keys, and so its results, with "
                "others like it: give scope=..."
            )
        if scope is None and not callable(key) and _of_an_object(fn):
            raise ConfigurationError(
                f"{name} is a method: all objects of its class would share its keys, and so its results; give "
                "scope=lambda self, ...: ... that tells them apart, or scope='a name' where they are to share"
            )
        return Binding(fn, key, scope, fingerprint)

    def close(self) -> None:
        """Refuse further calls; those that run go on. The store stays open: it is yours."""
        self._closed = True


def _of_an_object(fn: Callable[..., object]) -> bool:
    """Whether a function is a method, of an instance or a class: what it does depends on more than its arguments."""
    first = next(iter(inspect.signature(fn).parameters), None)
    return inspect.ismethod(fn) or first in ("self", "cls")


def nested(stored: str) -> NestedCall:
    """The error of a call that would wait for itself."""
    return NestedCall(
        f"the guarded function of {redact(stored)} called a guard with its own key: it would wait for itself; use "
        "another key or scope for the inner operation"
    )


def unfinished(stored: str, value: object) -> ConfigurationError:
    """The error for such a function."""
    return ConfigurationError(
        f"the function of {redact(stored)} returned a {type(value).__name__}, whose work is yet to be done: use "
        "AsyncGuard for async functions, and return a value instead of a generator"
    )


_guards: "weakref.WeakSet[GuardCore[BaseOperation]]" = weakref.WeakSet()


def _after_fork() -> None:
    """In a child process: what is remembered is the parent's."""
    for guard in list(_guards):
        guard.unsure.start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
