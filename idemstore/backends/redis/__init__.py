"""Redis and Valkey, by redis-py: one server, Cluster or Sentinel; sync and asyncio; TCP, TLS or a Unix socket.

    redis://[user:password@]host[:port][/db]     rediss:// with TLS; valkey:// and valkeys:// mean the same
    redis+unix:///path/to/socket?db=0            unix:// means the same
    redis+cluster://host[:port],host[:port]...   rediss+cluster:// with TLS
    redis+sentinel://host[:port],.../db?service=mymaster    rediss+sentinel:// with TLS

One record is one hash, every operation one Lua script and one round trip; see docs/redis.md for what that guarantees.
"""

from typing import TYPE_CHECKING, Final

from idemstore.backends.redis.dialect import RedisDialect, key_of
from idemstore.backends.redis.options import Target, read_target
from idemstore.registry import need
from idemstore.store import Store
from idemstore.url import StoreUrl

if TYPE_CHECKING:
    from idemstore.async_store import AsyncStore


class RedisBackend:
    """Serves all Redis and Valkey URLs. redis-py is imported when one is opened."""

    def open(self, url: StoreUrl) -> Store:
        """A sync store."""
        target, dialect = _prepare(url)
        from idemstore.backends.redis.sync import RedisDriver

        return Store(dialect, lambda: RedisDriver(target), timeout=target.options.timeout, name=str(url))

    def open_async(self, url: StoreUrl) -> "AsyncStore":
        """An async store."""
        target, dialect = _prepare(url)
        from idemstore.async_store import AsyncStore
        from idemstore.backends.redis.aio import AsyncRedisDriver
        from idemstore.coalesce import Coalescing

        return AsyncStore(
            dialect,
            lambda: AsyncRedisDriver(target),
            timeout=target.options.timeout,
            name=str(url),
            coalesce=Coalescing(key_of, width=2),
        )


def _prepare(url: StoreUrl) -> tuple[Target, RedisDialect]:
    """What both modes need; every mistake in the URL is found here."""
    need("redis", "redis")
    target = read_target(url)
    from idemstore.backends.redis.connect import check_client

    check_client()
    options = target.options
    dialect = RedisDialect(options.prefix, options.max_result, touch=options.replicas > 0, notify=options.notify)
    return target, dialect


backend: Final = RedisBackend()
