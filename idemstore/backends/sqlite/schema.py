"""The tables: made where a file has none, checked where it has them, and never altered."""

import pkgutil
import re
import sqlite3
from functools import lru_cache
from typing import Final, NamedTuple

from idemstore.backends.sqlite.rows import Row
from idemstore.errors import SchemaError

VERSION: Final = 1

_COMMENT: Final = re.compile(r"--[^\n]*")
_NAME: Final = re.compile(r"-- name: (\w+)\n")


AT_ONCE: Final = 32
"""Keys that one statement reads; any library takes that many parameters."""


class Statements(NamedTuple):
    """The texts of ``statements.sql``, by name, for one table."""

    read: str
    read_many: str
    insert: str
    update: str
    delete: str
    raise_: str
    probe: str
    due: str
    purge: str


@lru_cache(maxsize=64)
def statements(table: str) -> Statements:
    """Every statement of ``statements.sql``. ``table`` has been checked to be a plain identifier."""
    _, *parts = _NAME.split(_text("statements.sql", table))
    named = {name: _bare(body).rstrip(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}
    many = named.pop("read_many").replace("(?)", f"({', '.join('?' * AT_ONCE)})")
    return Statements(raise_=named.pop("raise"), read_many=many, **named)


@lru_cache(maxsize=64)
def _tables(table: str) -> dict[str, str]:
    """What ``schema.sql`` creates: statement by name of table or index."""
    created = [_bare(part) for part in _COMMENT.sub("", _text("schema.sql", table)).split(";")]
    return {text.split('"')[1]: text for text in created if text}


def _text(name: str, table: str) -> str:
    """One of our .sql files, for this table."""
    data = pkgutil.get_data(__name__, name)
    assert data is not None, f"{name} is part of the package"
    return data.decode().replace("{table}", table)


def _bare(sql: str) -> str:
    """A statement without comments, on one line."""
    return " ".join(_COMMENT.sub("", sql).split())


def prepare(connection: sqlite3.Connection, table: str) -> None:
    """Check the tables of a file that has them, or make them. A file of a newer idemstore, or of others, is refused."""
    if check(connection, table):
        return
    try:
        connection.execute("BEGIN IMMEDIATE")
        if not check(connection, table):
            for statement in _tables(table).values():
                connection.execute(statement)
            connection.execute(f'INSERT INTO "{table}_meta" VALUES (1, ?, 0)', (VERSION,))  # noqa: S608 - checked name
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def check(connection: sqlite3.Connection, table: str) -> bool:
    """Whether the tables are there, as ours; False where there is none of them; else ``SchemaError``."""
    wanted = _tables(table)
    marks = ", ".join("?" * len(wanted))
    query = f"SELECT name, sql FROM sqlite_master WHERE name COLLATE NOCASE IN ({marks})"  # noqa: S608 - only marks
    try:
        rows = connection.execute(query, (*wanted,)).fetchall()
    except UnicodeDecodeError:  # SQLite's message quotes what is damaged, and Python cannot read the quotation
        raise SchemaError("the definitions of the tables are damaged: restore a backup, or try '.recover'") from None
    found = {name.decode(errors="replace"): _bare((sql or b"").decode(errors="replace")) for name, sql in rows}
    meta = f"{table}_meta"
    if found.get(meta) == wanted[meta]:
        row = connection.execute(f'SELECT version FROM "{meta}" WHERE id = 1').fetchone()  # noqa: S608 - checked name
        check_version(row[0] if row else None, table)
    if found and found != wanted:
        odd = sorted({name for name, _ in found.items() ^ wanted.items()})
        raise SchemaError(
            f"the file has tables named {table!r} of another shape ({', '.join(odd)} differ or are missing): nothing "
            "was changed; give another file or another ?table=, or restore them"
        )
    return bool(found)


def check_version(version: object, table: str) -> None:
    """The version that the tables say they are of must be ours."""
    if version == VERSION:
        return
    if isinstance(version, int) and version > VERSION:
        raise SchemaError(
            f"the tables {table!r} are of version {version}, made by a newer idemstore; this one knows {VERSION}: "
            "nothing was changed; upgrade idemstore"
        )
    raise _unversioned(table)


def _unversioned(table: str) -> SchemaError:
    """The error for tables whose only row about themselves is missing or nonsense."""
    return SchemaError(f"the tables {table!r} do not say their version ({VERSION} is due): restore a backup")


def checked(row: Row | None, table: str) -> Row:
    """What ``read`` found, once its first columns say that the tables are (still) of our version."""
    if row is None or not isinstance(row[1], int):
        raise _unversioned(table)
    if row[0] != VERSION:
        check_version(row[0], table)
    return row
