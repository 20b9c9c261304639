"""What a batch reads before its steps, and writes behind them: each all at once, in a fraction of the time.

Only ever used under the write lock, so what was read stays true until this batch itself writes; a key that it has
written, and everything once it has deleted something, is read anew.
"""

import sqlite3
from collections.abc import MutableSequence, Sequence
from typing import Final, TypeVar, cast

from idemstore.backends.sqlite import rows, schema
from idemstore.backends.sqlite.schema import AT_ONCE
from idemstore.backends.sqlite.translate import concerns_one_item, translate
from idemstore.errors import IdemstoreError

A = TypeVar("A")

FEWEST: Final = 4
"""Fewer requests are not worth it."""

_NOTHING: Final = (None,) * 11


class Ahead:
    """One batch, in its transaction."""

    def __init__(self, connection: sqlite3.Connection, sql: schema.Statements, path: str, keys: Sequence[str]) -> None:
        self._connection, self._sql, self._path = connection, sql, path
        self._errors: dict[int, IdemstoreError] = {}
        self._found: dict[str, rows.Row] = {}
        self._behind: dict[str, list[tuple[int, rows.Row]]] = {sql.insert: [], sql.update: []}
        self.place = 0
        """Of the request that is at work now."""
        self._read(list(dict.fromkeys(keys)))

    def _read(self, keys: list[str]) -> None:
        """Read the records of all keys. Keys are compared as bytes: what is stored may not be text."""
        version, fence, *_ = self._connection.execute(self._sql.read, (None,)).fetchone() or _NOTHING
        self._found = dict.fromkeys(keys, (version, fence, *_NOTHING))
        names = {key.encode(): key for key in keys}
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            given = (*part, *[None] * (AT_ONCE - len(part)))
            for row in self._connection.execute(self._sql.read_many, given):
                self._found[names[bytes(row[0])]] = (version, fence, *row[1:])

    def row(self, key: str) -> rows.Row | None:
        """As ``read`` would find it; None: it must be read anew, which sees what was written."""
        row = self._found.get(key)
        if row is None:
            self.flush()
        return row

    def store(self, statement: str, key: str, row: rows.Row) -> None:
        """Write a row with the others."""
        self._behind[statement].append((self.place, row))
        self._found.pop(key, None)

    def flush(self) -> None:
        """Write what is to be written. Where one row spoils it, each goes by itself."""
        for statement, due in self._behind.items():
            if not due:
                continue
            self._connection.execute("SAVEPOINT behind")
            try:
                self._connection.executemany(statement, [row for _, row in due])
            except (sqlite3.Error, OverflowError) as error:
                if isinstance(error, sqlite3.Error) and not (
                    concerns_one_item(error) and self._connection.in_transaction
                ):
                    raise
                self._connection.execute("ROLLBACK TO behind")
                self._one_by_one(statement, due)
            self._connection.execute("RELEASE behind")
            due.clear()

    def _one_by_one(self, statement: str, due: list[tuple[int, rows.Row]]) -> None:
        """Write each row by itself."""
        for place, row in due:
            try:
                self._connection.execute(statement, row)
            except OverflowError:
                self._errors[place] = rows.out_of_range()
            except sqlite3.Error as error:
                if not concerns_one_item(error) or not self._connection.in_transaction:
                    raise
                self._errors[place] = translate(error, self._path)

    def finish(self, answers: MutableSequence[A]) -> None:
        """The end of the batch: write what is left; whose row could not be written is answered why."""
        self.flush()
        for place, error in self._errors.items():
            answers[place] = cast("A", error)

    def forget(self) -> None:
        """Something is about to be deleted: nothing that was read before counts any more."""
        self.flush()
        self._found.clear()
