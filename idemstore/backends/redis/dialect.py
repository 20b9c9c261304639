"""How Redis says each operation: one Lua script call on one key, and how its reply reads. Pure.

Every operation is atomic because it is one script, and one round trip. A server that does not know a script
yet (restarted, failed over, slots moved) answers NOSCRIPT: then the same call follows with the script's source.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final, NamedTuple, TypeVar

from idemstore.backends.redis import script
from idemstore.backends.redis.resp import Chunks, pack
from idemstore.backends.redis.script import Script
from idemstore.errors import CorruptRecord, StoreMisbehaved
from idemstore.exchange import Exchange, Limits, Snapshot, make_exchange
from idemstore.machine import MICROSECONDS, Claim, Complete, Fail, Record, Release, Renew, State
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

T = TypeVar("T")

KEY_BYTES: Final = 65535


class Missing(Enum):
    """A reply that is no answer: the server does not know the script."""

    SCRIPT = "NOSCRIPT"


NOSCRIPT: Final = Missing.SCRIPT

Reply = int | bytes | list["Reply"] | Missing | None


class Request(NamedTuple):
    """One command, packed, and the key by which a cluster finds its node."""

    chunks: Chunks
    key: bytes


_request: Final = partial(tuple.__new__, Request)


def key_of(request: Request) -> bytes:
    """The record that a request is about."""
    return request.key


Ask = Exchange[Request, Reply, T]


def wrote(reply: Reply) -> bool:
    """Whether what was asked for changed a record, so that a replica could still miss it."""
    match reply:
        case [b"claimed", *_] | b"done" | 1:
            return True
        case bytes():
            return reply.startswith(b"claimed ")
        case _:
            return False


class RedisDialect:
    """The operations. ``touch``: a re-sent call writes its record again, so that WAIT has something to wait for.
    ``notify``: whatever ends a claim wakes its waiters.
    """

    def __init__(self, prefix: str, value_bytes: int, touch: bool = False, notify: bool = True) -> None:
        self.prefix = prefix.encode()
        self.limits = Limits(KEY_BYTES, value_bytes)
        self._touch: Final = (b"1",) if touch else ()
        self._settling: Final = script.TELLING if notify else script.SILENT

    def _call(self, use: Script, key: str, arguments: tuple[bytes, ...], read: Callable[[Reply], T]) -> Ask[T]:
        """By digest first; by source where that is needed."""
        name = self.prefix + key.encode()
        return make_exchange((_request((use.call(name, *arguments), name)), partial(_read, use, name, arguments, read)))

    def claim(self, key: str, event: Claim) -> Ask[ClaimOutcome]:
        """``scripts/claim.lua``."""
        arguments = (
            event.token.encode(),
            b"%d" % event.lease,
            _optional(event.retention),
            event.fingerprint or b"",
            b"1" if event.takeover else b"0",
            *self._touch,
        )
        return self._call(script.CLAIM, key, arguments, partial(_claimed, event.token))

    def complete(self, key: str, event: Complete) -> Ask[SettleOutcome]:
        """``scripts/complete.lua``."""
        arguments = (event.token.encode(), event.result, _optional(event.retention), *self._touch)
        return self._call(self._settling.complete, key, arguments, _settled)

    def fail(self, key: str, event: Fail) -> Ask[SettleOutcome]:
        """``scripts/fail.lua``."""
        times = _optional(event.retention), _optional(event.retry_after)
        return self._call(
            self._settling.fail, key, (event.token.encode(), event.result, *times, *self._touch), _settled
        )

    def renew(self, key: str, event: Renew) -> Ask[SettleOutcome]:
        """``scripts/renew.lua``."""
        checkpoint = () if event.checkpoint is None else (event.checkpoint,)
        return self._call(script.RENEW, key, (event.token.encode(), b"%d" % event.lease, *checkpoint), _settled)

    def release(self, key: str, event: Release) -> Ask[SettleOutcome]:
        """``scripts/release.lua``."""
        return self._call(self._settling.release, key, (event.token.encode(),), _settled)

    def get(self, key: str) -> Ask[Snapshot | None]:
        """``scripts/get.lua``."""
        return self._call(script.GET, key, (), _snapshot)

    def forget(self, key: str) -> Ask[bool]:
        """DEL: whatever is there, a damaged record or another program's value included."""
        name = self.prefix + key.encode()
        return Exchange(Request((pack(b"DEL", name),), name), lambda reply: _whole(reply) > 0)

    def purge(self, limit: int) -> Ask[int]:
        """Nothing to do: every record has a time to live, by which the server reclaims it soon after its retention."""
        return self._call(script.PING, "", (), lambda reply: 0 * _whole(reply))

    def ping(self) -> Ask[int]:
        """``scripts/ping.lua``."""
        return self._call(script.PING, "", (), _whole)

    def migrate(self) -> Ask[None]:
        """Nothing to prepare: scripts are loaded when a server misses them."""
        return self._call(script.PING, "", (), _nothing)


def _read(
    use: Script, name: bytes, arguments: tuple[bytes, ...], read: Callable[[Reply], T], reply: Reply
) -> T | Ask[T]:
    """The answer; or, where the server has forgotten the script, the same call with its source."""
    if reply is NOSCRIPT:
        return Exchange(Request(use.load(name, *arguments), name), read)
    return read(reply)


def _optional(duration: int | None) -> bytes:
    """A duration, or nothing."""
    return b"" if duration is None else b"%d" % duration


def _odd(reply: Reply) -> Exception:
    """The error for what our scripts do not answer: a damaged record, or not our scripts."""
    match reply:
        case [b"corrupt", bytes(why)]:
            return CorruptRecord(
                f"what is stored under the key is no record of idemstore: {why.decode(errors='replace')}; "
                "look at it (HGETALL), then forget(key)"
            )
        case _:
            return StoreMisbehaved(
                f"the server answered a script of ours with a {type(reply).__name__} that no such script returns: "
                "is something between this program and Redis?"
            )


def _claimed(token: str, reply: Reply) -> ClaimOutcome:
    """What claim.lua answers. Most answers are a line: those are looked at first, since they are quickly read."""
    if isinstance(reply, bytes):
        return _claim_line(token, reply)
    match reply:
        case [b"claimed", int(fence), int(attempt), bytes(checkpoint)]:
            return Claimed(token, fence, attempt, checkpoint)
        case [b"completed", bytes(result)]:
            return Completed(result)
        case [b"failed", bytes(result)]:
            return Failed(result)
        case [b"failed", bytes(result), int(left)]:
            return Failed(result, left / MICROSECONDS)
        case [b"abandoned", bytes(owner), int(fence), int(attempt), bytes() | None as checkpoint]:
            return Abandoned(_text(owner), fence, attempt, checkpoint)
        case _:
            raise _odd(reply)


def _claim_line(token: str, line: bytes) -> ClaimOutcome:
    """The answers of claim.lua that carry no bytes of a caller."""
    try:
        match line.split(b" "):
            case [b"claimed", fence, attempt]:
                return Claimed(token, int(fence), int(attempt))
            case [b"in-flight", left]:
                return InFlight(int(left) / MICROSECONDS)
            case [b"mismatch"]:
                return MISMATCH
            case _:
                raise _odd(line)
    except ValueError:
        raise _odd(line) from None


def _settled(reply: Reply) -> SettleOutcome:
    """What the scripts that settle answer."""
    match reply:
        case b"done" | b"same":
            return DONE
        case b"lost":
            return LEASE_LOST
        case _:
            raise _odd(reply)


def _snapshot(reply: Reply) -> Snapshot | None:
    """What get.lua answers."""
    match reply:
        case [b"absent"]:
            return None
        case [
            b"record",
            int(now),
            bytes(state),
            bytes(token),
            int(fence),
            int(attempt),
            bytes() | None as fingerprint,
            int() | None as lease_until,
            int() | None as expires_at,
            int() | None as retry_at,
            bytes() | None as result,
            bytes() | None as checkpoint,
        ]:
            times = lease_until, expires_at, retry_at
            found = State(state.decode())
            return Snapshot(Record(found, _text(token), fence, attempt, fingerprint, *times, result, checkpoint), now)
        case _:
            raise _odd(reply)


def _whole(reply: Reply) -> int:
    """A number."""
    if isinstance(reply, int):
        return reply
    raise _odd(reply)


def _nothing(reply: Reply) -> None:
    """That it answered is all."""
    _whole(reply)


def _text(token: bytes) -> str:
    """A token as it was given: ASCII, unless another program wrote it."""
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise CorruptRecord(
            "what is stored under the key is no record of idemstore: its token is no text; look at it (HGETALL), "
            "then forget(key)"
        ) from None
