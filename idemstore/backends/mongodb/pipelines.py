"""The update pipelines: the state machine said in aggregation expressions, one pipeline per event.

Each has one stage, ``{$replaceWith: {$cond: [<the event applies>, <new document>, "$$ROOT"]}}``. MongoDB evaluates it
under the lock of the document, so deciding and writing are one step; where it comes out at ``$$ROOT`` the document is
byte for byte what it was, and MongoDB writes nothing, neither to the collection nor to the oplog.

Two rules. Whatever a caller supplied stands under ``$literal``, so ``$`` and ``.`` in it mean nothing. And nothing is
overwritten unless it has the shape of our documents (``SOUND``).

Milliseconds by ``$$NOW``: the clock when the command began, before it came to the document. MongoDB parses a pipeline
for every command, so short is fast: documents have all fields always, and an end that never comes is the greatest
integer instead of null.
"""

from typing import Final, TypeAlias

from idemstore.backends.mongodb.record import (
    COMPLETED,
    FAILED,
    IN_FLIGHT,
    KNOWN,
    MILLISECOND,
    NEVER,
    RELEASED,
    RETRYABLE,
    SHAPE,
)
from idemstore.machine import Claim, Complete, Fail, Renew

Expression: TypeAlias = "int | str | bytes | list[Expression] | dict[str, Expression] | None"
Pipeline: TypeAlias = list[dict[str, Expression]]

GRACE: Final = 60_000
"""How long a tombstone is kept (milliseconds), so that the fence grows although the clock is coarse or steps back."""

NOW: Final = "$$now"


def literal(value: Expression) -> dict[str, Expression]:
    """A value that is never read as an expression."""
    return {"$literal": value}


def _with_now(expression: Expression) -> Pipeline:
    """A pipeline of one stage whose expression knows ``$$now``, in milliseconds."""
    return [{"$replaceWith": {"$let": {"vars": {"now": {"$toLong": "$$NOW"}}, "in": expression}}}]


def _where(condition: Expression, new: Expression) -> Pipeline:
    """``new`` where the condition holds and the document is sound; else no change."""
    return _with_now({"$cond": [{"$and": [condition, *SOUND]}, new, "$$ROOT"]})


def _sound(shape: str) -> list[Expression]:
    """The document has a shape, and a state that is known."""
    types: Expression = {
        "$reduce": {
            "input": {"$objectToArray": "$$ROOT"},
            "initialValue": "",
            "in": {"$concat": ["$$value", "$$this.k", ":", {"$type": "$$this.v"}, " "]},
        }
    }
    return [
        {"$regexMatch": {"input": types, "regex": f"^({shape})$"}},
        {"$in": [{"$ifNull": ["$state", RELEASED]}, [*sorted(KNOWN)]]},
    ]


SOUND: Final = _sound(SHAPE)
"""The document is one of ours."""

SOUND_OR_NEW: Final = _sound(f"{SHAPE}|(_id:string )?")
"""The document is one of ours, or what an upsert starts from: nothing but the ``_id`` of its query."""

_EXPIRED: Final[Expression] = {"$lte": ["$expires_at", NOW]}
"""True also where the field is missing: BSON orders nothing before every number."""


def _tombstone(key: str, fence: Expression) -> Expression:
    """What is left of a record: as if the key had never been claimed, but for the fence."""
    given: Expression = {
        "_id": key,
        "state": RELEASED,
        "token": "",
        "fingerprint": b"",
        "result": b"",
        "checkpoint": None,
    }
    made: Expression = {
        "fence": fence,
        "attempt": 0,
        "changed_at": NOW,
        "until": 0,
        "expires_at": NEVER,
        "reclaim": {"$add": ["$$NOW", GRACE]},
    }
    return {"$mergeObjects": [literal(given), made]}


def _ends(after: int | None) -> dict[str, Expression]:
    """``expires_at`` and ``reclaim`` of a record that ends so many milliseconds from now, or never."""
    if after is None:
        return {"expires_at": NEVER, "reclaim": None}
    return {"expires_at": {"$add": [NOW, after]}, "reclaim": {"$add": ["$$NOW", after]}}


def _after(after: int | None) -> Expression:
    """So many milliseconds from now, or never."""
    return NEVER if after is None else {"$add": [NOW, after]}


def millis(micros: int | None) -> int | None:
    """The machine's microseconds as milliseconds; its durations are whole milliseconds."""
    return None if micros is None else micros // MILLISECOND


def claim(key: str, event: Claim) -> Pipeline:
    """Rules 1 to 7. ``$$old`` is the record as this claim may know it: what is over counts as never claimed.

    ``until`` says for every state when others may have the key, so whoever is too early, or comes to a result that is
    kept, is turned away by the first comparison.
    """
    begun: dict[str, Expression] = {
        "until": 0,
        "fence": "$fence",
        "attempt": 0,
        "fingerprint": b"",
        "checkpoint": None,
    }
    old: Expression = {"$cond": [_EXPIRED, begun, "$$ROOT"]}
    free: list[Expression] = [
        {"$lte": ["$$old.until", NOW]},
        {"$ne": [["$$old.state", "$$old.token"], literal([IN_FLIGHT, event.token])]},
    ]
    if not event.takeover:
        free.append({"$ne": ["$$old.state", IN_FLIGHT]})
    if event.fingerprint is not None:
        free.append({"$in": ["$$old.fingerprint", literal([event.fingerprint, b""])]})
    decided: Expression = {"$cond": [{"$and": [*free, *SOUND_OR_NEW]}, _claimed(key, event), "$$ROOT"]}
    return _with_now({"$let": {"vars": {"old": old}, "in": decided}})


def _claimed(key: str, event: Claim) -> Expression:
    """The record of a new attempt."""
    lease, kept = event.lease // MILLISECOND, millis(event.retention)
    given: dict[str, Expression] = {
        "_id": key,
        "state": IN_FLIGHT,
        "token": event.token,
        "fingerprint": event.fingerprint or b"",
        "result": b"",
        "checkpoint": None,
    }
    made: dict[str, Expression] = {
        "checkpoint": "$$old.checkpoint",
        "fence": {"$max": [{"$add": ["$$old.fence", 1]}, {"$multiply": [NOW, MILLISECOND]}]},
        "attempt": {"$add": ["$$old.attempt", 1]},
        "changed_at": NOW,
        "until": {"$add": [NOW, lease]},
        **_ends(None if kept is None else lease + kept),
    }
    if event.fingerprint is None:
        made["fingerprint"] = "$$old.fingerprint"
    return {"$mergeObjects": [literal(given), made]}


def complete(key: str, event: Complete) -> Pipeline:
    """The owner's result, in place of its checkpoint."""
    kept = millis(event.retention)
    given: dict[str, Expression] = {"state": COMPLETED, "result": event.result, "checkpoint": None}
    return _finish(key, event.token, given, _after(kept), kept)


def fail(key: str, event: Fail) -> Pipeline:
    """The owner's failure; the checkpoint stays for the next attempt.

    Where it may run at once, ``until`` is the beginning of time: a claim that began before this failure, but comes to
    the document after it, goes by a clock that is a little older.
    """
    kept, retry = millis(event.retention), millis(event.retry_after)
    if retry is None:
        return _finish(key, event.token, {"state": FAILED, "result": event.result}, _after(kept), kept)
    given: dict[str, Expression] = {"state": RETRYABLE, "result": event.result}
    until: Expression = _after(retry if kept is None else min(retry, kept)) if retry else 0
    return _finish(key, event.token, given, until, kept)


def _finish(key: str, token: str, given: dict[str, Expression], until: Expression, kept: int | None) -> Pipeline:
    """End an execution."""
    made: dict[str, Expression] = {"changed_at": NOW, "until": until, **_ends(kept)}
    return _settle(key, token, {"$mergeObjects": ["$$ROOT", literal(given), made]})


def renew(key: str, event: Renew) -> Pipeline:
    """The lease counted from now; the end of retention keeps its distance."""
    until: Expression = {"$add": [NOW, event.lease // MILLISECOND]}
    end: Expression = {"$add": [until, {"$subtract": ["$expires_at", "$until"]}]}
    ever: Expression = {"$eq": ["$expires_at", NEVER]}
    made: dict[str, Expression] = {
        "changed_at": NOW,
        "until": until,
        "expires_at": {"$cond": [ever, NEVER, end]},
        "reclaim": {"$cond": [ever, None, {"$toDate": end}]},
    }
    given: list[Expression] = [] if event.checkpoint is None else [literal({"checkpoint": event.checkpoint})]
    return _settle(key, event.token, {"$mergeObjects": ["$$ROOT", *given, made]})


def release(key: str, token: str) -> Pipeline:
    """The owner's record becomes a tombstone."""
    return _settle(key, token, None)


def _settle(key: str, token: str, new: Expression) -> Pipeline:
    """``new`` (None: a tombstone) for the owner. What is over counts as absent and becomes a tombstone, by which the
    answer shows it.
    """
    tombstone = _tombstone(key, "$fence")
    after: Expression = tombstone if new is None else {"$cond": [_EXPIRED, tombstone, new]}
    owned: Expression = {"$eq": [["$state", "$token"], literal([IN_FLIGHT, token])]}
    return _where({"$or": [_EXPIRED, owned]}, after)


def forget(key: str) -> Pipeline:
    """A tombstone whatever is there, damaged or not; a fence that reads as one is kept."""
    kept: Expression = {"$in": [{"$type": "$fence"}, ["int", "long"]]}
    fence: Expression = {"$cond": [kept, "$fence", {"$multiply": [NOW, MILLISECOND]}]}
    gone: Expression = {"$and": [{"$eq": ["$state", RELEASED]}, *SOUND]}
    return _with_now({"$cond": [gone, "$$ROOT", _tombstone(key, fence)]})
