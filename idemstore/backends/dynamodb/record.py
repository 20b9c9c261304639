"""How a record lies in an item, and how it is read back. Owns the attribute names; nothing else spells them out twice.

Every number that a condition compares is always there: "never" is a number beyond every other (``NEVER``), and a key
that was released or forgotten keeps a bare item with ``expires_at`` 0, so that its fence outlives it.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from idemstore.backends.dynamodb.chunks import Parts, read_pointer
from idemstore.backends.dynamodb.messages import Attr, Item
from idemstore.errors import CorruptRecord
from idemstore.machine import MICROSECONDS, Record, State

ID: Final = "id"
STATE: Final = "record_state"
TOKEN: Final = "claim_token"  # noqa: S105 - the name of an attribute
FENCE: Final = "fence"
ATTEMPT: Final = "attempt"
FINGERPRINT: Final = "fingerprint"
LEASE: Final = "lease_until"
EXPIRES: Final = "expires_at"
RETENTION: Final = "retention"
TTL: Final = "ttl_at"
TTL_AFTER: Final = "ttl_after"
RETRY: Final = "retry_at"
RESULT: Final = "record_result"
CHECKPOINT: Final = "checkpoint"

NEVER: Final = 10**18
"""The end of a retention that has none (microseconds; the year 33658)."""
TTL_SLACK: Final = 7200
"""Seconds by which DynamoDB's own deletion stays behind the end of a record: clocks differ, fences must not go back."""


class Stored(NamedTuple):
    """A record as it was found. ``ends`` is ``expires_at`` as stored; ``parts`` tells where a divided result lies."""

    record: Record
    ends: int
    parts: Parts | None = None


def ttl(moment: int) -> int:
    """The TTL attribute (whole seconds) of what ends at a moment."""
    return -(-moment // MICROSECONDS) + TTL_SLACK


def corrupt(what: str) -> CorruptRecord:
    """The error for an item that is no record of ours."""
    return CorruptRecord(
        f"the item under this key is not a record of idemstore ({what}): look at it, then forget() the key"
    )


def decode(item: Item) -> Stored:
    """Read an item, or raise ``CorruptRecord``. Attributes that are not ours are left alone."""
    ends, fence = integer(item, EXPIRES), integer(item, FENCE)
    if ends == 0:
        return Stored(Record(State.IN_FLIGHT, "", fence, 1, lease_until=0, expires_at=0), 0)
    try:
        state = State(_text(item, STATE))
    except ValueError:
        raise corrupt(f"{STATE} is unknown") from None
    result, parts = _result(item) if state is not State.IN_FLIGHT else (None, None)
    record = Record(
        state,
        _text(item, TOKEN),
        fence,
        integer(item, ATTEMPT),
        _optional_bytes(item, FINGERPRINT),
        integer(item, LEASE) if state is State.IN_FLIGHT else None,
        ends if ends < NEVER else None,
        integer(item, RETRY) if state is State.FAILED and RETRY in item else None,
        result,
        None if state is State.COMPLETED else _optional_bytes(item, CHECKPOINT),
    )
    return Stored(record, ends, parts)


def _text(item: Item, name: str) -> str:
    """A string that must be there."""
    value = item.get(name, {}).get("S")
    if not isinstance(value, str):
        raise corrupt(f"{name} is missing or no string")
    return value


def whole_number(item: Item, name: str) -> bool:
    """Whether an attribute is one of the numbers that we write."""
    value = item.get(name, {}).get("N")
    return isinstance(value, str) and value.isascii() and value.isdigit()


def integer(item: Item, name: str) -> int:
    """A whole number that must be there."""
    if not whole_number(item, name):
        raise corrupt(f"{name} is missing or no whole number")
    return int(cast("str", item[name]["N"]))


def _optional_bytes(item: Item, name: str) -> bytes | None:
    """Bytes, or None where the attribute is absent."""
    return _bytes(item[name], name) if name in item else None


def _bytes(attr: Attr, name: str) -> bytes:
    """The bytes of an attribute."""
    value = attr.get("B")
    if not isinstance(value, bytes):
        raise corrupt(f"{name} is not binary")
    return value


def _result(item: Item) -> tuple[bytes | None, Parts | None]:
    """The result: bytes in place, or where its parts lie."""
    attr = item.get(RESULT)
    if attr is None:
        raise corrupt(f"{RESULT} is missing")
    pointer = attr.get("S")
    if isinstance(pointer, str):
        return None, read_pointer(pointer)
    return _bytes(attr, RESULT), None


def item_of(body: Mapping[str, object], name: str) -> Item | None:
    """An item inside a response body; None where the server sent none."""
    item = body.get(name)
    return cast("Item", item) if isinstance(item, Mapping) and item else None
