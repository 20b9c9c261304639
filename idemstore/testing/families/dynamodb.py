"""The DynamoDB family under test: a table of its own on one server."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol, cast

import boto3  # type: ignore[import-untyped]

import idemstore
from idemstore.backends.dynamodb.profile import equipped
from idemstore.backends.dynamodb.record import NEVER
from idemstore.backends.dynamodb.schema import SHAPE, TYPES
from idemstore.machine import MICROSECONDS
from idemstore.testing.servers import Server
from idemstore.url import StoreUrl, parse_url

ACCESS: Final = "idemstore"
SECRET: Final = "idemstore"  # noqa: S105 - any will do
TIMEOUT: Final = "timeout=30"
"""DynamoDB Local answers a few hundred requests a second, all clients together, and scans 10 MB of them."""
SECONDS: Final = {"lease_until": 1, "expires_at": 1, "retry_at": 1, "check_at": 1, "ttl_at": MICROSECONDS}
"""The times of an item, and by what a microsecond must be divided to be in the attribute's unit."""

Item = Mapping[str, Mapping[str, str]]


class Client(Protocol):
    """What a subject needs of boto3's low-level client, which types none of it."""

    def get_item(self, *, TableName: str, Key: Item, ConsistentRead: bool) -> Mapping[str, Item]:  # noqa: N803
        """Read an item."""
        ...

    def put_item(self, *, TableName: str, Item: Item) -> object:  # noqa: N803
        """Replace an item."""
        ...

    def update_item(
        self,
        *,
        TableName: str,  # noqa: N803
        Key: Item,  # noqa: N803
        UpdateExpression: str,  # noqa: N803
        ExpressionAttributeValues: Item,  # noqa: N803
    ) -> object:
        """Change an item."""
        ...

    def create_table(
        self,
        *,
        TableName: str,  # noqa: N803
        KeySchema: list[dict[str, str]],  # noqa: N803
        AttributeDefinitions: list[dict[str, str]],  # noqa: N803
        BillingMode: str,  # noqa: N803
    ) -> object:
        """Create a table."""
        ...

    def delete_table(self, *, TableName: str) -> object:  # noqa: N803
        """Delete a table."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def make(name: str, server: Server | None, directory: Path) -> "DynamoDBSubject":
    """A table of its own on the server."""
    assert server is not None, "a DynamoDB subject needs a server"
    return DynamoDBSubject(name, server.url)


def url_of(server_url: str, table: str, *options: str) -> str:
    """The store URL of another table on the same server, with credentials (any will do)."""
    url = parse_url(server_url)
    query = "&".join([*(f"{name}={value}" for name, value in url.query), *options])
    return f"{url.scheme}://{ACCESS}:{SECRET}@{_netloc(url)}/{table}?{query}"


def connect(url: str) -> Client:
    """A plain low-level client for a store URL with a host."""
    parsed = parse_url(url)
    return cast(
        "Client",
        boto3.Session(botocore_session=equipped(None)).client(
            "dynamodb",
            endpoint_url=f"http://{_netloc(parsed)}",
            region_name=dict(parsed.query)["region"],
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
        ),
    )


def _netloc(url: StoreUrl) -> str:
    """The host as written."""
    return f"{url.hosts[0].name}:{url.hosts[0].port}"


class DynamoDBSubject:
    """A table."""

    shared = True

    def __init__(self, name: str, server_url: str, *options: str) -> None:
        self.name = name
        self.table = f"test-{secrets.token_hex(6)}"
        self.url = url_of(server_url, self.table, TIMEOUT, *options)
        self.client = connect(self.url)
        with idemstore.open(self.url) as store:
            store.migrate()

    def item(self, key: str) -> Item:
        """What lies under the key; empty where nothing does."""
        return self.client.get_item(TableName=self.table, Key={"id": {"S": key}}, ConsistentRead=True).get("Item", {})

    def age(self, key: str, seconds: float) -> None:
        """Move the record's times; "never" and the mark of a bare fence stay what they are."""
        by, found = round(seconds * MICROSECONDS), self.item(key)
        older = {
            name: int(found[name]["N"]) - by // unit
            for name, unit in SECONDS.items()
            if name in found and 0 < int(found[name]["N"]) < NEVER
        }
        if older:
            self.client.update_item(
                TableName=self.table,
                Key={"id": {"S": key}},
                UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in older),
                ExpressionAttributeValues={f":{name}": {"N": str(moment)} for name, moment in older.items()},
            )

    def damage(self, key: str) -> None:
        """Put an item of another program's in its place."""
        self.client.put_item(TableName=self.table, Item={"id": {"S": key}, "note": {"S": "not a record"}})

    def exists(self, key: str) -> bool:
        """Whether there is an item with a record, ours or not; a bare fence is none."""
        found = self.item(key)
        return bool(found) and found.get("expires_at") != {"N": "0"}

    def clear(self) -> None:
        """Replace the table by an empty one, without TTL: a scan takes the server 0.1 s for each megabyte."""
        self.client.delete_table(TableName=self.table)
        self.client.create_table(
            TableName=self.table, KeySchema=SHAPE, AttributeDefinitions=TYPES, BillingMode="PAY_PER_REQUEST"
        )

    def close(self) -> None:
        """Delete the table."""
        self.client.delete_table(TableName=self.table)
        self.client.close()
