"""The PostgreSQL family under test: a table of its own, aged and damaged by a connection of another kind."""

import copy
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import psycopg

import idemstore
from idemstore.machine import MICROSECONDS
from idemstore.testing.contract_lab import Mode
from idemstore.testing.servers import Server

DRIVERS: Final[Mapping[str, tuple[str, Mode]]] = {
    "psycopg": ("postgresql+psycopg", "sync"),
    "asyncpg": ("postgresql+asyncpg", "async"),
    "psycopg-async": ("postgresql+psycopg", "async"),
}
"""Each driver's scheme and mode."""

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


class PostgresqlSubject:
    """One table on one server."""

    shared = True

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.table = f"contract_{os.getpid()}_{next(_numbers)}"
        self._server = server.url
        scheme = "postgresql+psycopg" if name.endswith("-psycopg") else "postgresql"
        pooled = "&pgbouncer=1" if server.name == "pgbouncer" else ""
        self.url = f"{scheme}{server.url.removeprefix('postgresql')}?table={self.table}{pooled}"
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
        return psycopg.connect(self._server, autocommit=True, prepare_threshold=None)

    def execute(self, *statements: str, **parameters: object) -> Sequence[tuple[object, ...]]:
        """Run statements in one transaction, as another program would; the rows of the last. ``{table}`` is ours."""
        with self.connect() as connection, connection.transaction():
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.replace("{table}", self.table).encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def age(self, key: str, seconds: float) -> None:
        """Move the record's times."""
        self.execute(AGE, key=key, by=round(seconds * MICROSECONDS))

    def damage(self, key: str) -> None:
        """Give it a state that no record has."""
        self.execute(DAMAGE, key=key)

    def exists(self, key: str) -> bool:
        """Whether there is a row."""
        return bool(self.execute("SELECT 1 FROM {table} WHERE key = %(key)s", key=key))

    def close(self) -> None:
        """Drop the table and what belongs to it."""
        routines = self.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE %(prefix)s",
            prefix=self.table.replace("_", r"\_") + r"\_%",
        )
        self.execute("DROP TABLE {table}", *(f"DROP FUNCTION {routine}" for (routine,) in routines))
