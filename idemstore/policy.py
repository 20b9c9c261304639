"""What a guard decides, without I/O: how long, which failures are kept, what to do when store or lease are gone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from idemstore import checks
from idemstore.checks import Duration
from idemstore.errors import ConfigurationError

DAY: Final = 86400.0


class StoreDown(StrEnum):
    """What a guarded call does while the store cannot be reached."""

    REFUSE = "refuse"
    """Raise ``StoreUnavailable``; the function does not run."""
    PROCEED = "proceed"
    """Run the function unprotected, and log a warning each time."""


class LeaseLoss(StrEnum):
    """What happens to a running function whose claim was taken over."""

    FINISH = "finish"
    """Let it finish; then ``LeaseLostError`` with its value."""
    CANCEL = "cancel"
    """Cancel its task (async), or let ``operation().lease_lost`` tell it (sync); then ``LeaseLostError``."""


class Keep(NamedTuple):
    """Keep the failure for good: later calls get ``ReplayedFailure``."""


class Retry(NamedTuple):
    """Keep the failure, and let the operation run again after ``after`` seconds, with its checkpoint."""

    after: float = 0.0


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
    """How long a claim stands without a renewal; a third of it is the heartbeat."""
    retention: Duration | None = DAY
    """How long a result is replayed; None: for ever."""
    failure_retention: Duration | None = DAY
    """How long a failure is kept; None: for ever."""
    wait: Duration = 0
    """How long to wait for somebody else's execution before ``OperationInFlight``."""
    final: tuple[type[BaseException], ...] = ()
    """Exceptions that are kept and replayed as ``ReplayedFailure``."""
    release: tuple[type[BaseException], ...] = ()
    """Exceptions after which the key is free again, as if never used."""
    retryable: tuple[type[BaseException], ...] = ()
    """Exceptions after which the operation may run again once ``back_off`` is over."""
    back_off: Duration = 0
    """Seconds between a retryable failure and its next run."""
    judge: Judge | None = field(default=None, compare=False)
    """A function of the exception that returns ``Keep()``, ``Retry(after)``, ``Release()``, or None for no opinion."""
    takeover: bool = True
    """False: rather raise ``OperationAbandoned`` than run an operation whose owner may have died half-way."""
    store_down: StoreDown = StoreDown.REFUSE
    """What to do while the store cannot be reached."""
    lease_loss: LeaseLoss = LeaseLoss.FINISH
    """What to do with a running function whose claim was taken over."""
    heartbeat: bool = True
    """Renew the lease while the function runs. False: the lease is all the time it has."""

    def __post_init__(self) -> None:
        """Refuse what no call could use."""
        checks.duration("lease", self.lease)
        checks.retention(self.retention)
        checks.back_off(self.back_off, checks.retention(self.failure_retention))
        checks.seconds_to_wait(self.wait)
        for name in ("final", "release", "retryable"):
            for kind in getattr(self, name):
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    raise ConfigurationError(f"Policy.{name} is a tuple of exception classes, not of {kind!r}")

    @property
    def lease_seconds(self) -> float:
        """The lease in seconds."""
        return checks.duration("lease", self.lease) / 1_000_000

    def verdict(self, error: BaseException) -> Verdict:
        """What becomes of the key after ``error``."""
        opinion = self.judge(error) if self.judge is not None else None
        if opinion is not None:
            return opinion
        if isinstance(error, self.final):
            return Keep()
        if isinstance(error, self.release):
            return Release()
        if isinstance(error, self.retryable):
            return Retry((checks.back_off(self.back_off, None) or 0) / 1_000_000)
        return Retry(0.0)
