"""The DynamoDB dialect: every operation as one conditional ``UpdateItem``, judged by the machine where it fails.

A claim is tried as the claim of an absent key. If the condition fails, the old item comes back in the same round trip,
and ``machine.step`` says what it means: busy, replay, mismatch, the caller's own claim, abandoned, backing off. Only
what has to change a living record (a takeover, a retry after a failure) needs a second conditional write, on the very
version that was read; who loses that race judges again. Nothing here does I/O or knows a client.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from idemstore.backends.dynamodb import chunks, expressions, purge, schema
from idemstore.backends.dynamodb.chunks import Parts
from idemstore.backends.dynamodb.clock import Reading
from idemstore.backends.dynamodb.messages import (
    CONDITIONAL,
    CONFLICT,
    OK,
    Ask,
    Attr,
    Item,
    Params,
    Reply,
    Request,
    binary,
    fixed,
    number,
    text,
)
from idemstore.backends.dynamodb.record import ID, Stored, decode, item_of, ttl
from idemstore.errors import CorruptRecord, ResultTooLarge, StoreMisbehaved
from idemstore.exchange import Exchange, Limits, Snapshot
from idemstore.machine import Claim, Complete, Event, Fail, Phase, Record, Release, Renew, phase, step
from idemstore.outcomes import Claimed, ClaimOutcome, Completed, Done, Failed, InFlight, SettleOutcome

T = TypeVar("T")

KEY_BYTES: Final = 2048 - chunks.ID_BYTES
"""DynamoDB takes 2,048 bytes; the id of a part must fit, too."""
CHECKPOINT: Final = 300_000
"""Bytes of a checkpoint. It lies in the record itself, where a failure's result must fit beside it."""
BESIDE: Final = 100_000
"""Bytes of a failure's result that lie in the record itself."""
WHOLE: Final = 390_000
"""Bytes of a result that fit into the record beside key, token and fingerprint."""
PING: Final = "%ping"
"""An id that no key and no part can have."""


class DynamoDBDialect:
    """Operations as requests of the low-level client on one table."""

    def __init__(self, table: str, max_result: int, in_place: int = WHOLE) -> None:
        """``in_place``: bytes of a result that are stored in the record itself, not in parts."""
        self.limits = Limits(key_bytes=KEY_BYTES, value_bytes=max_result)
        self.table = table
        self._in_place = in_place

    # -- claim --------------------------------------------------------------------------------------------------------

    def claim(self, key: str, event: Claim) -> Ask[ClaimOutcome]:
        """One conditional write; the rest is judged from the item that made its condition fail."""

        def parse(reply: Reply) -> ClaimOutcome | Ask[ClaimOutcome]:
            if reply.code == OK:
                return Claimed(event.token, reply.reading.late, 1)
            return self._judge_claim(key, event, reply)

        return self._write(lambda now: expressions.start(self.table, key, event, now), parse)

    def _judge_claim(self, key: str, event: Claim, reply: Reply) -> ClaimOutcome | Ask[ClaimOutcome]:
        """What the machine says of the item that was there."""
        item = item_of(reply.body, "Item")
        if item is None:
            return self.claim(key, event)
        seen = decode(item)
        after, outcome = step(seen.record, event, reply.reading.early)
        if after is not seen.record:
            assert after is not None, "a claim never deletes"
            return self._seize(key, event, seen, after.attempt)
        return self._answer(key, seen, outcome, reply.reading)

    def _seize(self, key: str, event: Claim, seen: Stored, attempt: int) -> Ask[ClaimOutcome]:
        """A takeover, or a retry after a failure: on the version that was read, or judged again."""
        checkpoint = seen.record.checkpoint if attempt > 1 else None

        def build(now: Reading) -> Params:
            return expressions.seize(self.table, key, event, seen, attempt, now)

        def parse(reply: Reply) -> ClaimOutcome | Ask[ClaimOutcome]:
            if reply.code == OK:
                return Claimed(event.token, expressions.next_fence(seen, reply.reading), attempt, checkpoint)
            return self._judge_claim(key, event, reply)

        return self._write(build, parse)

    def _answer(self, key: str, seen: Stored, outcome: ClaimOutcome, now: Reading) -> ClaimOutcome | Ask[ClaimOutcome]:
        """An outcome that changes nothing, with the result's parts and with times as this clock knows them."""
        match outcome:
            case Completed() if seen.parts is not None:
                return self._load(key, seen.parts, Completed)
            case Failed():
                retry_at = seen.record.retry_at
                wait = None if retry_at is None else now.until(retry_at)
                if seen.parts is not None:
                    return self._load(key, seen.parts, lambda result: Failed(result, wait))
                return replace(outcome, retry_after=wait)
            case InFlight():
                assert seen.record.lease_until is not None, "an in-flight record has a lease"
                return InFlight(now.until(seen.record.lease_until))
            case _:
                return outcome

    # -- complete, fail, renew, release -------------------------------------------------------------------------------

    def complete(self, key: str, event: Complete) -> Ask[SettleOutcome]:
        """Parts first, if the result is large; then the one conditional write that counts."""
        result, parts = self._value(key, event.token, event.retention, event.result, self._in_place)
        settle = self._settle(
            key,
            event,
            lambda now: expressions.complete(self.table, key, event.token, result, event.retention, now),
        )
        return self._store(key, event.retention, parts, settle)

    def fail(self, key: str, event: Fail) -> Ask[SettleOutcome]:
        """As ``complete``."""
        in_place = min(self._in_place, BESIDE)
        result, parts = self._value(key, event.token, event.retention, event.result, in_place)
        settle = self._settle(
            key,
            event,
            lambda now: expressions.fail(self.table, key, event.token, result, event.retention, event.retry_after, now),
        )
        return self._store(key, event.retention, parts, settle)

    def renew(self, key: str, event: Renew) -> Ask[SettleOutcome]:
        """One conditional write."""
        if event.checkpoint is not None and len(event.checkpoint) > CHECKPOINT:
            raise ResultTooLarge(
                f"a checkpoint of {len(event.checkpoint)} bytes is over this store's limit of {CHECKPOINT}: nothing "
                "was stored and the claim still stands; store it elsewhere and a reference to it here"
            )
        return self._settle(
            key,
            event,
            lambda now: expressions.renew(self.table, key, event.token, event.lease, event.checkpoint, now),
        )

    def release(self, key: str, event: Release) -> Ask[SettleOutcome]:
        """One conditional write."""
        return self._settle(key, event, lambda now: expressions.release(self.table, key, event.token, now))

    def _settle(
        self, key: str, event: Complete | Fail | Renew | Release, build: Callable[[Reading], Params]
    ) -> Ask[SettleOutcome]:
        """A write by the owner; where it is refused, the machine says what that means."""

        def parse(reply: Reply) -> SettleOutcome | Ask[SettleOutcome]:
            return Done() if reply.code == OK else _refused(event, reply)

        return self._write(build, parse)

    def _value(
        self, key: str, token: str, retention: int | None, data: bytes, in_place: int
    ) -> tuple[Attr, tuple[Parts, list[bytes]] | None]:
        """A result as the record holds it, and the parts that must be written before."""
        if len(data) <= in_place:
            return binary(data), None
        divided = chunks.divide(key, token, retention, data)
        return text(divided[0].pointer()), divided

    def transact(self, key: str, event: Complete, now: Reading) -> Params:
        """A completion as an entry of the caller's own transaction. Its result must fit into the record."""
        if len(event.result) > WHOLE:
            raise ResultTooLarge(
                f"a result of {len(event.result)} bytes does not fit into one item ({WHOLE}), which a transaction "
                "needs: store it elsewhere and a reference to it here"
            )
        return {
            "Update": expressions.complete(self.table, key, event.token, binary(event.result), event.retention, now)
        }

    # -- parts --------------------------------------------------------------------------------------------------------

    def _store(
        self, key: str, retention: int | None, divided: tuple[Parts, list[bytes]] | None, then: Ask[T]
    ) -> Ask[T]:
        """Write parts, some in each round trip, then go on."""
        if divided is None:
            return then
        pieces = dict(zip(divided[0].ids(key), divided[1], strict=True))
        for ids in reversed(chunks.batches(list(pieces), chunks.PER_WRITE)):
            then = self._put({part: pieces[part] for part in ids}, key, retention, then)
        return then

    def _put(self, pieces: dict[str, bytes], key: str, retention: int | None, then: Ask[T]) -> Ask[T]:
        """Write a few parts; what the server did not get round to is sent again."""

        def build(now: Reading) -> Params:
            ends = now.late + (retention or 0)
            attrs: dict[str, Attr] = {chunks.OWNER: text(key), chunks.CHECK: number(ttl(ends) * 1_000_000)}
            if retention is not None:
                attrs["ttl_at"] = number(ttl(ends))
            puts = [
                {"PutRequest": {"Item": {ID: text(part), chunks.DATA: binary(data), **attrs}}}
                for part, data in pieces.items()
            ]
            return {"RequestItems": {self.table: puts}}

        return self._batch(Request("batch_write_item", build, clocked=True), then)

    def _batch(self, request: Request, then: Ask[T]) -> Ask[T]:
        """A batch write, until nothing of it is left over."""

        def parse(reply: Reply) -> T | Ask[T]:
            left = item_of(reply.body, "UnprocessedItems")
            if left is not None:
                return self._batch(fixed("batch_write_item", {"RequestItems": left}).later(), then)
            return then

        return Exchange(request, parse)

    def _load(self, key: str, parts: Parts, make: Callable[[bytes], T]) -> Ask[T]:
        """Read the parts of a result, strongly consistent, some in each round trip; then check and join them."""
        return self._fetch(key, parts, [list(ids) for ids in chunks.batches(parts.ids(key), chunks.PER_READ)], [], make)

    def _fetch(
        self, key: str, parts: Parts, due: list[list[str]], found: list[Item], make: Callable[[bytes], T]
    ) -> Ask[T]:
        """Read the first batch that is due."""
        keys = [{ID: text(part)} for part in due[0]]
        request = fixed("batch_get_item", {"RequestItems": {self.table: {"Keys": keys, "ConsistentRead": True}}})
        return self._collect(request, key, parts, due[1:], found, make)

    def _collect(
        self,
        request: Request,
        key: str,
        parts: Parts,
        due: list[list[str]],
        found: list[Item],
        make: Callable[[bytes], T],
    ) -> Ask[T]:
        """Keep what came; ask again for what the server did not get round to; then for the next batch."""

        def parse(reply: Reply) -> T | Ask[T]:
            have = [*found, *chunks.found_items(reply.body, self.table)]
            left = item_of(reply.body, "UnprocessedKeys")
            if left is not None:
                again = fixed("batch_get_item", {"RequestItems": left})
                return self._collect(again.later() if len(have) == len(found) else again, key, parts, due, have, make)
            if due:
                return self._fetch(key, parts, due, have, make)
            return make(chunks.join(key, parts, have))

        return Exchange(request, parse)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Ask[Snapshot | None]:
        """One strongly consistent read."""

        def parse(reply: Reply) -> Snapshot | Ask[Snapshot | None] | None:
            item = item_of(reply.body, "Item")
            if item is None:
                return None
            seen, now = decode(item), reply.reading
            if phase(seen.record, now.early) is Phase.ABSENT:
                return None
            if seen.parts is None:
                return Snapshot(seen.record, now.late)
            return self._load(key, seen.parts, lambda data: Snapshot(seen.record._replace(result=data), now.late))

        return Exchange(self._read(key), parse)

    def forget(self, key: str) -> Ask[bool]:
        """Bury a record, keeping its fence; delete what is no record of ours."""

        def parse(reply: Reply) -> bool | Ask[bool]:
            if reply.code == OK:
                return True
            item = item_of(reply.body, "Item")
            if item is None or _is_grave(item):
                return False
            return Exchange(fixed("delete_item", {"TableName": self.table, "Key": {ID: text(key)}}), lambda _: True)

        return self._write(lambda now: expressions.forget(self.table, key, now), parse)

    def purge(self, limit: int) -> Ask[int]:
        """A scan, page by page, and a conditional write for each record that goes."""
        return purge.purge(self.table, limit)

    def ping(self) -> Ask[int]:
        """A read of an item that is never there; its response dates itself. The early end never goes back."""

        def parse(reply: Reply) -> int:
            return reply.reading.early

        return Exchange(self._read(PING), parse)

    def migrate(self) -> Ask[None]:
        """Create the table and switch its TTL on, whatever of it is missing."""
        return schema.migrate(self.table)

    def _read(self, key: str) -> Request:
        """One strongly consistent read."""
        return probe(self.table, key)

    def _write(self, build: Callable[[Reading], Params], parse: Callable[[Reply], T | Ask[T]]) -> Ask[T]:
        """A conditional write; where a transaction holds the item, it is sent again after a pause."""

        def read(reply: Reply) -> T | Ask[T]:
            return Exchange(request.later(), read) if reply.code == CONFLICT else parse(reply)

        request = Request("update_item", build, CONDITIONAL, clocked=True)
        return Exchange(request, read)


def probe(table: str, key: str = PING) -> Request:
    """One strongly consistent read; of an item that is never there, to learn the clock."""
    return fixed("get_item", {"TableName": table, "Key": {ID: text(key)}, "ConsistentRead": True})


def _refused(event: Complete | Fail | Renew | Release, reply: Reply) -> SettleOutcome:
    """What the machine says to an owner whose condition failed."""
    item = item_of(reply.body, "Item")
    record: Record | None = None
    if item is not None:
        seen = decode(item)
        record = None if phase(seen.record, reply.reading.early) is Phase.ABSENT else _comparable(seen, event)
    after, outcome = step(record, event, reply.reading.early)
    if after is not record:
        raise StoreMisbehaved("DynamoDB refused a condition that the item it sent back fulfils: report this")
    return outcome


def _comparable(seen: Stored, event: Event) -> Record:
    """The record with its result in place where it is the event's, so that the machine can compare the two."""
    if seen.parts is None or not isinstance(event, Complete | Fail):
        return seen.record
    return seen.record._replace(result=event.result if seen.parts.holds(event.result) else None)


def _is_grave(item: Item) -> bool:
    """Whether only the fence of a key is left."""
    try:
        return decode(item).ends == 0
    except CorruptRecord:
        return False
