"""The stored document: its fields, the one shape that every document of ours has, and how it is read.

``SHAPE`` is checked twice by the same rule: by the update pipelines before they overwrite anything, and by ``decode``
for every document that comes back. So a document that a pipeline left alone as damaged is always reported as damaged.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple, cast

from idemstore.errors import CorruptRecord, SchemaError
from idemstore.machine import Record, State

MILLISECOND: Final = 1000
"""In microseconds, the unit of the machine."""

NEVER: Final = 2**63 - 1
"""As ``until`` or ``expires_at``: no end."""

IN_FLIGHT: Final = "in-flight"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
RETRYABLE: Final = "retryable"
"""Failed, and may be claimed again from ``until`` on."""
RELEASED: Final = "released"
"""A tombstone: the key is absent, and its next claim gets a greater fence than its last."""

STATES: Final = {
    IN_FLIGHT: State.IN_FLIGHT,
    COMPLETED: State.COMPLETED,
    FAILED: State.FAILED,
    RETRYABLE: State.FAILED,
}

FIELDS: Final = {
    "_id": "string",
    "state": "string",
    "token": "string",
    "fingerprint": "binData",
    "result": "binData",
    "checkpoint": "(binData|null)",
    "fence": "(int|long)",
    "attempt": "(int|long)",
    "changed_at": "(int|long)",
    "until": "(int|long)",
    "expires_at": "(int|long)",
    "reclaim": "(date|null)",
}
"""Every field, in order, with its BSON types; every document has them all.

``fingerprint`` and ``result`` are empty where there is none. Times are milliseconds since the epoch: ``until`` is when
others may claim the key (end of the lease, retry time, else end of retention), ``expires_at`` when the record counts as
absent. ``reclaim`` repeats that as a date, for the TTL index.
"""

SHAPE: Final = "".join(f"{name}:{types} " for name, types in FIELDS.items())
"""What ``name:type`` of every field must read like: a regular expression, for the server and for ``decode``."""

KNOWN: Final = frozenset({*STATES, RELEASED})

_SHAPE: Final = re.compile(SHAPE)
_TYPES: Final[dict[type, str]] = {str: "string", bytes: "binData", type(None): "null", int: "int"}


class Stored(NamedTuple):
    """A document that reads as one of ours. Times in milliseconds."""

    state: str
    token: str
    fingerprint: bytes
    result: bytes
    checkpoint: bytes | None
    fence: int
    attempt: int
    changed_at: int
    until: int
    expires_at: int

    def absent(self, now: int) -> bool:
        """Whether the key counts as absent at ``now`` (milliseconds)."""
        return self.state == RELEASED or self.expires_at <= now

    def differs(self, fingerprint: bytes | None) -> bool:
        """Whether it belongs to another payload."""
        return fingerprint is not None and self.fingerprint not in (b"", fingerprint)

    def record(self) -> Record:
        """The record as the machine knows it."""
        finished = self.state != IN_FLIGHT
        return Record(
            state=STATES[self.state],
            token=self.token,
            fence=self.fence,
            attempt=self.attempt,
            fingerprint=self.fingerprint or None,
            lease_until=None if finished else self.until * MILLISECOND,
            expires_at=None if self.expires_at == NEVER else self.expires_at * MILLISECOND,
            retry_at=max(self.until, self.changed_at) * MILLISECOND if self.state == RETRYABLE else None,
            result=self.result if finished else None,
            checkpoint=self.checkpoint,
        )


_Values = tuple[str, str, bytes, bytes, bytes | None, int, int, int, int, int]


def decode(key: str, document: Mapping[str, object]) -> Stored:
    """Read a document, or raise ``CorruptRecord``."""
    if not sound(document):
        raise CorruptRecord(
            "what is stored under the key is no record of this store: look at it in the collection, then forget the key"
        )
    if document["_id"] != key:
        raise SchemaError(
            "MongoDB takes two different keys for the same: the collection was created with a collation; "
            "use a collection without one"
        )
    return Stored(*cast("_Values", tuple(document[name] for name in Stored._fields)))


def sound(document: Mapping[str, object]) -> bool:
    """Whether it is one of ours."""
    return _SHAPE.fullmatch(shape_of(document)) is not None and document["state"] in KNOWN


def shape_of(document: Mapping[str, object]) -> str:
    """A document as ``SHAPE`` reads it; the pipelines put the same text together on the server."""
    return "".join([f"{name}:{_type(value)} " for name, value in document.items()])


def _type(value: object) -> str:
    """BSON's name of a value's type, as far as our documents need it. (All integers are one here, as in ``FIELDS``.)"""
    kind = type(value)
    known = _TYPES.get(kind)
    if known is not None:
        return known
    if isinstance(value, int) and kind is not bool:
        return "long"
    return "date" if isinstance(value, datetime) else kind.__name__
