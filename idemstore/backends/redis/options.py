"""Reads a Redis URL: which servers, how they are found, and with what the client connects. Pure: no client import."""

import os
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, NamedTuple

from idemstore.errors import InvalidUrl, UnknownOption
from idemstore.url import Options, StoreUrl, read_options

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
LARGEST_VALUE: Final = 512 * 2**20
"""What Redis takes as one value."""

_TLS_FAMILIES: Final = ("rediss", "valkeys")
_TLS_OPTIONS: Final = ("ca_certs", "ca_path", "certfile", "keyfile", "keyfile_password", "cert_reqs", "check_hostname")
_SENTINEL_OPTIONS: Final = ("service", "sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions(Options):
    """Options of every Redis URL. The TLS ones may be written as redis-py has them, with ``ssl_`` in front."""

    prefix: str = "idem:"
    """Stored in front of every key."""
    max_connections: int = field(default=50, metadata={"min": 1, "max": 10_000})
    """Most connections of one store to one server; a call beyond waits for one, within its time-out."""
    max_result: int = field(default=64 * 2**20, metadata={"min": 1, "max": LARGEST_VALUE})
    """Largest result or checkpoint, bytes."""
    replicas: int = field(default=0, metadata={"min": 0, "max": 100})
    """After a write, wait until this many replicas have it (``WAIT``), else raise ``StoreUnavailable``."""
    notify: bool = True
    """Wake waiters by pub/sub: one more connection of a store while somebody waits. False: they poll."""
    db: int | None = field(default=None, metadata={"min": 0, "max": 2**31 - 1})
    """Number of the database, for Unix sockets, whose path is taken; elsewhere it is the path: ``redis://host/2``."""
    service: str | None = None
    """Sentinel: the name of the master."""
    sentinel_username: str | None = None
    """Sentinel: its own user, where it asks for one."""
    sentinel_password: str | None = field(default=None, repr=False)
    """Sentinel: its own password."""
    ca_certs: str | None = None
    """TLS: file of the authorities to trust instead of the system's."""
    ca_path: str | None = None
    """TLS: directory of the authorities to trust."""
    certfile: str | None = None
    """TLS: the client's certificate."""
    keyfile: str | None = None
    """TLS: the key of the client's certificate."""
    keyfile_password: str | None = field(default=None, repr=False)
    """TLS: the password of that key."""
    cert_reqs: str = "required"
    """TLS: ``required``, or ``none`` to trust any certificate."""
    check_hostname: bool = True
    """TLS: whether the certificate must name the host."""


class Topology(Enum):
    """How the server that holds a record is found."""

    ONE = "standalone"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


class Address(NamedTuple):
    """Where a server listens; port 0 for a Unix socket, whose path is the host."""

    host: str
    port: int

    def __str__(self) -> str:
        """For messages."""
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Target:
    """A Redis URL, read."""

    topology: Topology
    addresses: tuple[Address, ...]
    tls: bool
    db: int
    username: str | None
    password: str | None = field(repr=False)
    options: RedisOptions


def read_target(url: StoreUrl) -> Target:
    """Everything that the URL says, or ``InvalidUrl`` or ``UnknownOption``."""
    plain = tuple((name.removeprefix("ssl_"), text) for name, text in url.query)
    options = read_options(replace(url, query=plain), RedisOptions)
    family, _, driver = url.scheme.partition("+")
    tls = family in _TLS_FAMILIES
    _check_tls(url, options, tls)
    topology = Topology(driver) if driver in ("cluster", "sentinel") else Topology.ONE
    _check_sentinel(url, options, topology)
    unix = "unix" in (family, driver)
    if unix:
        addresses, path = _socket(url), ""
    else:
        addresses, path = _addresses(url, topology), url.path
    db = _database(url, path, options.db)
    if topology is Topology.CLUSTER and db:
        raise InvalidUrl(f"{url.scheme}:// has database 0 only: a Redis Cluster knows no other")
    return Target(topology, addresses, tls, db, url.username, url.password, options)


def _addresses(url: StoreUrl, topology: Topology) -> tuple[Address, ...]:
    """The servers that the URL names; localhost where it names none."""
    port = SENTINEL_PORT if topology is Topology.SENTINEL else PORT
    addresses = tuple(Address(host.name, host.port or port) for host in url.hosts) or (Address("localhost", port),)
    if topology is Topology.ONE and len(addresses) > 1:
        family = url.scheme.partition("+")[0]
        raise InvalidUrl(
            f"{family}:// takes one server, this URL names {len(addresses)}: "
            "use redis+cluster:// or redis+sentinel:// (rediss+... with TLS)"
        )
    return addresses


def _socket(url: StoreUrl) -> tuple[Address, ...]:
    """The path of a Unix socket."""
    if url.hosts or len(url.path) < 2:
        raise InvalidUrl(f"{url.scheme}:// takes the absolute path of a socket: {url.scheme}:///run/redis.sock?db=0")
    return (Address(url.path, 0),)


def _database(url: StoreUrl, path: str, option: int | None) -> int:
    """The number of the database, from the path or the option."""
    text = path.strip("/")
    if not text:
        return option or 0
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidUrl(f"the path of a {url.scheme}:// URL is the number of a database, such as /0")
    if option is not None and option != int(text):
        raise InvalidUrl(f"this {url.scheme}:// URL names two databases, one as its path and one as db=: keep one")
    return int(text)


def _check_tls(url: StoreUrl, options: RedisOptions, tls: bool) -> None:
    """TLS options belong to TLS URLs, and their files must be there."""
    given = [name for name, _ in url.query if name.removeprefix("ssl_") in _TLS_OPTIONS]
    if given and not tls:
        raise UnknownOption(f"option {given[0]!r} is for TLS: use rediss:// (or valkeys://) instead of {url.scheme}://")
    if options.cert_reqs not in ("required", "none"):
        raise UnknownOption("option 'cert_reqs' is required or none")
    if options.keyfile and not options.certfile:
        raise UnknownOption("option 'keyfile' needs 'certfile', the certificate that it belongs to")
    for name in ("ca_certs", "ca_path", "certfile", "keyfile"):
        path = getattr(options, name)
        if path is not None and not os.path.exists(path):
            raise UnknownOption(f"option {name!r} names a file that is not there: {path}")


def _check_sentinel(url: StoreUrl, options: RedisOptions, topology: Topology) -> None:
    """Sentinel options belong to sentinel URLs, which need the service."""
    given = [name for name, _ in url.query if name in _SENTINEL_OPTIONS]
    if given and topology is not Topology.SENTINEL:
        raise UnknownOption(
            f"option {given[0]!r} is for redis+sentinel:// (or rediss+sentinel://), not {url.scheme}://"
        )
    if topology is Topology.SENTINEL and not options.service:
        raise InvalidUrl(f"{url.scheme}:// needs the name of the master that the sentinels watch: ?service=mymaster")
