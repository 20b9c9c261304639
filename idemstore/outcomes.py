"""What an operation answers: frozen values, made for ``match``.

``claim`` answers one of ``ClaimOutcome``; ``complete``, ``fail``, ``renew`` and ``release`` answer one of
``SettleOutcome``. No outcome shows a result, a checkpoint or a whole token in its ``repr``, so outcomes can be logged.
"""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, init=False)
class Claimed:
    """The caller owns the key: run the operation, then ``complete``, ``fail`` or ``release`` under ``token``.

    ``fence`` grows with every claim of a key: hand it downstream, so that a later system can refuse an older owner.
    ``attempt`` is 1 for the first execution of a record. ``checkpoint`` is what an earlier attempt saved, or None.
    """

    token: str = field(repr=False)
    fence: int
    attempt: int
    checkpoint: bytes | None = field(default=None, repr=False)

    def __init__(self, token: str, fence: int, attempt: int, checkpoint: bytes | None = None) -> None:
        """Written out, because the one that ``dataclass`` makes for a frozen class takes twice as long."""
        _token(self, token)
        _fence(self, fence)
        _attempt(self, attempt)
        _checkpoint(self, checkpoint)


_token, _fence, _attempt, _checkpoint = (Claimed.__dict__[name].__set__ for name in Claimed.__slots__)


@dataclass(frozen=True, slots=True)
class InFlight:
    """Somebody else runs the operation; the lease ends in ``retry_after`` seconds unless it is renewed."""

    retry_after: float


@dataclass(frozen=True, slots=True, init=False)
class Completed:
    """The operation was done before; ``result`` is what it stored, byte for byte."""

    result: bytes = field(repr=False)

    def __init__(self, result: bytes) -> None:
        """As ``Claimed``."""
        _result(self, result)


_result = Completed.__dict__["result"].__set__


@dataclass(frozen=True, slots=True)
class Failed:
    """The operation failed before. ``retry_after`` None: for good; else seconds until it may be claimed again."""

    result: bytes = field(repr=False)
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was first used with another payload: its fingerprint differs. Nothing changed."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The owner's lease is over and ``takeover=False`` was asked for. Nothing changed.

    Find out what the last owner did, then settle the record with ``complete``, ``fail`` or ``release`` under ``token``.
    """

    token: str = field(repr=False)
    fence: int
    attempt: int
    checkpoint: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """It is stored (now, or by an earlier delivery of the same call)."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The token does not own the record: taken over, finished otherwise, released or expired. Nothing changed."""


MISMATCH: Final = Mismatch()
DONE: Final = Done()
LEASE_LOST: Final = LeaseLost()

ClaimOutcome = Claimed | InFlight | Completed | Failed | Mismatch | Abandoned
SettleOutcome = Done | LeaseLost
