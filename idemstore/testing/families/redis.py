"""The Redis family under test: one server, Cluster or Sentinel, under a prefix of its own."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import redis
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel

from idemstore.backends.redis.options import Address, Target, Topology, read_target
from idemstore.machine import MICROSECONDS
from idemstore.testing.servers import Server
from idemstore.url import parse_url

AGE: Final = """
for _, name in ipairs({'lease_until', 'expires_at', 'retry_at'}) do
  local moment = redis.call('HGET', KEYS[1], name)
  if moment then
    redis.call('HSET', KEYS[1], name, string.format('%.0f', moment - ARGV[1]))
  end
end
local left = redis.call('PTTL', KEYS[1])
if left >= 0 then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left - ARGV[1] / 1000))
end
"""


class Client(Protocol):
    """What a subject needs of a client of redis-py, which types none of it."""

    def eval(self, script: str, numkeys: int, *keys_and_args: str | bytes | int) -> object:
        """Run a script."""

    def set(self, name: bytes, value: str) -> object:
        """Store a string, whatever was there."""

    def exists(self, name: bytes) -> int:
        """Whether a key is there."""
        ...

    def delete(self, name: bytes) -> int:
        """Delete a key."""
        ...

    def scan_iter(self, match: str, count: int) -> "list[bytes]":
        """All keys of a pattern."""
        ...

    def close(self) -> None:
        """Close the connections."""


class Sentinels(Protocol):
    """What a subject needs of the sentinels of redis-py, which types none of it either."""

    def master_for(self, service: str) -> Client:
        """A client of the master of the moment."""
        ...


def make(name: str, server: Server | None, directory: Path) -> "RedisSubject":
    """A prefix of its own on the server."""
    assert server is not None, "a Redis subject needs a server"
    return RedisSubject(name, server.url)


def connect(url: str) -> Client:
    """A plain client of redis-py for a store URL."""
    target = read_target(parse_url(url))
    match target.topology:
        case Topology.CLUSTER:
            return cast("Client", RedisCluster(*target.addresses[0]))
        case Topology.SENTINEL:
            watch = cast("Callable[[Sequence[Address]], Sentinels]", Sentinel)
            return watch(target.addresses).master_for(target.options.service or "")
        case Topology.ONE:
            return cast("Client", _single(target))


def _single(target: Target) -> "redis.Redis":
    """For one server; the harness tests over TCP and Unix sockets."""
    host, port = target.addresses[0]
    if port:
        return redis.Redis(host, port, target.db, username=target.username, password=target.password)
    return redis.Redis(unix_socket_path=host, db=target.db)


class RedisSubject:
    """Some keys of a Redis."""

    shared = True

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.prefix = f"test-{secrets.token_hex(6)}:"
        single = "&coalesce=0" if name.endswith("-single") else ""
        self.url = f"{url}{'&' if '?' in url else '?'}prefix={self.prefix}{single}"
        self.client = connect(url)

    def stored(self, key: str) -> bytes:
        """The name of the record in Redis."""
        return (self.prefix + key).encode()

    def age(self, key: str, seconds: float) -> None:
        """Move the record's times and what is left of its time to live."""
        self.client.eval(AGE, 1, self.stored(key), round(seconds * MICROSECONDS))

    def damage(self, key: str) -> None:
        """Put a string where a hash belongs."""
        self.client.set(self.stored(key), "not a record")

    def exists(self, key: str) -> bool:
        """Whether Redis has the key."""
        return bool(self.client.exists(self.stored(key)))

    def close(self) -> None:
        """Delete every key of the prefix."""
        for name in self.client.scan_iter(match=f"{self.prefix}*", count=1000):
            self.client.delete(name)
        self.client.close()
