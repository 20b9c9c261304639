"""DynamoDB by boto3 (sync) and aiobotocore (async): one conditional ``UpdateItem`` for each operation.

``dynamodb:///TABLE?region=REGION`` is AWS, ``dynamodb+http://HOST:PORT/TABLE?region=REGION`` another endpoint, such as
DynamoDB Local. See docs/dynamodb.md for clock and margin, limits, permissions and costs.
"""

from typing import Final

from idemstore.async_store import AsyncStore
from idemstore.backends.dynamodb.clock import ServerClock
from idemstore.backends.dynamodb.dialect import DynamoDBDialect
from idemstore.backends.dynamodb.settings import DynamoDBOptions, read_settings, shown
from idemstore.backends.dynamodb.store import DynamoDBAsyncStore, DynamoDBStore
from idemstore.machine import MICROSECONDS
from idemstore.registry import need
from idemstore.store import Store
from idemstore.url import StoreUrl

__all__ = ["DynamoDBAsyncStore", "DynamoDBStore", "backend"]


class DynamoDBBackend:
    """Serves ``dynamodb://`` and its variants."""

    def open(self, url: StoreUrl) -> Store:
        """A ``DynamoDBStore``."""
        options, settings = read_settings(url, "sync")
        need("boto3", "dynamodb")
        from idemstore.backends.dynamodb.profile import check_profile
        from idemstore.backends.dynamodb.sync import Boto3Driver

        check_profile(settings)
        clock = _clock(options)
        dialect = DynamoDBDialect(settings.table, options.max_result, options.in_place)
        return DynamoDBStore(
            dialect, lambda: Boto3Driver(settings, clock), clock, timeout=options.timeout, name=shown(url)
        )

    def open_async(self, url: StoreUrl) -> AsyncStore:
        """A ``DynamoDBAsyncStore``."""
        options, settings = read_settings(url, "async")
        need("aiobotocore", "dynamodb")
        from idemstore.backends.dynamodb.aio import AiobotocoreDriver
        from idemstore.backends.dynamodb.profile import check_profile

        check_profile(settings)
        clock = _clock(options)
        dialect = DynamoDBDialect(settings.table, options.max_result, options.in_place)
        return DynamoDBAsyncStore(
            dialect, lambda: AiobotocoreDriver(settings, clock), clock, timeout=options.timeout, name=shown(url)
        )


def _clock(options: DynamoDBOptions) -> ServerClock:
    """One clock for a store, whatever becomes of its drivers."""
    return ServerClock(int(options.margin * MICROSECONDS))


backend: Final = DynamoDBBackend()
