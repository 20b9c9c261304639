"""PyMongo's errors as ours, for all three drivers (Motor raises PyMongo's).

The text of a server error may repeat the whole command, keys and results included, so it is never passed on, nor is the
error itself chained: its code and name are. Network errors hold addresses and no more, and are chained.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from bson.errors import BSONError, InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from pymongo.topology_description import TopologyDescription

from idemstore.errors import (
    AccessDenied,
    CorruptRecord,
    IdemstoreError,
    InvalidInput,
    ResultTooLarge,
    SchemaError,
    StoreClosed,
    StoreFull,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
    Throttled,
    TransactionConflict,
)

DENIED: Final = frozenset({13, 18, 8000})
"""Unauthorized, AuthenticationFailed, and what Atlas answers instead."""
LATER: Final = frozenset(
    {6, 7, 24, 63, 64, 79, 89, 91, 100, 112, 133, 134, 189, 246, 251, 262, 317, 9001, 10107, 11600, 11601, 11602}
    | {13388, 13435, 13436}
)
"""Elections, shutdowns, lost connections between nodes, conflicts, majorities that cannot be had now."""
FULL: Final = frozenset({14031})
THROTTLED: Final = frozenset({429, 462, 16500})
IN_TRANSACTION: Final = 263
EXPIRED: Final = 50
MISFIT: Final = {
    20: "it is no member of a replica set, which transactions need",
    61: "it is sharded by another field: shard it by _id",
    72: "it has options that keys cannot be stored with",
    73: "MongoDB does not take its name",
    85: "its index idemstore_reclaim is another one: drop that index, then migrate()",
    86: "its index idemstore_reclaim is another one: drop that index, then migrate()",
    121: "its validator refuses records: name a collection without one",
    166: "it is a view: name a collection",
    13297: "there is a database whose name differs in case only: write it like that",
}
"""What a code says about the collection."""
TRANSIENT: Final = "TransientTransactionError"

Failure = PyMongoError | BSONError

_TIMEOUTS: Final = re.compile(r" \(configured timeouts: [^)]*\)")


def worth_resending(error: PyMongoError) -> bool:
    """Whether the same call may go through at once: the connection broke, or the primary changed."""
    return isinstance(error, AutoReconnect) and not error.timeout


def reason(error: Failure, topology: Callable[[], TopologyDescription] | None) -> Failure:
    """Why no server could be chosen: after a refused log-in PyMongo takes the server for unknown, and waits for it."""
    if topology is not None and isinstance(error, ServerSelectionTimeoutError):
        for server in topology().server_descriptions().values():
            if isinstance(server.error, OperationFailure) and server.error.code in DENIED:
                return server.error
    return error


def lost_race(error: DuplicateKeyError, where: str) -> Mapping[str, object]:
    """Two upserts raced on one ``_id``. What the loser is answered, so that it asks again: no document."""
    pattern = (error.details or {}).get("keyPattern", {"_id": 1})
    if list(pattern) != ["_id"]:
        raise SchemaError(f"the collection {where} has a unique index that records violate: drop it") from None
    return {"value": None}


def checked(body: Mapping[str, object], where: str) -> Mapping[str, object]:
    """The reply, unless it says that something went wrong after all."""
    errors = body.get("writeErrors")
    if isinstance(errors, list) and errors:
        raise _refused(errors[0].get("code"), errors[0].get("codeName"), where)
    unconfirmed = body.get("writeConcernError")
    if isinstance(unconfirmed, Mapping):
        raise StoreTimeout(
            f"MongoDB did not confirm that a majority has it (code {unconfirmed.get('code')}): "
            "whether it stays is not known; repeat the call"
        )
    return body


def translate(error: Failure, where: str, timeout: float, *, joined: bool, transaction: bool) -> NoReturn:
    """Raise one of ours. ``joined``: over a caller's session; ``transaction``: within its transaction."""
    if transaction and _aborted(error):
        raise TransactionConflict(
            "MongoDB aborted the transaction (a conflict, or a lost connection): abort it and run it again"
        ) from None
    match error:
        case BSONError():
            raise _unreadable(error) from None
        case OperationFailure() if not isinstance(error, ExecutionTimeout):
            name = (error.details or {}).get("codeName")
            raise _refused(error.code, name, where) from None
        case InvalidOperation() if joined:
            raise InvalidInput(f"the session given to store.on() cannot be used: {error}") from None
        case InvalidOperation():
            raise StoreClosed("the store was closed during the call") from None
        case _:
            raise _unreachable(error, timeout) from error


def _aborted(error: Failure) -> bool:
    """Whether the transaction is over."""
    return isinstance(error, DuplicateKeyError) or (
        isinstance(error, PyMongoError) and error.has_error_label(TRANSIENT)
    )


def _unreadable(error: BSONError) -> IdemstoreError:
    """What BSON cannot say, on the way there or back."""
    if isinstance(error, InvalidDocument):
        return ResultTooLarge(
            "the record is over MongoDB's limit of 16 MiB: nothing was stored, the claim still stands"
        )
    return CorruptRecord(
        "what is stored under the key is no valid BSON: look at it in the collection, then forget the key"
    )


def _plain(error: PyMongoError) -> str:
    """What went wrong, without the time-outs and the whole topology that PyMongo adds to it."""
    return _TIMEOUTS.sub("", str(error).partition(", Timeout: ")[0])


def _unreachable(error: PyMongoError, timeout: float) -> IdemstoreError:
    """What went wrong between here and the server."""
    match error:
        case ServerSelectionTimeoutError():
            return StoreUnavailable(
                f"no MongoDB primary could be reached within {timeout:g} s: is the URL right? {_plain(error)}"
            )
        case WaitQueueTimeoutError():
            return StoreTimeout(
                f"no connection came free within {timeout:g} s: raise maxPoolSize, or send less at once"
            )
        case NetworkTimeout() | ExecutionTimeout():
            return StoreTimeout(f"MongoDB did not answer within {timeout:g} s: repeat the call, which is safe")
        case NotPrimaryError():
            return StoreUnavailable("MongoDB is electing a new primary: repeat the call, which is safe")
        case ConnectionFailure() | ConfigurationError():
            return StoreUnavailable(
                f"the connection to MongoDB failed: {_plain(error)}; repeat the call, which is safe"
            )
        case _ if error.timeout:
            return StoreTimeout(f"MongoDB did not answer within {timeout:g} s: repeat the call, which is safe")
        case _:
            return StoreMisbehaved(f"PyMongo failed with {type(error).__name__}")


def _refused(code: object, name: object, where: str) -> IdemstoreError:
    """What the server says by a code."""
    what = f"(code {code}{f' {name}' if name else ''})"
    if code in DENIED:
        return AccessDenied(
            f"MongoDB denies access to {where} {what}: check user, password and authSource; the user needs the "
            "role of docs/mongodb.md (find, insert, update; remove to purge; createIndex, listCollections to migrate)"
        )
    if code == EXPIRED:
        return StoreTimeout(f"MongoDB ran out of time {what}: repeat the call, which is safe")
    if code in LATER:
        return StoreUnavailable(f"MongoDB cannot take the call now {what}: repeat it, which is safe")
    if code in THROTTLED:
        return Throttled(f"MongoDB asks for fewer requests {what}: repeat the call after a pause")
    if code in FULL:
        return StoreFull(f"MongoDB's disk is full {what}: nothing was stored")
    if code == IN_TRANSACTION:
        return InvalidInput(f"MongoDB does not do this inside a transaction {what}: call the store itself")
    if isinstance(code, int) and code in MISFIT:
        return SchemaError(f"the collection {where} cannot be used {what}: {MISFIT[code]}")
    return StoreMisbehaved(
        f"MongoDB refuses the command {what}: is {where} a MongoDB collection of version 4.4 or later?"
    )
