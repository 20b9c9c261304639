"""``Guard``: run a function once for a key. Claim, run, complete, with heartbeat, waiting and checkpoints.

What is decided (what an outcome means for the caller, what an exception means for the key, how a result is stored)
stands once in ``GuardCore``; ``Guard`` and ``AsyncGuard`` carry it out. End states, whatever happens:

- the function returned: completed; or ``LeaseLostError`` / ``CompletionUnknown``, both with the value;
- it raised, was cancelled or interrupted: failed for good, failed with a retry, or released, as the policy says;
- the process died: in flight until its lease ends, then the next call takes over with the last checkpoint.
"""

import contextvars
import functools
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, NamedTuple, ParamSpec, Self, TypeVar, assert_never, cast

from idemstore.binding import Binding, FingerprintOf, KeyOf, ScopeOf
from idemstore.checks import new_token
from idemstore.codec import Codec, JsonCodec
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
    ReplayedFailure,
    RetryLater,
    StoreError,
    StoreUnavailable,
    UncarriedResult,
    UndecodableResult,
)
from idemstore.keepalive import Beat, keepalive
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
from idemstore.policy import Keep, Policy, Release, Retry, StoreDown
from idemstore.store import Face, Store

log: Final = logging.getLogger("idemstore.guard")

P = ParamSpec("P")
T = TypeVar("T")

FIRST_RETRY: Final = 0.05
LAST_RETRY: Final = 1.0
"""Pauses between attempts to record a completion, seconds: doubled from the first to the last."""
MAX_MESSAGE: Final = 10_000
"""Characters of an exception's message that are kept."""
MAX_UNSURE: Final = 10_000
"""Claims without an answer whose token is remembered for the caller's next try."""

VALUE: Final = b"v"
FAILURE: Final = b"f"
UNCARRIED: Final = b"x"
"""The first byte of what a guard stores: a value, a failure, or a completion whose value no codec could carry."""


class BaseOperation:
    """The running operation, as its function sees it."""

    def __init__(
        self, guard: "GuardCore", key: KeyLike, stored: str, claimed: Claimed | None, beat: Beat | None
    ) -> None:
        self.key = key
        self.store_name, self.stored = guard.name, stored
        self.protected = claimed is not None
        """False: the store was down and the policy is to proceed; nothing is recorded."""
        self.attempt = claimed.attempt if claimed else 1
        self.fence = claimed.fence if claimed else 0
        """Hand it to whatever the function changes, so that it can refuse an older owner."""
        self.token = claimed.token if claimed else ""
        self.resumed_from = claimed.checkpoint if claimed else None
        """What an earlier attempt saved last, or None."""
        self.parent = _current.get()
        self.live = True
        self.beat = beat

    @property
    def lease_lost(self) -> bool:
        """Whether the heartbeat was told that somebody else owns the key, or could not renew until it was over."""
        return self.beat is not None and self.beat.lost


class Operation(BaseOperation):
    """The running operation of a sync guard."""

    def __init__(self, guard: "Guard", key: KeyLike, stored: str, claimed: Claimed | None, beat: Beat | None) -> None:
        super().__init__(guard, key, stored, claimed, beat)
        self._store, self._lease = guard.store, guard.policy.lease

    def checkpoint(self, data: bytes) -> None:
        """Save ``data`` for whoever takes over after a crash; it comes back as ``resumed_from``.

        Raises ``LeaseLostError`` where somebody else has taken over already: stop, your successor runs.
        """
        if self.protected:
            sent = time.monotonic()
            _saved(self, sent, self._store.renew(self.key, self.token, lease=self._lease, checkpoint=data))


def _saved(running: BaseOperation, sent: float, answer: SettleOutcome) -> None:
    """What saving a checkpoint came to; it renewed the lease, too."""
    if isinstance(answer, LeaseLost):
        raise LeaseLostError(f"somebody else has taken over {redact(running.stored)}: stop; its new owner runs it")
    if running.beat is not None:
        running.beat.took(sent, answer)


_current: "contextvars.ContextVar[BaseOperation | None]" = contextvars.ContextVar("idemstore_operation", default=None)


def operation() -> Operation:
    """The operation that runs in this context, inside a function called by a ``Guard``."""
    found = _current.get()
    if not isinstance(found, Operation):
        raise ConfigurationError("operation() is for functions that a Guard runs; none runs here")
    return found


class Sealed(NamedTuple):
    """A result ready to be stored, and what to raise once it is (None: nothing)."""

    data: bytes
    trouble: UncarriedResult | None


class GuardCore:
    """What sync and async guards share: decisions, no I/O."""

    def __init__(self, store: Face, policy: Policy, codec: Codec[T] | None) -> None:
        self.policy = policy
        self.codec = JsonCodec() if codec is None else cast("Codec[object]", codec)
        self.name = store.name
        self._limits = store.limits
        self._lease = policy.lease_seconds
        self._closed = False
        self._unsure: dict[str, str] = {}

    def _enter(self, key: KeyLike) -> str:
        """The stored key, if a call may begin."""
        if self._closed:
            raise GuardClosed("the guard is closed: make a new one")
        stored = encode_key(key, self._limits.key_bytes)
        outer = _current.get()
        while outer is not None:
            if outer.live and outer.stored == stored and outer.store_name == self.name:
                raise NestedCall(
                    f"the guarded function of {redact(stored)} called the guard with its own key: it would wait for "
                    "itself; use another key or scope for the inner operation"
                )
            outer = outer.parent
        return stored

    def _token(self, stored: str) -> str:
        """A new token, or that of an earlier try of this process whose claim was never answered: it may be in force,
        and only under its own token is the caller not locked out of its own key. Taken once, so never shared.
        """
        return (self._unsure.pop(stored, None) if self._unsure else None) or new_token()

    def _remember(self, stored: str, token: str) -> None:
        """Keep the token of a claim that got no answer."""
        while len(self._unsure) >= MAX_UNSURE:
            self._unsure.pop(next(iter(self._unsure)), None)
        self._unsure[stored] = token

    def _unprotected(self, stored: str, error: StoreUnavailable) -> bool:
        """Whether to run without protection while the store is down."""
        if self.policy.store_down is StoreDown.REFUSE:
            return False
        log.warning("running %s unprotected, the store is down: %s", redact(stored), error)
        return True

    def answer(self, outcome: ClaimOutcome, stored: str) -> object:
        """What a caller gets who does not run the function: the stored value, or an error."""
        name = redact(stored)
        match outcome:
            case Completed(result):
                return self._replay(result, stored)
            case Failed(result, None):
                raise self._replayed_failure(result, stored)
            case Failed(_, retry_after):
                raise RetryLater(f"{name} failed and backs off: try again in {retry_after:.3f} s", retry_after or 0.0)
            case InFlight(retry_after):
                raise OperationInFlight(f"{name} is running elsewhere: try again in a moment", retry_after)
            case Mismatch():
                raise PayloadMismatch(f"{name} was first used with another payload: use a new key for a new operation")
            case Abandoned(token, _, attempt, checkpoint):
                raise OperationAbandoned(
                    f"the owner of {name} vanished half-way (attempt {attempt}): find out what it did, then settle the "
                    "record with complete, fail or release under the token of this error",
                    token,
                    attempt,
                    checkpoint,
                )
            case Claimed():
                raise AssertionError("a claim is run, not answered")
            case _:
                assert_never(outcome)

    def _open(self, data: bytes, stored: str) -> tuple[bytes, bytes]:
        """The kind and body of what is stored."""
        plain = self.codec.unseal(data, stored.encode())
        return plain[:1], plain[1:]

    def _replay(self, data: bytes, stored: str) -> object:
        """The value of an earlier execution."""
        kind, body = self._open(data, stored)
        if kind == VALUE:
            return self.codec.decode(body)
        if kind == UNCARRIED:
            raise UncarriedResult(f"{redact(stored)} was completed, but its value could not be stored: {body.decode()}")
        raise UndecodableResult(f"what is stored under {redact(stored)} was not written by a guard: replay it yourself")

    def _replayed_failure(self, data: bytes, stored: str) -> ReplayedFailure | UndecodableResult:
        """The failure of an earlier execution."""
        kind, body = self._open(data, stored)
        try:
            found = json.loads(body) if kind == FAILURE else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            return UndecodableResult(f"the failure stored under {redact(stored)} was not written by a guard")
        return ReplayedFailure(str(found.get("type")), str(found.get("message")))

    def seal_value(self, value: object, stored: str) -> Sealed:
        """The value as bytes. The work is done: where no codec can carry the value, a marker is stored instead."""
        context = stored.encode()
        try:
            data = self.codec.seal(VALUE + self.codec.encode(value), context)
            if len(data) <= self._limits.value_bytes:
                return Sealed(data, None)
            reason = f"it takes {len(data)} bytes, the store's limit is {self._limits.value_bytes}"
            trouble = UncarriedResult(f"the result of {redact(stored)} is not kept: {reason}")
        except UncarriedResult as error:
            reason, trouble = str(error), error
        except Exception as error:  # noqa: BLE001 - whatever a codec raises, the work is done and must be recorded
            reason = f"the codec raised {type(error).__name__}: {error}"
            trouble = UncarriedResult(f"the result of {redact(stored)} is not kept: {reason}")
            trouble.__cause__ = error
        trouble.value = value
        return Sealed(self.codec.seal(UNCARRIED + reason[:MAX_MESSAGE].encode(errors="replace"), context), trouble)

    def _seal_failure(self, error: BaseException, stored: str) -> bytes:
        """A failure as bytes: type and message, nothing that could run."""
        body = {"type": type(error).__qualname__, "message": str(error)[:MAX_MESSAGE]}
        return self.codec.seal(FAILURE + json.dumps(body).encode(), stored.encode())

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

    def _unknown(self, running: BaseOperation, value: object, error: StoreError) -> CompletionUnknown:
        """The completion could not be recorded."""
        return CompletionUnknown(
            f"the function of {redact(running.stored)} finished, but the store could not be told: {error}. The key was "
            "not released, because the work is done; its value is in this error",
            value,
        )

    def _not_recorded(self, running: BaseOperation, error: BaseException, why: object) -> None:
        """A failure that could not be recorded: the key frees itself when its lease ends."""
        error.add_note(f"idemstore: the failure was not recorded under {redact(running.stored)}: {why}")
        log.warning("failure of %s not recorded: %s", redact(running.stored), why)

    def _binding(
        self, fn: Callable[..., object], key: KeyOf, scope: ScopeOf, fingerprint: FingerprintOf, what: str
    ) -> Binding:
        """How calls of a decorated function are identified."""
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ConfigurationError(f"{fn.__qualname__} is a generator: a guard stores one result; return a value")
        if inspect.iscoroutinefunction(fn) != (what == "async"):
            raise ConfigurationError(
                f"{fn.__qualname__} does not fit this guard: use Guard for def, AsyncGuard for async def"
            )
        return Binding(fn, key, scope, fingerprint)


def retries(until: float) -> Iterator[float]:
    """Pauses between attempts until ``until`` (``time.monotonic``); the first attempt is always made."""
    pause = FIRST_RETRY
    while (left := until - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 2, LAST_RETRY)


class Guard(GuardCore):
    """Run functions once for a key, sync. Safe for many threads; several guards may share a store."""

    def __init__(self, store: Store, policy: Policy | None = None, codec: Codec[T] | None = None) -> None:
        """``codec``: how results are stored; JSON unless given, see ``idemstore.codec``."""
        super().__init__(store, policy or Policy(), codec)
        self.store = store

    def call(self, key: KeyLike, fn: Callable[[], T], *, fingerprint: bytes | None = None) -> T:
        """Run ``fn`` unless it ran before under ``key``; return its value, or the stored one.

        Raises what ``fn`` raises, or a ``GuardError``; with ``Policy.wait`` it waits for an execution elsewhere first.
        Inside ``fn``, ``operation()`` gives attempt, fence and checkpoints.
        """
        stored = self._enter(key)
        token, policy = self._token(stored), self.policy
        try:
            outcome = self.store.claim(
                key,
                lease=policy.lease,
                retention=policy.retention,
                fingerprint=fingerprint,
                token=token,
                takeover=policy.takeover,
                wait=policy.wait,
            )
        except StoreUnavailable as error:
            self._remember(stored, token)
            if not self._unprotected(stored, error):
                raise
            return self._run(Operation(self, key, stored, None, None), fn)
        except (KeyboardInterrupt, SystemExit):
            self._remember(stored, token)
            raise
        if not isinstance(outcome, Claimed):
            return cast("T", self.answer(outcome, stored))
        beat = Beat(key, token, self._lease, time.monotonic(), _ignore)
        return self._run(Operation(self, key, stored, outcome, beat), fn)

    def _run(self, running: Operation, fn: Callable[[], T]) -> T:
        """Run the function under its claim."""
        beating = keepalive(self.store) if running.beat is not None and self.policy.heartbeat else None
        if beating is not None and running.beat is not None:
            beating.add(running.beat)
        outer = _current.set(running)
        try:
            value = fn()
        except BaseException as error:
            self._fail(running, error)
            raise
        finally:
            running.live = False
            _current.reset(outer)
            if beating is not None and running.beat is not None:
                beating.drop(running.beat)
        return self._complete(running, value) if running.protected else value

    def _fail(self, running: Operation, error: BaseException) -> None:
        """Record a failure, once; the function's own error is what the caller sees."""
        if not running.protected:
            return
        verdict = self.policy.verdict(error)
        key, token, kept = running.key, running.token, self.policy.failure_retention
        try:
            match verdict:
                case Release():
                    answer = self.store.release(key, token)
                case Keep():
                    answer = self.store.fail(key, token, self._seal_failure(error, running.stored), retention=kept)
                case Retry(after):
                    data = self._seal_failure(error, running.stored)
                    answer = self.store.fail(key, token, data, retention=kept, retry_after=after)
                case _:
                    assert_never(verdict)
        except IdemstoreError as trouble:
            self._not_recorded(running, error, trouble)
        else:
            if isinstance(answer, LeaseLost):
                self._not_recorded(running, error, "somebody else has taken the key over")

    def _complete(self, running: Operation, value: T) -> T:
        """Record the result, trying until the lease would be over."""
        sealed = self.seal_value(value, running.stored)
        assert running.beat is not None, "a protected operation has a lease"
        pauses = retries(running.beat.until)
        while True:
            try:
                answer = self.store.complete(running.key, running.token, sealed.data, retention=self.policy.retention)
            except StoreError as error:
                pause = next(pauses, None) if error.retryable else None
                if pause is None:
                    raise self._unknown(running, value, error) from error
                time.sleep(pause)
            else:
                return self.finished(running, answer, value, sealed.trouble)

    def idempotent(
        self, *, key: KeyOf, scope: ScopeOf = None, fingerprint: FingerprintOf = True
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorate a function so that each call runs once for its key; the signature stays.

        ``key``: the name of an argument, a dotted path into one (``"order.id"``), or a callable of the arguments.
        ``scope``: a tuple of str, or a callable of the arguments; the function's qualified name unless given.
        ``fingerprint``: True (all arguments, which must be JSON-like), None (none), names of arguments, or a callable.
        """

        def decorate(fn: Callable[P, T]) -> Callable[P, T]:
            binding = self._binding(fn, key, scope, fingerprint, "sync")

            @functools.wraps(fn)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
                bound = binding.read(args, kwargs)
                return self.call(bound.key, lambda: fn(*args, **kwargs), fingerprint=bound.fingerprint)

            return guarded

        return decorate

    def close(self) -> None:
        """Refuse further calls. The store stays open: it is yours."""
        self._closed = True

    def __enter__(self) -> Self:
        """The guard itself; leaving the block closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()


def _ignore() -> None:
    """A sync function cannot be cancelled: it asks ``operation().lease_lost``."""
