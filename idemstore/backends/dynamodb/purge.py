"""Reclaim what has expired without waiting for DynamoDB's TTL: a scan, and a conditional write for each item that goes.

A record goes only if its own end is over by the early clock and the very version that the scan saw is still there, so a
living record never does. Where its fence is so young that a client whose clock is behind could claim the key with a
smaller one, the fence remains as a bare item, which a later purge or the TTL removes. Parts go when they are old enough
that no completion can be on its way to point to them, and their record points elsewhere.
"""

from dataclasses import dataclass, replace
from typing import Final

from idemstore.backends.dynamodb import chunks, expressions
from idemstore.backends.dynamodb.clock import Reading
from idemstore.backends.dynamodb.messages import (
    CONDITIONAL,
    OK,
    Ask,
    Item,
    Params,
    Reply,
    Request,
    fixed,
    number,
    text,
)
from idemstore.backends.dynamodb.record import EXPIRES, FENCE, ID, RESULT, integer, item_of, whole_number
from idemstore.exchange import Exchange

PAGE: Final = 1000
"""Items that the scan looks at in one round trip, at most; a page also ends at 1 MB."""
ENOUGH: Final = 1.5
"""A purge that has deleted something stops when fewer seconds than this are left of its call."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a purge has come."""

    table: str
    limit: int
    gone: int = 0
    after: Item | None = None
    """Where the next page begins; None: at the start."""
    due: tuple[Item, ...] = ()
    """Items of the page that are still to be looked at."""


def purge(table: str, limit: int) -> Ask[int]:
    """Go through the table until ``limit`` records are gone, or its end is reached, or the time is nearly up."""
    return _scan(Progress(table, limit))


def _scan(progress: Progress) -> Ask[int]:
    """Read one page of what has expired, strongly consistent."""

    def build(now: Reading) -> Params:
        params: Params = {
            "TableName": progress.table,
            "ConsistentRead": True,
            "Limit": PAGE,
            "FilterExpression": "(attribute_type(fence, :number) AND expires_at <= :early) OR check_at <= :early",
            "ProjectionExpression": "id, fence, expires_at, part_of",
            "ExpressionAttributeValues": {":early": number(now.early), ":number": text("N")},
        }
        if progress.after is not None:
            params["ExclusiveStartKey"] = progress.after
        return params

    def parse(reply: Reply) -> int | Ask[int]:
        items = reply.body.get("Items")
        after = item_of(reply.body, "LastEvaluatedKey")
        found = tuple(items) if isinstance(items, list) else ()
        return _next(replace(progress, due=found, after=after), reply)

    return Exchange(Request("scan", build, clocked=True), parse)


def _next(progress: Progress, reply: Reply) -> int | Ask[int]:
    """The next item of the page, or the next page."""
    if progress.gone >= progress.limit or (progress.gone and reply.left < ENOUGH):
        return progress.gone
    while progress.due:
        item, progress = progress.due[0], replace(progress, due=progress.due[1:])
        part = chunks.owner(item)
        if part is not None:
            return _examine(progress, item, *part)
        if whole_number(item, FENCE) and whole_number(item, EXPIRES):
            return _remove(progress, item)
    return progress.gone if progress.after is None else _scan(progress)


def _remove(progress: Progress, item: Item) -> Ask[int]:
    """Delete an expired record, or what is left of one, if it is still the one that the scan saw."""
    fence, ends = integer(item, FENCE), integer(item, EXPIRES)
    key = str(item[ID]["S"])

    def young(reply: Reply) -> int | Ask[int]:
        return _bury(progress, key, fence, ends) if reply.code != OK and ends else _count(progress, reply, ends)

    def build(now: Reading) -> Params:
        values = {":fence": number(fence), ":ends": number(ends), ":early": number(now.early)}
        return {
            "TableName": progress.table,
            "Key": {ID: text(key)},
            "ConditionExpression": "fence = :fence AND expires_at = :ends AND fence < :early",
            "ExpressionAttributeValues": values,
        }

    return Exchange(Request("delete_item", build, CONDITIONAL, clocked=True), young)


def _bury(progress: Progress, key: str, fence: int, ends: int) -> Ask[int]:
    """Leave only the fence of an expired record."""
    request = Request(
        "update_item",
        lambda now: expressions.bury(progress.table, key, fence, ends, now),
        CONDITIONAL,
        clocked=True,
    )
    return Exchange(request, lambda reply: _count(progress, reply, ends))


def _count(progress: Progress, reply: Reply, ends: int) -> int | Ask[int]:
    """A record that went counts; a bare fence does not."""
    return _next(replace(progress, gone=progress.gone + (1 if reply.code == OK and ends else 0)), reply)


def _examine(progress: Progress, item: Item, key: str, name: str) -> Ask[int]:
    """See whether the record still points to a part."""
    params: Params = {
        "TableName": progress.table,
        "Key": {ID: text(key)},
        "ConsistentRead": True,
        "ProjectionExpression": RESULT,
    }

    def parse(reply: Reply) -> int | Ask[int]:
        found = item_of(reply.body, "Item") or {}
        pointer = found.get(RESULT, {}).get("S")
        if isinstance(pointer, str) and pointer.startswith(f"{name}."):
            return _next(progress, reply)
        delete = fixed("delete_item", {"TableName": progress.table, "Key": {ID: item[ID]}})
        return Exchange(delete, lambda gone: _next(progress, gone))

    return Exchange(fixed("get_item", params), parse)
