"""The families that this package tests, by the name of the subject: which module makes it, and on which server.

Every family module has one factory::

    def make(name: str, server: Server | None, directory: Path) -> Subject: ...

``name`` is the name in ``FAMILIES`` (and becomes ``Subject.name``; at the end of it, ``-single`` is a store that does
not coalesce); ``server`` is the running server that the entry
asks for, or None; ``directory`` is an empty directory of this subject alone, for files. ``make`` prepares what the
family needs (``migrate``), uses a name space that no other subject shares (a table or key prefix in the URL, a file of
its own), and ``Subject.close`` removes it. Modules are imported when a subject is made, never before, so an absent
client library hurts its own family only.

``Subject.age`` shifts lease, retention and retry time, and also whatever makes the server delete the record. It leaves
the fence alone. On a key that is absent it does nothing.
``Subject.damage`` raises ``NotImplementedError`` where no other program can reach the records (memory).
"""

import importlib
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple, Protocol, cast

from idemstore.testing.servers import Server
from idemstore.testing.subject import Subject


class Family(NamedTuple):
    """One subject: the module (of this package) that makes it, and the server (of ``testing.servers``)."""

    module: str
    server: str | None = None
    examples: int = 100
    """How many examples of the Hypothesis model a run takes, per mode."""
    package: str | None = None
    """The client library that it cannot do without."""
    resends: bool = False
    """Whether its drivers send a request again by themselves when the reply was lost."""
    proxied: bool = False
    """Whether its URL names the one host and port that all traffic goes to, so that a proxy can stand between."""
    sync: bool = True
    """Whether it has a sync mode, besides the async one that all have."""
    many: int = 620
    """How many keys a big batch has; more than one request takes, but where batches are slow."""
    extra: bool = False
    """Repeats what others show, on one more pair of server and client: tests run on it only where it is named, too."""
    part: tuple[str, ...] = ()
    """What of the contract runs on it where it is not named: one mode, or the topics (the contract's classes) that may
    go wrong on it alone. Nothing: all.
    """


class Make(Protocol):
    """The factory of a family module."""

    def __call__(self, name: str, server: Server | None, directory: Path) -> Subject:
        """Make a subject."""
        ...


POOLED: Final = (
    "ClaimContract",
    "SettleContract",
    "BatchContract",
    "TripContract",
    "ResendContract",
    "StormContract",
    "NetworkContract",
)
"""A pooler between client and server may break statements, transactions and connections, not the rules."""

TOGETHER: Final = (
    "ClaimContract",
    "SettleContract",
    "CancelContract",
    "RaceContract",
    "ResendContract",
    "StormContract",
    "ModelContract",
    "NetworkContract",
)
"""What travelling together might break; elsewhere it plays no part."""

TOLD: Final = ("WaitContract", "CancelContract")
"""How waiters are told plays no part elsewhere."""

FAMILIES: Final[dict[str, Family]] = {
    "memory": Family("memory", examples=200),
    "sqlite": Family("sqlite", examples=100),
    "sqlite-single": Family("sqlite", examples=30, sync=False, part=TOGETHER),
    "redis": Family("redis", "redis", package="redis", resends=True, proxied=True),
    "redis-single": Family("redis", "redis", 30, "redis", resends=True, proxied=True, sync=False, part=TOGETHER),
    "valkey": Family("redis", "valkey", package="redis", resends=True, proxied=True),
    "redis8": Family("redis", "redis8", package="redis", resends=True, proxied=True, extra=True),
    "redis-cluster": Family("redis", "redis-cluster", 50, "redis"),
    "redis-sentinel": Family("redis", "redis-sentinel", 50, "redis"),
    "dynamodb": Family("dynamodb", "dynamodb", 20, "boto3", resends=True, proxied=True),
    "postgresql": Family("postgresql", "postgresql", 40, "psycopg", resends=True, proxied=True, part=("async",)),
    "postgresql15": Family("postgresql", "postgresql15", 40, "psycopg", resends=True, proxied=True, extra=True),
    "postgresql-psycopg": Family("postgresql", "postgresql", 40, "psycopg", resends=True, proxied=True, extra=True),
    "postgresql15-psycopg": Family("postgresql", "postgresql15", 40, "psycopg", resends=True, proxied=True),
    "postgresql-notify": Family("postgresql", "postgresql", 40, "psycopg", resends=True, part=TOLD),
    "postgresql-single": Family(
        "postgresql", "postgresql", 15, "psycopg", resends=True, proxied=True, sync=False, part=TOGETHER
    ),
    "pgbouncer": Family("postgresql", "pgbouncer", 40, "psycopg", resends=True, proxied=True, part=POOLED),
    "mongodb": Family("mongodb", "mongodb", 15, "pymongo", resends=True, proxied=True, many=120),
    "mongodb-motor": Family("mongodb", "mongodb", 5, "motor", resends=True, proxied=True, sync=False, many=120),
}


def named() -> list[str]:
    """The subjects that IDEMSTORE_SUBJECTS names."""
    asked = re.findall(r"[^\s,]+", os.environ.get("IDEMSTORE_SUBJECTS", ""))
    unknown = [name for name in asked if name not in FAMILIES]
    if unknown:
        raise ValueError(f"IDEMSTORE_SUBJECTS names {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    return asked


def takes(name: str, mode: str, topic: str) -> bool:
    """Whether a run takes this topic of the contract, in this mode, on the subject."""
    part = FAMILIES[name].part
    if mode == "sync" and not FAMILIES[name].sync:
        return False
    return not part or name in named() or mode in part or topic in part


def names() -> list[str]:
    """The subjects that tests run on: those that IDEMSTORE_SUBJECTS names, or all that are there but the extra ones."""
    asked = named()
    usual = [name for name, family in FAMILIES.items() if not family.extra]
    there = [name for name in usual if find_spec(f"{__name__}.{FAMILIES[name].module}") is not None]
    return asked or there


def make(name: str, server: Server | None, directory: Path) -> Subject:
    """A subject by name."""
    module = importlib.import_module(f"{__name__}.{FAMILIES[name].module}")
    return cast("Make", module.make)(name, server, directory)
