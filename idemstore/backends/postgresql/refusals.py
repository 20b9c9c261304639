"""What a refusal of the server means: SQLSTATE codes, translated in this one place. Pure.

A driver brings a refusal to the dialect as a reply. Only what concerns the connection, not the call, it deals with
itself: ``remedy`` says how.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from idemstore.errors import (
    AccessDenied,
    ConfigurationError,
    CorruptRecord,
    IdemstoreError,
    InvalidKey,
    SchemaError,
    StoreError,
    StoreFull,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
    TransactionConflict,
)

NEWER: Final = "ID001"
FOREIGN: Final = "ID002"
TOO_OLD: Final = "ID003"
"""Raised by our own migration."""

MISSING: Final = frozenset({"42883", "42P01", "3F000", "42703", "42804", "42P13"})
"""No such function, table, schema or column, or one of another type: ask what there is, then say what to do."""


LOST: Final = "08006"
"""The SQLSTATE of a connection that broke; also where only the client knows."""


ATTEMPTS: Final = 3
"""How often a driver sends a call, where the remedy is to send it again."""


BLOCKED: Final = "55P03"
"""A lock was not to be had within the time that the statement may wait for it."""


class Refusal(NamedTuple):
    """The server's error reply: its SQLSTATE, and its message without detail (which may quote values)."""

    sqlstate: str
    text: str


class Remedy(Enum):
    """What a driver does about a refusal on a connection of its own, before anybody hears of it."""

    NONE = "hand it on"
    REPEAT = "the same call again: it lost against others, and nothing of it was applied"
    RECONNECT = "the same call on a new connection: this one is of no use any more"


_RECONNECT: Final = frozenset({"57P01", "57P02", "57P05", "25006", "25P03", "26000"})
_REPEAT: Final = frozenset({"40001", "40P01"})


def remedy(refusal: Refusal) -> Remedy:
    """By SQLSTATE. A read-only server may have stepped down: elsewhere there may be a new primary."""
    if refusal.sqlstate in _REPEAT:
        return Remedy.REPEAT
    if refusal.sqlstate in _RECONNECT or refusal.sqlstate.startswith("08"):
        return Remedy.RECONNECT
    return Remedy.NONE


_MEANINGS: Final[Mapping[str, tuple[type[IdemstoreError], str]]] = {
    "40001": (TransactionConflict, "others changed the record meanwhile: run the transaction again from its start"),
    "40P01": (TransactionConflict, "a deadlock with other transactions: run the transaction again from its start"),
    "25P02": (TransactionConflict, "the transaction has failed before: roll it back and run it again from its start"),
    "25006": (
        StoreUnavailable,
        "nothing can be written, all is read-only: a standby, a primary that stepped down, or your own transaction",
    ),
    "57014": (StoreTimeout, "the server gave the call up at the time-out (or was told to): repeating it is safe"),
    BLOCKED: (StoreTimeout, "a lock was not to be had in time: repeating the call is safe"),
    "53100": (StoreFull, "the server's disk is full: nothing was stored; make room there"),
    "42501": (AccessDenied, "the role lacks a permission"),
    "3D000": (SchemaError, "the database does not exist: create it, or correct the URL"),
    "22P05": (InvalidKey, "the database's encoding cannot hold this key: use a database with encoding UTF8"),
    "22021": (InvalidKey, "the database's encoding cannot hold this key: use a database with encoding UTF8"),
    "XX001": (CorruptRecord, "the server finds its own data damaged: see its log, restore from a backup"),
    "XX002": (CorruptRecord, "the server finds an index damaged: see its log, REINDEX"),
    "42P05": (ConfigurationError, "a pooler shares this connection between clients: add ?pgbouncer=1 to the URL"),
    TOO_OLD: (SchemaError, "the server is older than PostgreSQL 12, which this needs: upgrade it"),
}
_CLASSES: Final[Mapping[str, tuple[type[IdemstoreError], str]]] = {
    "08": (StoreUnavailable, "the connection failed, or a pooler refused it: repeating the call is safe"),
    "28": (AccessDenied, "the server refuses the user or password: correct the URL"),
    "40": (TransactionConflict, "the transaction was rolled back: run it again from its start"),
    "53": (StoreUnavailable, "the server has no resources left (connections, memory): try again later"),
    "57": (StoreUnavailable, "the server is shutting down or starting up: repeating the call is safe"),
    "58": (StoreError, "the server has trouble with its own files: see its log"),
    "XX": (StoreError, "an internal error of the server: see its log"),
}
_UNKNOWN: Final = (StoreMisbehaved, "the server refused a call that should be fine")


def error(refusal: Refusal, name: str, grants: str = "") -> IdemstoreError:
    """The error that a refusal is to the caller. ``name`` is the store's; ``grants`` says what a role needs."""
    kind, meaning = _MEANINGS.get(refusal.sqlstate) or _CLASSES.get(refusal.sqlstate[:2]) or _UNKNOWN
    advice = f"; it needs: {grants}" if refusal.sqlstate == "42501" and grants else ""
    return kind(f"{name}: {meaning}{advice} [{refusal.sqlstate}: {refusal.text}]")
