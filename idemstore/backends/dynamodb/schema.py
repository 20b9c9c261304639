"""The table: how ``migrate`` makes it, waits for it and switches its TTL on, and what its shape must be."""

from collections.abc import Mapping
from typing import Final

from idemstore.backends.dynamodb import messages
from idemstore.backends.dynamodb.messages import IN_USE, MISSING, Ask, Reply, fixed
from idemstore.backends.dynamodb.record import ID, TTL
from idemstore.errors import SchemaError
from idemstore.exchange import Exchange

POLL: Final = 0.5
"""Seconds between two looks at a table that is being made."""
SHAPE: Final = [{"AttributeName": ID, "KeyType": "HASH"}]
TYPES: Final = [{"AttributeName": ID, "AttributeType": "S"}]


def migrate(table: str) -> Ask[None]:
    """Look first, so that a second run needs no right to create anything."""
    return _look(table, 0.0, create=True)


def _look(table: str, delay: float, *, create: bool) -> Ask[None]:
    """Wait until the table is there and active."""

    def parse(reply: Reply) -> Ask[None] | None:
        if reply.code == MISSING:
            return _create(table) if create else _look(table, POLL, create=False)
        found = reply.body.get("Table")
        described: Mapping[str, object] = found if isinstance(found, Mapping) else {}
        check(table, described)
        if described.get("TableStatus") in ("ACTIVE", "UPDATING"):
            return _ttl(table)
        return _look(table, POLL, create=False)

    return Exchange(fixed("describe_table", {"TableName": table}, frozenset({MISSING}), delay), parse)


def check(table: str, described: Mapping[str, object]) -> None:
    """Raise ``SchemaError`` unless the table has our key: one string named ``id``, and nothing else."""
    named = [
        {str(name): str(value) for name, value in attr.items()} for attr in _list(described, "AttributeDefinitions")
    ]
    if _list(described, "KeySchema") != SHAPE or TYPES[0] not in named:
        raise wrong_shape(table)


def wrong_shape(table: str) -> SchemaError:
    """The error for a table that is not ours."""
    return SchemaError(
        f"table {table!r} has another key than idemstore's (one partition key {ID!r}, a string, and no sort key): "
        "name another table in the store URL, and run 'idemstore migrate URL' to create it"
    )


def _list(described: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    """A list inside a description."""
    found = described.get(name)
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _create(table: str) -> Ask[None]:
    """Create it, on demand; somebody else may be doing the same."""
    params: dict[str, object] = {
        "TableName": table,
        "KeySchema": SHAPE,
        "AttributeDefinitions": TYPES,
        "BillingMode": "PAY_PER_REQUEST",
    }
    request = fixed("create_table", params, frozenset({IN_USE}))
    return Exchange(request, lambda _: _look(table, 0.0, create=False))


def _ttl(table: str, *, tried: bool = False) -> Ask[None]:
    """Switch TTL on, unless it is."""

    def parse(reply: Reply) -> Ask[None] | None:
        found = reply.body.get("TimeToLiveDescription")
        described: Mapping[str, object] = found if isinstance(found, Mapping) else {}
        status, name = described.get("TimeToLiveStatus"), described.get("AttributeName")
        if status not in ("ENABLED", "ENABLING"):
            if tried:
                raise SchemaError(
                    f"the TTL of table {table!r} cannot be switched on now (AWS takes one change an hour; it is "
                    f"{status}): run 'idemstore migrate URL' again later; the table can be used meanwhile"
                )
            return _enable(table)
        if name != TTL:
            raise SchemaError(
                f"table {table!r} expires its items by {name!r}, idemstore by {TTL!r}: "
                "switch that TTL off, or name another table in the store URL"
            )
        return None

    return Exchange(fixed("describe_time_to_live", {"TableName": table}), parse)


def _enable(table: str) -> Ask[None]:
    """Switch TTL on. The table may have become busy again; if somebody else was faster, that is said to be invalid."""
    specification = {"Enabled": True, "AttributeName": TTL}
    params: dict[str, object] = {"TableName": table, "TimeToLiveSpecification": specification}

    def parse(reply: Reply) -> Ask[None] | None:
        match reply.code:
            case messages.OK:
                return None
            case messages.IN_USE:
                return _look(table, POLL, create=False)
            case _:
                return _ttl(table, tried=True)

    answers = frozenset({messages.IN_USE, messages.INVALID})
    return Exchange(fixed("update_time_to_live", params, answers), parse)
