"""SQLite's errors as ours: the one place that knows its result codes. Never by text, which changes between versions."""

import os
import sqlite3
from typing import Final

from idemstore.errors import (
    AccessDenied,
    IdemstoreError,
    SchemaError,
    StoreFull,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
)

_PRIMARY: Final = 0xFF
"""Extended codes carry the primary one in their lowest byte."""

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DENIED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_OWN: Final = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG})


class Busy(StoreTimeout):
    """Another connection is in the way just now. Inside this family only: callers try again until their time is up."""


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection has a lock that this one needed."""
    return _code(error) in _BUSY


def concerns_one_item(error: sqlite3.Error) -> bool:
    """Whether the error is about one record alone, its transaction unharmed."""
    return _code(error) in _OWN


def translate(error: sqlite3.Error, path: str) -> IdemstoreError:
    """Our error for one of SQLite's."""
    code = _code(error)
    if is_busy(error):
        return Busy(f"{path} is locked by another connection ({error})")
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"no room for {path} (disk, quota or page limit): nothing was stored; free some space")
    if code in _DENIED or (code == sqlite3.SQLITE_CANTOPEN and _forbidden(path)):
        return AccessDenied(
            f"{path} cannot be written ({error}): this process needs to write the file, its -wal and -shm files and "
            "their directory; give it the permission"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return _cannot_open(error, path)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_INTERRUPT):
        return StoreUnavailable(f"{path} could not be read or written ({error}): look at the disk; repeating is safe")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return not_a_database(path)
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreMisbehaved(
            f"{path} is a damaged database ({error}): restore a backup, or try '.recover' of sqlite3"
        )
    if code == sqlite3.SQLITE_ERROR:
        return SchemaError(f"the tables in {path} are not those of this idemstore ({error}): see 'migrate', or restore")
    return StoreMisbehaved(f"SQLite refused a statement on {path} ({error}): another program's trigger, or a bug")


def not_a_database(path: str) -> SchemaError:
    """The error for a file of another kind."""
    return SchemaError(
        f"{path} is no SQLite database (or an encrypted or damaged one): nothing was changed; "
        "give another path, or restore a backup"
    )


def _code(error: sqlite3.Error) -> int | None:
    """The primary result code; None for what Python's module refuses by itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY


def _forbidden(path: str) -> bool:
    """Whether the file, or (where it is not there yet) a file in its directory, may not be written by this process."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        return False
    return not os.access(path if os.path.exists(path) else directory, os.R_OK | os.W_OK)


def _cannot_open(error: sqlite3.Error, path: str) -> IdemstoreError:
    """The file, or its directory, is not what it should be."""
    wrong = misplaced(path)
    return StoreUnavailable(wrong or f"{path} cannot be opened ({error}): too many open files? Repeating is safe")


def misplaced(path: str) -> str | None:
    """What is wrong with the place of a database file, as far as a look at the file system tells; None: nothing."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        return f"the directory {directory} does not exist: create it, or give another path"
    if os.path.exists(path) and not os.path.isfile(path):
        return f"{path} is there, but is not a file: give the path of a database file"
    return None


def identity(path: str) -> tuple[tuple[int, int] | None, int]:
    """Which file has this path, if any, and its size. Never by opening it: to close it again drops SQLite's locks."""
    try:
        status = os.stat(path)
    except OSError:
        return None, 0
    return (status.st_dev, status.st_ino), status.st_size
