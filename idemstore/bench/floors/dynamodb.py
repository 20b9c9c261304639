"""DynamoDB: a write is ``PutItem`` of one item, a read a strongly consistent ``GetItem``.

Through boto3 or aiobotocore, as one gets them but for the number of connections, which is the store's; in the store's
own table, under keys of this run that carry an attribute by which DynamoDB's TTL removes them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, Protocol, cast

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from idemstore.backends.dynamodb.calls import target as target_of
from idemstore.backends.dynamodb.profile import equip, equipped
from idemstore.backends.dynamodb.settings import Mode, Settings, read_settings
from idemstore.bench.bare import Bare
from idemstore.url import parse_url

KEPT: Final = 3600
Item = dict[str, dict[str, str | bytes]]


class Client(Protocol):
    """What is used of a low-level client, of either mode."""

    def put_item(self, *, TableName: str, Item: Item) -> object:  # noqa: N803 - AWS's names
        """Write an item."""
        ...

    def get_item(self, *, TableName: str, Key: Item, ConsistentRead: bool) -> object:  # noqa: N803
        """Read one."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def stem_of(run: str) -> str:
    """What all keys begin with."""
    return f"idemstore-floor-{run}-"


class DynamoDBBare:
    """Either mode: the calls of an async client return awaitables."""

    def __init__(self, client: Client, table: str, run: str, close: Callable[[], object]) -> None:
        self._client, self._table, self._stem, self._close = client, table, stem_of(run), close
        self._ttl = str(int(time.time()) + KEPT)

    def _put(self, key: str, result: bytes) -> object:
        """One item."""
        item: Item = {"id": {"S": self._stem + key}, "data": {"B": result}, "ttl_at": {"N": self._ttl}}
        return self._client.put_item(TableName=self._table, Item=item)

    def insert(self, key: str) -> object:
        """``PutItem``."""
        return self._put(key, b"-")

    def update(self, key: str, result: bytes) -> object:
        """``PutItem`` with the result."""
        return self._put(key, result)

    seed = update

    def read(self, key: str) -> object:
        """``GetItem``."""
        where: Item = {"id": {"S": self._stem + key}}
        return self._client.get_item(TableName=self._table, Key=where, ConsistentRead=True)

    def close(self) -> object:
        """Close the connections."""
        return self._close()


def _settings(url: str, mode: Mode) -> Settings:
    """What the URL says."""
    return read_settings(parse_url(url), mode)[1]


class DynamoDBFloor:
    """See the module."""

    packages: tuple[str, ...] = ("boto3", "botocore", "aiobotocore")
    failures: tuple[type[Exception], ...] = (ClientError, BotoCoreError, OSError, asyncio.TimeoutError)

    def prepare(self, url: str, run: str) -> str:
        """The store's table is there; DynamoDB tells no version."""
        return ""

    def drop(self, url: str, run: str) -> None:
        """The items go by their TTL, within the hour; in a table of a test server, with the table."""

    def open(self, url: str, run: str) -> Bare:
        """Sync."""
        settings = _settings(url, "sync")
        config = Config(max_pool_connections=settings.connections)
        session = boto3.Session(botocore_session=equipped(settings.profile))
        client = cast("Client", session.client("dynamodb", config=config, **target_of(settings)))
        return DynamoDBBare(client, settings.table, run, client.close)

    async def open_async(self, url: str, run: str) -> Bare:
        """Async."""
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
        from aiobotocore.session import AioSession  # type: ignore[import-untyped]

        settings = _settings(url, "async")
        session = AioSession(profile=settings.profile)
        equip(session)
        stack = AsyncExitStack()
        config = AioConfig(max_pool_connections=settings.connections)
        made = session.create_client("dynamodb", config=config, **target_of(settings))
        client = cast("Client", await stack.enter_async_context(made))
        return DynamoDBBare(client, settings.table, run, cast("Callable[[], Awaitable[None]]", stack.aclose))


floor: Final = DynamoDBFloor()
