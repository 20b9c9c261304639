"""Reads a PostgreSQL URL: which servers, which database, and how to connect. Pure: no client import."""

import math
from dataclasses import dataclass, field
from typing import Final

from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import InvalidUrl, UnknownOption
from idemstore.url import Options, StoreUrl, read_options

PORT: Final = 5432
LARGEST_VALUE: Final = 256 * 2**20
"""What one bytea, its copies in the server and the reply can hold with room to spare."""

_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSIONS: Final = ("any", "read-write", "read-only", "primary", "standby")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlOptions(Options):
    """Options of every PostgreSQL URL. What is not said here is taken from the environment (``PGHOST``,
    ``PGPASSFILE``, ...), as by every PostgreSQL client.
    """

    table: str = "idemstore"
    """The table. Its functions and indexes are named after it."""
    schema: str = "public"
    """The schema that the table and its functions are in; ``search_path`` plays no part."""
    pool: int = field(default=10, metadata={"min": 1, "max": 10_000})
    """Most connections of one store; a call beyond waits for one, within its time-out."""
    migrate: bool = False
    """Create or update table and functions before the first call."""
    pgbouncer: bool = False
    """The server is PgBouncer (or a pooler like it) in transaction mode: no named statements, no startup options."""
    notify: bool = False
    """Tell waiters at once (LISTEN and NOTIFY), for the price of a lock of the whole instance at every completion."""
    max_result: int = field(default=64 * 2**20, metadata={"min": 1, "max": LARGEST_VALUE})
    """Largest result or checkpoint, bytes."""
    host: str | None = None
    """Directory of a Unix socket, where the URL names no host: ``postgresql:///db?host=/run/postgresql``."""
    application_name: str = "idemstore"
    """What ``pg_stat_activity`` shows."""
    options: str | None = None
    """Settings for every session, such as ``-c synchronous_commit=local``."""
    target_session_attrs: str = "any"
    """Of several hosts, which one to use, such as ``read-write``."""
    sslmode: str | None = None
    """From ``disable`` to ``verify-full``, as libpq has them."""
    sslrootcert: str | None = None
    """File of the authorities to trust."""
    sslcert: str | None = None
    """File of the client's certificate."""
    sslkey: str | None = None
    """File of the client's key."""


@dataclass(frozen=True, slots=True)
class Target:
    """A PostgreSQL URL, read."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    options: PostgresqlOptions
    name: str
    """For messages: the URL without secrets."""

    @property
    def ssl(self) -> dict[str, str]:
        """The TLS options that were given."""
        given = self.options
        named = {
            "sslmode": given.sslmode,
            "sslrootcert": given.sslrootcert,
            "sslcert": given.sslcert,
            "sslkey": given.sslkey,
        }
        return {name: value for name, value in named.items() if value is not None}

    def startup(self, timeout: float) -> str:
        """The ``options`` of the startup packet: settings that cost no round trip. A pooler would refuse ours.

        The server itself ends what takes longer than the store's time-out: a call that was given up never comes into
        force much later. Read committed is what the functions are written for (each statement sees the newest rows). A
        session keeps its plans, and may have made them when the table was empty: every one is to follow an index.
        """
        ours = (
            f"-c statement_timeout={max(1, math.ceil(timeout * 1000))}",
            "-c default_transaction_isolation=read\\ committed",
            "-c enable_seqscan=off",
        )
        given = self.options.options
        return " ".join((*(() if self.options.pgbouncer else ours), *((given,) if given else ())))


def read_target(url: StoreUrl) -> tuple[Target, Schema]:
    """What the URL says, or ``InvalidUrl`` or ``UnknownOption``."""
    options = read_options(url, PostgresqlOptions)
    _one_of("sslmode", options.sslmode, _SSL_MODES)
    _one_of("target_session_attrs", options.target_session_attrs, _SESSIONS)
    if options.host is not None and url.hosts:
        raise InvalidUrl("the PostgreSQL URL names a host and has the option 'host': keep one")
    if options.notify and options.pgbouncer:
        raise InvalidUrl("a pooler in transaction mode carries no notifications: leave out 'notify' or 'pgbouncer'")
    database = url.path.removeprefix("/")
    for part in (url.username, url.password, database, options.options, options.application_name):
        if part is not None and "\0" in part:
            raise InvalidUrl("the PostgreSQL URL holds a NUL character (%00), which no part of it can have")
    target = Target(
        hosts=tuple(host.name for host in url.hosts) or ((options.host,) if options.host else ()),
        ports=tuple(host.port or PORT for host in url.hosts),
        user=url.username,
        password=url.password,
        database=database or None,
        options=options,
        name=str(url),
    )
    return target, Schema(options.schema, options.table, notify=options.notify, prepared=not options.pgbouncer)


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> None:
    """An option with few values."""
    if value is not None and value not in known:
        raise UnknownOption(f"option {name!r} is one of {', '.join(known)}")
