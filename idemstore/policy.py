"""What a guard decides, without I/O: how long, which failures are kept, what to do when store or lease are gone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from idemstore import checks
from idemstore.checks import Duration
from idemstore.errors import ConfigurationError
from idemstore.machine import MICROSECONDS

DAY: Final = 86400.0
HOUR: Final = 3600.0
MOST_DOUBLINGS: Final = 40


class StoreDown(StrEnum):
    """What a guarded call does while the store cannot take its claim."""

    REFUSE = "refuse"
    """Raise what the store raised; the function does not run."""
    PROCEED = "proceed"
    """Run the function unprotected, and log a warning each time."""


class LeaseLoss(StrEnum):
    """What happens to a running function whose claim was taken over."""

    FINISH = "finish"
    """Let it finish; then ``LeaseLostError`` with its value."""
    CANCEL = "cancel"
    """Async: cancel it, then ``LeaseLostError``. A sync function cannot be cancelled: it asks
    ``operation().lease_lost``.
    """


class Keep(NamedTuple):
    """Keep the failure for good: later calls get ``ReplayedFailure``."""


class Retry(NamedTuple):
    """Keep the failure, and let the operation run again after ``after`` seconds, with its checkpoint."""

    after: Duration = 0.0


class Release(NamedTuple):
    """Forget the claim: the key is as if it had never been used."""


Verdict = Keep | Retry | Release
Judge = Callable[[BaseException], Verdict | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a guard treats its keys. Durations are seconds or timedelta.

    An exception is judged by ``judge`` first, where it has an answer; then by ``final``, ``release`` and ``retryable``
    in this order; anything else, ``KeyboardInterrupt`` and cancellation included, is retryable at once: the next call
    runs again, and finds the checkpoint.
    """

    lease: Duration = 30.0
    """How long a claim stands without a renewal. A third of it is the heartbeat."""
    retention: Duration | None = DAY
    """How long a result is replayed; None: for ever."""
    failure_retention: Duration | None = DAY
    """How long a failure is kept; None: for ever."""
    wait: Duration = 0
    """How long to wait for somebody else's execution before ``OperationInFlight``."""
    final: tuple[type[BaseException], ...] = ()
    """Exceptions that are kept and replayed as ``ReplayedFailure``."""
    release: tuple[type[BaseException], ...] = ()
    """Exceptions after which the key is free again, as if never used; a checkpoint is forgotten, too."""
    retryable: tuple[type[BaseException], ...] = ()
    """Exceptions after which the operation may run again once ``back_off`` is over."""
    back_off: Duration = 0
    """How long a retryable failure keeps the operation from running again: so long after the first attempt, twice that
    after the second, and so on,
    """
    max_back_off: Duration = HOUR
    """at most so long, and never longer than ``failure_retention``."""
    judge: Judge | None = field(default=None, compare=False)
    """A function of the exception that returns ``Keep()``, ``Retry(after)``, ``Release()``, or None for no opinion."""
    takeover: bool = True
    """False: rather raise ``OperationAbandoned`` than run an operation whose owner may have died half-way."""
    store_down: StoreDown = StoreDown.REFUSE
    """What to do while the store cannot take a claim."""
    lease_loss: LeaseLoss = LeaseLoss.FINISH
    """What to do with a running function whose claim was taken over."""
    heartbeat: bool = True
    """Renew the lease while the function runs. False: the lease is all the time it has."""

    def __post_init__(self) -> None:
        """Refuse what no call could use."""
        checks.duration("lease", self.lease)
        checks.retention(self.retention)
        kept = checks.retention(self.failure_retention, "failure_retention")
        longest = checks.duration("max_back_off", self.max_back_off)
        if (checks.back_off(self.back_off, kept, "back_off") or 0) > longest:
            raise ConfigurationError(f"Policy.back_off ({self.back_off}) is beyond max_back_off: raise that, too")
        checks.seconds_to_wait(self.wait)
        for name in ("final", "release", "retryable"):
            _check_classes(name, getattr(self, name))
        if self.judge is not None and not callable(self.judge):
            raise ConfigurationError("Policy.judge is a function of the exception")
        if not (isinstance(self.store_down, StoreDown) and isinstance(self.lease_loss, LeaseLoss)):
            raise ConfigurationError("Policy.store_down is a StoreDown, Policy.lease_loss a LeaseLoss")
        for name in ("takeover", "heartbeat"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"Policy.{name} is True or False, not {getattr(self, name)!r:.40}")

    @property
    def lease_seconds(self) -> float:
        """The lease in seconds."""
        return checks.duration("lease", self.lease) / MICROSECONDS

    def verdict(self, error: BaseException, attempt: int = 1) -> Verdict:
        """What becomes of the key after this attempt has failed."""
        opinion = self._opinion(error)
        if opinion is not None:
            return opinion
        if isinstance(error, self.final):
            return Keep()
        if isinstance(error, self.release):
            return Release()
        if isinstance(error, self.retryable):
            return Retry(self._pause(attempt))
        return Retry()

    def _opinion(self, error: BaseException) -> Verdict | None:
        """What ``judge`` says. Where it fails itself, the caller gets to know by a note on its own exception."""
        if self.judge is None:
            return None
        try:
            opinion = self.judge(error)
            if opinion is None or isinstance(opinion, Keep | Release):
                return opinion
            if isinstance(opinion, Retry):
                checks.back_off(opinion.after, checks.retention(self.failure_retention))
                return opinion
            raise ConfigurationError(f"it returned {opinion!r}: return Keep(), Retry(after), Release() or None")
        except Exception as trouble:  # noqa: BLE001 - the function's own error must reach the caller
            error.add_note(f"idemstore: Policy.judge had no verdict: {type(trouble).__name__}: {trouble}")
            return None

    def _pause(self, attempt: int) -> float:
        """The back-off after this attempt, in seconds."""
        first = checks.back_off(self.back_off, None) or 0
        longest = checks.duration("max_back_off", self.max_back_off)
        kept = checks.retention(self.failure_retention, "failure_retention")
        pause = min(first << min(attempt - 1, MOST_DOUBLINGS), longest)
        return (pause if kept is None else min(pause, kept)) / MICROSECONDS


def _check_classes(name: str, kinds: object) -> None:
    """Refuse what ``isinstance`` does not take."""
    if isinstance(kinds, tuple) and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        return
    raise ConfigurationError(f"Policy.{name} is a tuple of exception classes, such as (ValueError,), not {kinds!r}")
