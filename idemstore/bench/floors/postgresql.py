"""PostgreSQL: a write is an ``INSERT``, then an ``UPDATE`` of one row by primary key, a read a ``SELECT`` of one.

Through the driver that the store uses (psycopg, asyncpg), in a table of this run, each statement a transaction of its
own and prepared, over as many connections as the store has (``pool``), opened as the store opens them.
"""

import asyncio
from collections.abc import Sequence
from queue import LifoQueue
from typing import Final, Protocol, TypeVar, cast

import psycopg
from psycopg.conninfo import make_conninfo

from idemstore.backends.postgresql.dialing import Host, conninfo
from idemstore.backends.postgresql.options import Target, read_target
from idemstore.bench.bare import Bare
from idemstore.url import parse_url

C = TypeVar("C")

TIMEOUT: Final = 30.0
"""Seconds that the server takes for a statement."""
CONNECTING: Final = 10
INSERT: Final = "INSERT INTO {table} (key, state) VALUES ({0}, 1)"
UPDATE: Final = "UPDATE {table} SET state = 2, result = {0} WHERE key = {1}"
SEED: Final = "INSERT INTO {table} (key, state, result) VALUES ({0}, 2, {1}) ON CONFLICT (key) DO NOTHING"
SELECT: Final = "SELECT state, result FROM {table} WHERE key = {0}"


def words(text: str, table: str, numbered: bool) -> str:
    """A statement for one client: ``$1`` or ``%s``."""
    return text.format(*(("$1", "$2") if numbered else ("%s", "%s")), table=table)


def table_of(run: str) -> str:
    """The table of this run."""
    return f"idemstore_floor_{run}"


def host_of(target: Target) -> Host:
    """The first host."""
    return Host(target.hosts[0] if target.hosts else None, target.ports[0] if target.ports else None)


def connect(target: Target) -> "psycopg.Connection[tuple[object, ...]]":
    """A connection of psycopg."""
    found = psycopg.connect(_settings(target), autocommit=True)
    found.prepare_threshold = None if target.options.pgbouncer else 0
    return found


def _settings(target: Target) -> str:
    """Of a connection."""
    return make_conninfo("", connect_timeout=CONNECTING, **conninfo(target, host_of(target), None, TIMEOUT))


class PsycopgBare:
    """Sync: psycopg."""

    def __init__(self, target: Target, table: str) -> None:
        self._lines: LifoQueue[psycopg.Connection[tuple[object, ...]]] = LifoQueue()
        for _ in range(target.options.pool):
            self._lines.put(connect(target))
        self._insert, self._update, self._seed, self._select = (
            words(text, table, False).encode() for text in (INSERT, UPDATE, SEED, SELECT)
        )

    def _run(self, statement: bytes, values: Sequence[str | bytes]) -> object:
        """One statement on a connection of the pool."""
        line = self._lines.get()
        try:
            cursor = line.execute(statement, values, binary=True)
            return cursor.fetchone() if cursor.description else None
        finally:
            self._lines.put(line)

    def insert(self, key: str) -> object:
        """``INSERT``."""
        return self._run(self._insert, (key,))

    def update(self, key: str, result: bytes) -> object:
        """``UPDATE``."""
        return self._run(self._update, (result, key))

    def seed(self, key: str, result: bytes) -> object:
        """``INSERT`` of a finished row."""
        return self._run(self._seed, (key, result))

    def read(self, key: str) -> object:
        """``SELECT``."""
        return self._run(self._select, (key,))

    def close(self) -> None:
        """Close the connections."""
        while not self._lines.empty():
            self._lines.get().close()


class Pool(asyncio.LifoQueue[C]):
    """Idle connections, last in, first out."""


class AsyncPsycopgBare:
    """Async: psycopg."""

    def __init__(self, lines: "Sequence[psycopg.AsyncConnection[tuple[object, ...]]]", table: str) -> None:
        self._lines: Pool[psycopg.AsyncConnection[tuple[object, ...]]] = Pool()
        for line in lines:
            self._lines.put_nowait(line)
        self._insert, self._update, self._seed, self._select = (
            words(text, table, False).encode() for text in (INSERT, UPDATE, SEED, SELECT)
        )

    async def _run(self, statement: bytes, values: Sequence[str | bytes]) -> object:
        """As ``PsycopgBare``."""
        line = await self._lines.get()
        try:
            cursor = await line.execute(statement, values, binary=True)
            return await cursor.fetchone() if cursor.description else None
        finally:
            self._lines.put_nowait(line)

    async def insert(self, key: str) -> object:
        """As ``PsycopgBare``."""
        return await self._run(self._insert, (key,))

    async def update(self, key: str, result: bytes) -> object:
        """As ``PsycopgBare``."""
        return await self._run(self._update, (result, key))

    async def seed(self, key: str, result: bytes) -> object:
        """As ``PsycopgBare``."""
        return await self._run(self._seed, (key, result))

    async def read(self, key: str) -> object:
        """As ``PsycopgBare``."""
        return await self._run(self._select, (key,))

    async def close(self) -> None:
        """Close the connections."""
        while not self._lines.empty():
            await self._lines.get_nowait().close()


class Prepared(Protocol):
    """A prepared statement of asyncpg."""

    async def fetchrow(self, *values: str | bytes) -> object:
        """Execute it."""
        ...


class AsyncpgConnection(Protocol):
    """What is used of a connection of asyncpg."""

    async def prepare(self, query: str, *, name: str | None = None) -> Prepared:
        """Prepare a statement."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


class AsyncpgLine:
    """A connection with its statements."""

    def __init__(self, connection: AsyncpgConnection, statements: dict[str, Prepared]) -> None:
        self.connection, self.statements = connection, statements


async def asyncpg_line(target: Target, table: str) -> AsyncpgLine:
    """A connection, its statements prepared."""
    from idemstore.backends.postgresql.asyncpg import connect as reach

    connection = cast("AsyncpgConnection", await reach(target, host_of(target), TIMEOUT))
    name = "" if target.options.pgbouncer else None
    statements = {
        text: await connection.prepare(words(text, table, True), name=name) for text in (INSERT, UPDATE, SEED, SELECT)
    }
    return AsyncpgLine(connection, statements)


class AsyncpgBare:
    """Async: asyncpg."""

    def __init__(self, lines: Sequence[AsyncpgLine]) -> None:
        self._lines: Pool[AsyncpgLine] = Pool()
        for line in lines:
            self._lines.put_nowait(line)

    async def _run(self, statement: str, *values: str | bytes) -> object:
        """As ``PsycopgBare``."""
        line = await self._lines.get()
        try:
            return await line.statements[statement].fetchrow(*values)
        finally:
            self._lines.put_nowait(line)

    async def insert(self, key: str) -> object:
        """As ``PsycopgBare``."""
        return await self._run(INSERT, key)

    async def update(self, key: str, result: bytes) -> object:
        """As ``PsycopgBare``."""
        return await self._run(UPDATE, result, key)

    async def seed(self, key: str, result: bytes) -> object:
        """As ``PsycopgBare``."""
        return await self._run(SEED, key, result)

    async def read(self, key: str) -> object:
        """As ``PsycopgBare``."""
        return await self._run(SELECT, key)

    async def close(self) -> None:
        """Close the connections."""
        while not self._lines.empty():
            await self._lines.get_nowait().connection.close()


class PostgresqlFloor:
    """See the module."""

    packages: tuple[str, ...] = ("psycopg", "asyncpg")
    failures: tuple[type[Exception], ...] = (psycopg.Error, OSError, TimeoutError)

    def __init__(self) -> None:
        try:
            import asyncpg  # type: ignore[import-untyped, unused-ignore]
        except ModuleNotFoundError:
            return  # then no URL can ask for it either
        self.failures = (*self.failures, asyncpg.PostgresError, asyncpg.InterfaceError)

    def prepare(self, url: str, run: str) -> str:
        """Make the table."""
        table = table_of(run)
        with connect(read_target(parse_url(url))[0]) as connection:
            connection.execute(
                f'CREATE TABLE {table} (key text COLLATE "C" PRIMARY KEY, state smallint, result bytea)'.encode()
            )
            row = connection.execute("SHOW server_version").fetchone()
        return f"PostgreSQL {row[0] if row else '?'}"

    def drop(self, url: str, run: str) -> None:
        """Drop the table."""
        with connect(read_target(parse_url(url))[0]) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {table_of(run)}".encode())

    def open(self, url: str, run: str) -> Bare:
        """Sync."""
        return PsycopgBare(read_target(parse_url(url))[0], table_of(run))

    async def open_async(self, url: str, run: str) -> Bare:
        """Async, by the driver that the URL names."""
        parsed = parse_url(url)
        target, table = read_target(parsed)[0], table_of(run)
        if parsed.driver == "psycopg":
            lines = []
            for _ in range(target.options.pool):
                line = await psycopg.AsyncConnection.connect(_settings(target), autocommit=True)
                line.prepare_threshold = None if target.options.pgbouncer else 0
                lines.append(line)
            return AsyncPsycopgBare(lines, table)
        return AsyncpgBare([await asyncpg_line(target, table) for _ in range(target.options.pool)])


floor: Final = PostgresqlFloor()
