"""The SQLite family under test: a file of its own, aged and damaged by a connection of another kind."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import idemstore
from idemstore.machine import MICROSECONDS
from idemstore.testing.servers import Server

AGE: Final = """
    UPDATE idemstore
    SET lease_until = lease_until - ?, expires_at = expires_at - ?, retry_at = retry_at - ?
    WHERE key = ?
"""

DAMAGE: Final = """
    INSERT INTO idemstore (key, state, token, fence, attempt) VALUES (?, 'nonsense', 'none', 0, 1)
    ON CONFLICT (key) DO UPDATE SET state = 'nonsense'
"""


def make(name: str, server: Server | None, directory: Path) -> "SqliteSubject":
    """A new file."""
    return SqliteSubject(directory / "idem.db", name)


class SqliteSubject:
    """One database file."""

    shared = True

    def __init__(self, path: Path, name: str = "sqlite") -> None:
        self.name, self.path = name, path
        self.url = f"sqlite:///{path.absolute()}{'?coalesce=0' if name.endswith('-single') else ''}"
        with idemstore.open(self.url) as store:
            store.migrate()

    def execute(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        """Run a statement as another program would, past the checks of the table."""
        with closing(sqlite3.connect(self.path, timeout=30.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            return connection.execute(statement, parameters).fetchall()

    def age(self, key: str, seconds: float) -> None:
        """Move the record's times."""
        by = round(seconds * MICROSECONDS)
        self.execute(AGE, by, by, by, key)

    def damage(self, key: str) -> None:
        """Give it a state that no record has."""
        self.execute(DAMAGE, key)

    def exists(self, key: str) -> bool:
        """Whether there is a row."""
        return bool(self.execute("SELECT 1 FROM idemstore WHERE key = ?", key))

    def close(self) -> None:
        """Remove the file and those that SQLite puts beside it."""
        for end in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
