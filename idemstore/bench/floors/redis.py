"""Redis and Valkey: a write is ``EVALSHA`` of ``return 1`` with key and result as arguments, a read is ``GET``.

The least that any script call costs: the script does nothing. Through redis-py and its usual pool, with a connection
for each caller (its pool that makes callers wait is slower); clusters through redis-py's own client of a cluster.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel

from idemstore.backends.redis.options import Target, Topology, read_target
from idemstore.url import parse_url

SCRIPT: Final = "return 1"
KEPT: Final = 3600
"""Seconds that seeded rows are kept where a run does not come to its end."""
CONNECTIONS: Final = 5000
TIMEOUT: Final = 20.0


class Client(Protocol):
    """What is used of a sync client of redis-py, which types none of it."""

    def script_load(self, script: str) -> str:
        """Load a script."""
        ...

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: str | bytes) -> object:
        """Run a script."""
        ...

    def set(self, name: str, value: bytes, ex: int) -> object:
        """Store a string."""
        ...

    def get(self, name: str) -> object:
        """Read one."""
        ...

    def delete(self, name: str) -> int:
        """Delete a key."""
        ...

    def info(self, section: str) -> dict[str, object]:
        """About the server."""
        ...

    def close(self) -> None:
        """Close the connections."""


class AsyncClient(Protocol):
    """The same, async."""

    async def script_load(self, script: str) -> str:
        """Load a script."""
        ...

    async def evalsha(self, sha: str, numkeys: int, *keys_and_args: str | bytes) -> object:
        """Run a script."""
        ...

    async def set(self, name: str, value: bytes, ex: int) -> object:
        """Store a string."""
        ...

    async def get(self, name: str) -> object:
        """Read one."""
        ...

    async def delete(self, name: str) -> int:
        """Delete a key."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""


Settings = dict[str, str | int | float | bool | None]


def credentials(target: Target) -> Settings:
    """Who, how long, and TLS."""
    options = target.options
    found: Settings = {"username": target.username, "password": target.password}
    found |= {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    if target.tls:
        found |= {
            "ssl": True,
            "ssl_ca_certs": options.ca_certs,
            "ssl_certfile": options.certfile,
            "ssl_keyfile": options.keyfile,
            "ssl_cert_reqs": options.cert_reqs,
            "ssl_check_hostname": options.check_hostname,
        }
    return found


def bounded(target: Target) -> Settings:
    """What a client of one server is given besides its pool's own."""
    address = target.addresses[0]
    place: Settings = {"host": address.host, "port": address.port} if address.port else {"path": address.host}
    return {**credentials(target), **place, "db": target.db, "max_connections": CONNECTIONS}


def connect(url: str) -> Client:
    """A sync client."""
    target = read_target(parse_url(url))
    match target.topology:
        case Topology.CLUSTER:
            make = cast("Callable[..., Client]", redis.cluster.RedisCluster)
            return make(*target.addresses[0], max_connections=CONNECTIONS, **credentials(target))
        case Topology.SENTINEL:
            watch = cast("Callable[..., redis.sentinel.Sentinel]", redis.sentinel.Sentinel)
            sentinel = watch(target.addresses)
            make = cast("Callable[..., Client]", sentinel.master_for)
            return make(target.options.service, max_connections=CONNECTIONS, **credentials(target))
        case Topology.ONE:
            settings = bounded(target)
            tls = bool(settings.pop("ssl", False))
            kind = redis.UnixDomainSocketConnection if "path" in settings else redis.Connection
            pool = cast("Callable[..., redis.ConnectionPool]", redis.ConnectionPool)
            made = pool(connection_class=redis.SSLConnection if tls else kind, **settings)
            return cast("Client", redis.Redis(connection_pool=made))


def connect_async(url: str) -> AsyncClient:
    """An async client."""
    target = read_target(parse_url(url))
    match target.topology:
        case Topology.CLUSTER:
            make = cast("Callable[..., AsyncClient]", redis.asyncio.cluster.RedisCluster)
            return make(*target.addresses[0], max_connections=CONNECTIONS, **credentials(target))
        case Topology.SENTINEL:
            watch = cast("Callable[..., redis.asyncio.sentinel.Sentinel]", redis.asyncio.sentinel.Sentinel)
            sentinel = watch(target.addresses)
            make = cast("Callable[..., AsyncClient]", sentinel.master_for)
            return make(target.options.service, max_connections=CONNECTIONS, **credentials(target))
        case Topology.ONE:
            settings = bounded(target)
            tls = bool(settings.pop("ssl", False))
            kind = redis.asyncio.UnixDomainSocketConnection if "path" in settings else redis.asyncio.Connection
            pool = cast("Callable[..., redis.asyncio.ConnectionPool]", redis.asyncio.ConnectionPool)
            made = pool(connection_class=redis.asyncio.SSLConnection if tls else kind, **settings)
            return cast("AsyncClient", redis.asyncio.Redis(connection_pool=made))


class RedisBare:
    """Sync."""

    def __init__(self, client: Client, stem: str) -> None:
        self._client, self._stem = client, stem
        self._digest = client.script_load(SCRIPT)
        self._seeded: list[str] = []

    def insert(self, key: str) -> object:
        """``EVALSHA`` with the key."""
        return self._client.evalsha(self._digest, 1, self._stem + key)

    def update(self, key: str, result: bytes) -> object:
        """``EVALSHA`` with key and result."""
        return self._client.evalsha(self._digest, 1, self._stem + key, result)

    def seed(self, key: str, result: bytes) -> object:
        """``SET``."""
        self._seeded.append(self._stem + key)
        return self._client.set(self._stem + key, result, ex=KEPT)

    def read(self, key: str) -> object:
        """``GET``."""
        return self._client.get(self._stem + key)

    def close(self) -> None:
        """Delete what was seeded and close the connections."""
        for name in self._seeded:
            self._client.delete(name)
        self._client.close()


class AsyncRedisBare:
    """Async. Its methods hand the client's own coroutines on."""

    def __init__(self, client: AsyncClient, stem: str, digest: str) -> None:
        self._client, self._stem, self._digest = client, stem, digest
        self._seeded: list[str] = []

    def insert(self, key: str) -> Awaitable[object]:
        """As ``RedisBare``."""
        return self._client.evalsha(self._digest, 1, self._stem + key)

    def update(self, key: str, result: bytes) -> Awaitable[object]:
        """As ``RedisBare``."""
        return self._client.evalsha(self._digest, 1, self._stem + key, result)

    def seed(self, key: str, result: bytes) -> Awaitable[object]:
        """As ``RedisBare``."""
        self._seeded.append(self._stem + key)
        return self._client.set(self._stem + key, result, ex=KEPT)

    def read(self, key: str) -> Awaitable[object]:
        """As ``RedisBare``."""
        return self._client.get(self._stem + key)

    async def close(self) -> None:
        """As ``RedisBare``."""
        for name in self._seeded:
            await self._client.delete(name)
        await self._client.aclose()


def stem_of(run: str) -> str:
    """What the names of all rows begin with."""
    return f"idemstore-floor-{run}:"


class RedisFloor:
    """See the module."""

    packages: tuple[str, ...] = ("redis",)
    failures: tuple[type[Exception], ...] = (redis.RedisError, OSError, asyncio.TimeoutError)

    def prepare(self, url: str, run: str) -> str:
        """Ask for the version."""
        client = connect(url)
        try:
            info = client.info("server")
        finally:
            client.close()
        if "redis_version" not in info:  # a cluster answers for each node
            info = cast("dict[str, object]", next(iter(info.values())))
        name = "Valkey" if "valkey_version" in info else "Redis"
        return f"{name} {info.get('valkey_version', info['redis_version'])}"

    def drop(self, url: str, run: str) -> None:
        """Each client deletes what it seeded; a run that is killed leaves that for an hour."""

    def open(self, url: str, run: str) -> RedisBare:
        """Sync."""
        return RedisBare(connect(url), stem_of(run))

    async def open_async(self, url: str, run: str) -> AsyncRedisBare:
        """Async."""
        client = connect_async(url)
        return AsyncRedisBare(client, stem_of(run), await client.script_load(SCRIPT))


floor: Final = RedisFloor()
