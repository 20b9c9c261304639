"""Frames: the bytes in which the functions answer, and the outcomes they stand for.

A frame is one letter and what belongs to it: numbers as PostgreSQL sends them (big-endian), then bytes as they are. One
value per reply is read by every client in the least time, and results pass through without any re-encoding.
"""

import json
from struct import Struct, error
from typing import Final, cast

from idemstore.errors import CorruptRecord, StoreMisbehaved
from idemstore.exchange import Snapshot
from idemstore.machine import MICROSECONDS, Record, State
from idemstore.outcomes import (
    DONE,
    LEASE_LOST,
    MISMATCH,
    Abandoned,
    Claimed,
    ClaimOutcome,
    Completed,
    Failed,
    InFlight,
    SettleOutcome,
)

_NUMBER: Final = Struct(">xq")
_CLAIM: Final = Struct(">xqi")
_OWNER: Final = Struct(">xqii")

_STATES: Final = {1: State.IN_FLIGHT, 2: State.COMPLETED, 3: State.FAILED}

CORRUPT: Final = (
    "the row under this key is not a record of ours: look at it, then forget the key; "
    "nothing was changed, and nobody is given the key meanwhile"
)


def claim(frame: bytes, token: str) -> ClaimOutcome:
    """What a claim was answered."""
    if frame[:1] == b"R":
        return Completed(frame[1:])
    try:
        return _claim(frame, token)
    except (error, UnicodeDecodeError) as problem:
        raise misbehaved(frame) from problem


def _claim(frame: bytes, token: str) -> ClaimOutcome:
    """By its letter, other than that of a replay."""
    match frame[:1]:
        case b"C":
            fence, attempt = _CLAIM.unpack_from(frame)
            return Claimed(token, fence, attempt, _checkpoint(frame[_CLAIM.size :]))
        case b"B":
            return InFlight(_NUMBER.unpack(frame)[0] / MICROSECONDS)
        case b"F":
            return Failed(frame[1:])
        case b"W":
            return Failed(frame[_NUMBER.size :], _NUMBER.unpack_from(frame)[0] / MICROSECONDS)
        case b"M":
            return MISMATCH
        case b"A":
            fence, attempt, size = _OWNER.unpack_from(frame)
            rest = frame[_OWNER.size :]
            return Abandoned(rest[:size].decode(), fence, attempt, _checkpoint(rest[size:]))
        case b"X":
            raise CorruptRecord(CORRUPT)
        case _:
            raise misbehaved(frame)


def _checkpoint(rest: bytes) -> bytes | None:
    """The end of a frame: nothing, or ``+`` and a checkpoint."""
    return rest[1:] if rest else None


def settled(frame: bytes) -> SettleOutcome:
    """What a complete, fail, renew or release was answered."""
    match frame:
        case b"D":
            return DONE
        case b"L":
            return LEASE_LOST
        case b"X":
            raise CorruptRecord(CORRUPT)
        case _:
            raise misbehaved(frame)


def number(frame: bytes) -> int:
    """A bare number."""
    if len(frame) != 8:
        raise misbehaved(frame)
    return int.from_bytes(frame, "big", signed=True)


def flag(frame: bytes) -> bool:
    """Yes or no."""
    if frame not in (b"Y", b"N"):
        raise misbehaved(frame)
    return frame == b"Y"


def snapshot(
    fields: bytes, fingerprint: bytes | None, result: bytes | None, checkpoint: bytes | None
) -> Snapshot | None:
    """A look at a record; None where its retention is over."""
    found = cast("dict[str, int | str | bool | None]", json.loads(fields))
    if not found["sound"]:
        raise CorruptRecord(CORRUPT)

    def moment(name: str) -> int | None:
        return cast("int | None", found[name])

    now, ends = cast("int", found["now"]), moment("expires_at")
    if ends is not None and ends <= now:
        return None
    record = Record(
        _STATES[cast("int", found["state"])],
        cast("str", found["token"]),
        cast("int", found["fence"]),
        cast("int", found["attempt"]),
        fingerprint,
        moment("lease_until"),
        ends,
        moment("retry_at"),
        result,
        checkpoint,
    )
    return Snapshot(record, now)


def misbehaved(frame: bytes | None) -> StoreMisbehaved:
    """A reply that our functions never give."""
    start = "nothing" if frame is None else repr(frame[:1])
    return StoreMisbehaved(
        f"a function of the store answered {start}, which means nothing to this version of idemstore: "
        "has somebody replaced it? Repeat the migration"
    )
