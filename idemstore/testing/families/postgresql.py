"""The PostgreSQL family under test: a table of its own, aged and damaged by a connection of another kind."""

import copy
import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import psycopg

import idemstore
from idemstore.machine import MICROSECONDS
from idemstore.testing import families
from idemstore.testing.contract_lab import Mode
from idemstore.testing.servers import Server

DRIVERS: Final[Mapping[str, tuple[str, Mode]]] = {
    "psycopg": ("postgresql+psycopg", "sync"),
    "asyncpg": ("postgresql+asyncpg", "async"),
    "psycopg-async": ("postgresql+psycopg", "async"),
}
"""Each driver's scheme and mode."""

PLACES: Final[tuple[tuple[str, str], ...]] = (
    ("postgresql", "asyncpg"),
    ("postgresql15", "psycopg"),
    ("postgresql", "psycopg-async"),
)
"""The servers and drivers that tests of this family take: each driver once, both versions."""


def places() -> Sequence[tuple[str, str]]:
    """``PLACES``; or every driver on every server, where IDEMSTORE_SUBJECTS names ``postgresql15``."""
    if "postgresql15" in families.named():
        return [(server, driver) for server in ("postgresql", "postgresql15") for driver in DRIVERS]
    return PLACES


_numbers: Final = itertools.count(1)

AGE: Final = """
    UPDATE {table} SET lease_until = lease_until - %(by)s, expires_at = expires_at - %(by)s,
        retry_at = retry_at - %(by)s, due = due - %(by)s
    WHERE key = %(key)s
"""

DAMAGE: Final = """
    INSERT INTO {table} (key, state, token, fence, attempt) VALUES (%(key)s, 7, 'none', 1, 1)
    ON CONFLICT (key) DO UPDATE SET state = 7
"""


def make(name: str, server: Server | None, directory: Path) -> "PostgresqlSubject":
    """A new table. Names that end in ``-psycopg`` take that driver in async mode, too."""
    assert server is not None, "PostgreSQL is a server"
    return PostgresqlSubject(name, server)


class Observer:
    """One connection of another program, kept: a new one for every look costs more than all else in a test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def execute(self, statement: bytes, parameters: Mapping[str, object]) -> Sequence[tuple[object, ...]]:
        """Run one statement. A connection that broke meanwhile (tests restart servers) is made anew, once."""
        with self._lock:
            if self._connection is not None:
                try:
                    return _rows(self._connection.execute(statement, parameters))
                except psycopg.OperationalError:
                    self.close()
            self._connection = connect(self._url)
            return _rows(self._connection.execute(statement, parameters))

    def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection of another program."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)


def _rows(cursor: psycopg.Cursor[tuple[object, ...]]) -> Sequence[tuple[object, ...]]:
    """What a statement answered."""
    return cursor.fetchall() if cursor.description else []


class PostgresqlSubject:
    """One table on one server."""

    shared = True

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self._observer = Observer(server.url)
        self.table = f"contract_{os.getpid()}_{next(_numbers)}"
        self._server = server.url
        scheme = "postgresql+psycopg" if name.endswith("-psycopg") else "postgresql"
        pooled = "&pgbouncer=1" if server.name == "pgbouncer" else ""
        told = "&notify=1" if name.endswith("-notify") else ""
        single = "&coalesce=0" if name.endswith("-single") else ""
        self.url = f"{scheme}{server.url.removeprefix('postgresql')}?table={self.table}{pooled}{told}{single}"
        with idemstore.open(self.url) as store:
            store.migrate()

    def by(self, driver: str) -> tuple[Self, Mode]:
        """The same table as one of ``DRIVERS`` sees it, and the mode of that driver."""
        scheme, mode = DRIVERS[driver]
        other = copy.copy(self)
        other.url = f"{scheme}://{self.url.partition('://')[2]}"
        return other, mode

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection of another program."""
        return connect(self._server)

    def execute(self, *statements: str, **parameters: object) -> Sequence[tuple[object, ...]]:
        """Run statements in one transaction, as another program would; the rows of the last. ``{table}`` is ours."""
        with self.connect() as connection, connection.transaction():
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.replace("{table}", self.table).encode(), parameters)
            return _rows(cursor)

    def _look(self, statement: str, **parameters: object) -> Sequence[tuple[object, ...]]:
        """The same with one statement, on a connection that is kept."""
        return self._observer.execute(statement.replace("{table}", self.table).encode(), parameters)

    def age(self, key: str, seconds: float) -> None:
        """Move the record's times."""
        self._look(AGE, key=key, by=round(seconds * MICROSECONDS))

    def damage(self, key: str) -> None:
        """Give it a state that no record has."""
        self._look(DAMAGE, key=key)

    def exists(self, key: str) -> bool:
        """Whether there is a row."""
        return bool(self._look("SELECT 1 FROM {table} WHERE key = %(key)s", key=key))

    def rest(self) -> None:
        """End the connection that is kept; only then does the server count all that was done on it."""
        self._observer.close()

    def close(self) -> None:
        """Drop the table and what belongs to it."""
        self.rest()
        routines = self.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE %(prefix)s",
            prefix=self.table.replace("_", r"\_") + r"\_%",
        )
        self.execute("DROP TABLE {table}", *(f"DROP FUNCTION {routine}" for (routine,) in routines))
