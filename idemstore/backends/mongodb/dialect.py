"""MongoDB: every operation as one database command, and how its reply is read. Pure: no I/O, no client library.

A claim or settlement is one ``findAndModify`` with an update pipeline (``pipelines``) that answers the document as it
is afterwards. What the caller is told is read off that document alone. Only a busy answer needs the time besides, to
say how long: the driver tells the server's clock by its last heartbeat, which decides nothing. Where that is not known,
or a careful claim (``takeover=False``) comes close to the end of a lease, the server is asked (``_Claiming.ask``).
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeAlias, cast

from idemstore.backends.mongodb import pipelines
from idemstore.backends.mongodb.pipelines import Pipeline
from idemstore.backends.mongodb.record import (
    COMPLETED,
    FAILED,
    IN_FLIGHT,
    KNOWN,
    MILLISECOND,
    RELEASED,
    RETRYABLE,
    Stored,
    decode,
    sound,
)
from idemstore.errors import SchemaError, StoreMisbehaved
from idemstore.exchange import Exchange, Limits, Snapshot
from idemstore.machine import Claim, Complete, Fail, Release, Renew
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

KEY_BYTES: Final = 1024
VALUE_BYTES: Final = 8 * 2**20 - 16 * 2**10
"""A failed record holds a result and a checkpoint: both and the rest fit into a document of 16 MiB."""

SECOND: Final = 1000
MARGIN: Final = 2 * SECOND
"""By how much the clock of the last heartbeat may be wrong for a careful claim to believe it (milliseconds)."""

TTL_INDEX: Final = "idemstore_reclaim"
TTL_SECONDS: Final = 3600
"""The TTL index deletes so long after the record has ended, and so never early, whatever clocks differ by."""

PURGE_PART: Final = 1000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Command: TypeAlias = Mapping[str, object]
"""A database command, its name first."""


class Reply(NamedTuple):
    """What the server answered, and its clock by its last heartbeat (milliseconds; None: not known)."""

    body: Mapping[str, object]
    clock: int | None = None


Ask: TypeAlias = Exchange[Command, Reply, ClaimOutcome]
Settle: TypeAlias = Exchange[Command, Reply, SettleOutcome]


class MongoDialect:
    """Operations as commands on one collection."""

    def __init__(self, collection: str, value_bytes: int = VALUE_BYTES, *, journal: bool = False) -> None:
        self.limits = Limits(KEY_BYTES, value_bytes)
        self._collection = collection
        self._durable: dict[str, object] = {"w": "majority", "j": True} if journal else {"w": "majority"}

    def claim(self, key: str, event: Claim) -> Ask:
        """One ``findAndModify`` that inserts where there is nothing."""
        return _Claiming(self, key, event).exchange()

    def complete(self, key: str, event: Complete) -> Settle:
        """One ``findAndModify``."""
        return self._settle(key, pipelines.complete(key, event), event.token, _as_completed(event))

    def fail(self, key: str, event: Fail) -> Settle:
        """One ``findAndModify``."""
        return self._settle(key, pipelines.fail(key, event), event.token, _as_failed(event))

    def renew(self, key: str, event: Renew) -> Settle:
        """One ``findAndModify``."""
        return self._settle(key, pipelines.renew(key, event), event.token, lambda found: found.state == IN_FLIGHT)

    def release(self, key: str, event: Release) -> Settle:
        """One ``findAndModify``. A tombstone, and nothing at all, mean that it is released."""
        command = self.modify(key, pipelines.release(key, event.token))

        def parse(reply: Reply) -> SettleOutcome:
            found = _document(key, reply)
            return DONE if found is None or found.state == RELEASED else LEASE_LOST

        return Exchange(command, parse)

    def _settle(self, key: str, pipeline: Pipeline, token: str, applied: Callable[[Stored], bool]) -> Settle:
        """Done where the document under this token is as the event leaves it."""

        def parse(reply: Reply) -> SettleOutcome:
            found = _document(key, reply)
            return DONE if found is not None and found.token == token and applied(found) else LEASE_LOST

        return Exchange(self.modify(key, pipeline), parse)

    def modify(self, key: str, pipeline: Pipeline, *, upsert: bool = False, new: bool = True) -> Command:
        """``findAndModify`` by ``_id`` alone, for which MongoDB has a short cut; a str is never read as an operator."""
        return {
            "findAndModify": self._collection,
            "query": {"_id": key},
            "update": pipeline,
            "new": new,
            "upsert": upsert,
            "writeConcern": self._durable,
        }

    def look(self, key: str) -> Command:
        """Read a document and the clock in one command."""
        return self._aggregate(
            [{"$match": {"_id": key}}, {"$project": {"found": "$$ROOT", "now": {"$toLong": "$$NOW"}}}]
        )

    def _aggregate(self, pipeline: list[dict[str, object]]) -> Command:
        """A read on the primary of what a majority has."""
        return {
            "aggregate": self._collection,
            "pipeline": pipeline,
            "cursor": {},
            "readConcern": {"level": "majority"},
        }

    def get(self, key: str) -> Exchange[Command, Reply, Snapshot | None]:
        """One ``aggregate``."""

        def parse(reply: Reply) -> Snapshot | None:
            seen = _seen(key, reply)
            if seen is None or seen[0].absent(seen[1]):
                return None
            return Snapshot(seen[0].record(), seen[1] * MILLISECOND)

        return Exchange(self.look(key), parse)

    def forget(self, key: str) -> Exchange[Command, Reply, bool]:
        """One ``findAndModify`` that answers what was there before; it need not be readable."""

        def parse(reply: Reply) -> bool:
            before = reply.body.get("value")
            return isinstance(before, Mapping) and not (sound(before) and before["state"] == RELEASED)

        return Exchange(self.modify(key, pipelines.forget(key), new=False), parse)

    def ping(self) -> Exchange[Command, Reply, int]:
        """A ``findAndModify`` that finds nothing (no key is empty) shows that the primary would take one from us; then
        the clock.
        """
        allowed = self.modify("", [{"$replaceWith": "$$ROOT"}])
        return Exchange(allowed, lambda _: self._clock(lambda now: now * MILLISECOND))

    def _clock(self, then: Callable[[int], "int | Exchange[Command, Reply, int]"]) -> Exchange[Command, Reply, int]:
        """The server's clock (milliseconds), from a command that answers one document whatever is stored."""
        nothing: list[dict[str, object]] = [{"$match": {"_id": ""}}, {"$facet": {"none": [{"$limit": 1}]}}]
        command = self._aggregate([*nothing, {"$project": {"now": {"$toLong": "$$NOW"}}}])
        return Exchange(command, lambda reply: then(_integer(_batch(reply)[0], "now")))

    def purge(self, limit: int) -> Exchange[Command, Reply, int]:
        """The clock; then, in parts, by the index: what has ended by then, and its deletion where that is still so."""
        return self._clock(lambda now: self._purge(now, limit, 0))

    def _purge(self, now: int, limit: int, gone: int) -> "int | Exchange[Command, Reply, int]":
        """The next part."""
        part = min(limit - gone, PURGE_PART)
        if part == 0:
            return gone
        over = {"reclaim": {"$lte": EPOCH + timedelta(milliseconds=now)}, "$or": _ended(now)}
        find = {
            "find": self._collection,
            "filter": over,
            "sort": {"reclaim": 1},
            "projection": {"_id": 1},
            "limit": part,
            "batchSize": part,
            "singleBatch": True,
        }

        def parse(reply: Reply) -> "int | Exchange[Command, Reply, int]":
            ids = [document["_id"] for document in _batch(reply)]
            if not ids:
                return gone
            delete = {
                "delete": self._collection,
                "deletes": [{"q": {"_id": {"$in": ids}, **over}, "limit": 0}],
                "writeConcern": self._durable,
            }
            return Exchange(delete, lambda reply: self._purge(now, limit, gone + _integer(reply.body, "n")))

        return Exchange(find, parse)

    def migrate(self) -> Exchange[Command, Reply, None]:
        """Look what is there; then the TTL index, which is also the index of ``purge``."""
        command = {"listCollections": 1, "filter": {"name": self._collection}}
        create = {
            "createIndexes": self._collection,
            "indexes": [{"key": {"reclaim": 1}, "name": TTL_INDEX, "expireAfterSeconds": TTL_SECONDS}],
            "writeConcern": self._durable,
        }

        def parse(reply: Reply) -> Exchange[Command, Reply, None]:
            for found in _batch(reply):
                self._fits(found)
            return Exchange(create, lambda _: None)

        return Exchange(command, parse)

    def _fits(self, found: Mapping[str, object]) -> None:
        """Whether the collection that is there can hold our documents."""
        options = found.get("options")
        known = options if isinstance(options, Mapping) else {}
        bad = [name for name in ("capped", "timeseries", "collation", "clusteredIndex") if known.get(name)]
        if found.get("type") != "collection" or bad:
            what = f"has {' and '.join(bad)}" if bad else f"is a {found.get('type')}"
            raise SchemaError(
                f"the collection {self._collection!r} {what}, which keys cannot be stored in: "
                "name another one in the URL (?collection=...)"
            )


class _Claiming(NamedTuple):
    """One claim on its way."""

    dialect: MongoDialect
    key: str
    event: Claim

    def exchange(self) -> Ask:
        """Claim."""
        pipeline = pipelines.claim(self.key, self.event)
        return Exchange(self.dialect.modify(self.key, pipeline, upsert=True), self.parse)

    def parse(self, reply: Reply) -> ClaimOutcome | Ask:
        """Nobody but the server decided; this reads what it decided off the document."""
        found, event = _document(self.key, reply), self.event
        if found is None:
            return self.exchange()  # two upserts raced, and this one lost: now there is a document
        if found.differs(event.fingerprint):
            return MISMATCH
        if found.state == IN_FLIGHT and found.token == event.token:
            return Claimed(found.token, found.fence, found.attempt, found.checkpoint)
        if found.state == COMPLETED:
            return Completed(found.result)
        if found.state == FAILED:
            return Failed(found.result)
        if found.state == RELEASED:
            raise StoreMisbehaved("MongoDB left a free key unclaimed: look at its record, then forget the key")
        return self.busy(found, reply.clock)

    def busy(self, found: Stored, clock: int | None) -> ClaimOutcome | Ask:
        """Somebody runs it, or it backs off: for how long?"""
        if clock is None:
            return self.ask()
        now = max(clock, found.changed_at)  # the clock of a heartbeat is late, if anything
        if found.state == RETRYABLE:
            return Failed(found.result, _seconds(found.until - now))
        if not self.event.takeover and found.until - now < MARGIN:
            return self.ask()
        return InFlight(_seconds(found.until - now))

    def ask(self) -> Ask:
        """Ask the server for document and clock together."""
        return Exchange(self.dialect.look(self.key), self.parse_look)

    def parse_look(self, reply: Reply) -> ClaimOutcome | Ask:
        """Busy still, or abandoned; in any other case the record has changed meanwhile: claim again."""
        seen = _seen(self.key, reply)
        if seen is None or seen[0].absent(seen[1]):
            return self.exchange()
        found, now = seen
        if found.differs(self.event.fingerprint):
            return MISMATCH
        if found.state == RETRYABLE and found.until > now:
            return Failed(found.result, _seconds(found.until - now))
        if found.state != IN_FLIGHT or found.token == self.event.token:
            return self.exchange()
        if found.until > now:
            return InFlight(_seconds(found.until - now))
        if self.event.takeover:
            return self.exchange()
        return Abandoned(found.token, found.fence, found.attempt, found.checkpoint)


def _as_completed(event: Complete) -> Callable[[Stored], bool]:
    """Completed, now or by an earlier delivery."""
    return lambda found: found.state == COMPLETED and found.result == event.result


def _as_failed(event: Fail) -> Callable[[Stored], bool]:
    """Failed, now or by an earlier delivery, and in the same way."""
    state = FAILED if event.retry_after is None else RETRYABLE
    return lambda found: found.state == state and found.result == event.result


def _ended(now: int) -> list[dict[str, object]]:
    """What a purge may delete: records whose retention is over, and tombstones; nothing that is damaged."""
    sound = {"token": {"$type": "string"}, "fence": {"$type": ["int", "long"]}, "state": {"$in": sorted(KNOWN)}}
    return [{"expires_at": {"$lte": now}, **sound}, {**sound, "state": RELEASED}]


def _seconds(millis: int) -> float:
    """A time that is still to come."""
    return max(millis, 1) / SECOND


def _document(key: str, reply: Reply) -> Stored | None:
    """The document that ``findAndModify`` answers."""
    value = reply.body.get("value")
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _odd("findAndModify")
    return decode(key, value)


def _seen(key: str, reply: Reply) -> tuple[Stored, int] | None:
    """The document that ``look`` answers, and the clock."""
    for row in _batch(reply):
        found = row.get("found")
        if not isinstance(found, Mapping):
            raise _odd("aggregate")
        return decode(key, found), _integer(row, "now")
    return None


def _batch(reply: Reply) -> list[Mapping[str, object]]:
    """The documents of a cursor that is done with its first batch."""
    cursor = reply.body.get("cursor")
    batch = cursor.get("firstBatch") if isinstance(cursor, Mapping) else None
    if not isinstance(batch, list):
        raise _odd("cursor")
    return cast("list[Mapping[str, object]]", batch)


def _integer(document: Mapping[str, object], name: str) -> int:
    """An integer of a reply."""
    value = document.get(name)
    if not isinstance(value, int):
        raise _odd(name)
    return value


def _odd(what: str) -> StoreMisbehaved:
    """A reply that MongoDB does not give."""
    return StoreMisbehaved(
        f"the server's reply ({what}) is none that MongoDB gives: is something else at this address?"
    )
