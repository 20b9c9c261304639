"""SQLite: one file, many threads and processes of one host. The embedded default, with the standard library alone.

``sqlite:///relative.db`` and ``sqlite:////absolute/path.db``. The tables are made at the first call. The clock is that
of the host, which all processes share; the file must be on a local disk.
"""

import os
import re
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from idemstore.backends.sqlite.dialect import SqliteDialect, key_of
from idemstore.backends.sqlite.driver import SqliteDriver
from idemstore.backends.sqlite.session import Place
from idemstore.backends.sqlite.translate import misplaced
from idemstore.errors import ConfigurationError, InvalidUrl, UnknownOption
from idemstore.store import Store
from idemstore.url import Options, StoreUrl, read_options

if TYPE_CHECKING:
    from idemstore.async_store import AsyncStore

OLDEST: Final = (3, 37, 0)
"""The first SQLite with STRICT tables."""

_TABLE: Final = re.compile(r"(?!sqlite_)[a-z_][a-z0-9_]{0,49}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions(Options):
    """Options of ``sqlite://``."""

    table: str = "idemstore"
    """Name of the table; those of its index and of the row with its version start with it."""
    synchronous: str = "normal"
    """``full``: what was answered survives a power cut. ``normal``: a power cut may undo the last answers. ``off``: it
    may destroy the file. A crash of the process alone loses nothing in any of them."""
    max_result: int = field(default=64 * 2**20, metadata={"min": 1, "max": 2**28})
    """Largest result or checkpoint, bytes."""
    pool: int = field(default=4, metadata={"min": 1, "max": 64})
    """Connections of a sync store at most: one that writes, the others for answers that write nothing."""


class SqliteBackend:
    """Serves ``sqlite://``."""

    def open(self, url: StoreUrl) -> Store:
        """A sync store."""
        options, place = _read(url)
        return Store(
            SqliteDialect(options.max_result),
            lambda: SqliteDriver(place, options.pool),
            timeout=options.timeout,
            name=str(url),
        )

    def open_async(self, url: StoreUrl) -> "AsyncStore":
        """An async store."""
        from idemstore.async_store import AsyncStore  # sync programs never pay for it
        from idemstore.backends.sqlite.async_driver import AsyncSqliteDriver
        from idemstore.coalesce import Coalescing

        options, place = _read(url)
        return AsyncStore(
            SqliteDialect(options.max_result),
            lambda: AsyncSqliteDriver(place),
            timeout=options.timeout,
            name=str(url),
            coalesce=Coalescing(key_of),
        )


def _read(url: StoreUrl) -> tuple[SqliteOptions, Place]:
    """Options and place, checked as far as can be without touching the file."""
    options = read_options(url, SqliteOptions)
    if not _TABLE.fullmatch(options.table):
        raise UnknownOption(
            "option 'table' is a name of at most 50 lower-case letters, digits and '_' that does not start with a "
            "digit or 'sqlite_'"
        )
    if options.synchronous not in ("full", "normal", "off"):
        raise UnknownOption("option 'synchronous' is full, normal or off")
    path = _path(url)
    _check_library(options.max_result)
    wrong = misplaced(path)
    if wrong is not None:
        raise ConfigurationError(wrong)
    return options, Place(path, options.table, options.synchronous)


def _path(url: StoreUrl) -> str:
    """The file, as an absolute path: a later change of directory does not lead elsewhere."""
    if url.hosts or url.username is not None or url.password is not None:
        raise InvalidUrl(
            "an SQLite URL has three slashes before a relative path and four before an absolute one: "
            "sqlite:///idem.db, sqlite:////var/lib/app/idem.db"
        )
    path = url.path.removeprefix("/")
    if path in ("", ":memory:"):
        raise InvalidUrl(
            "an SQLite URL names a file, such as sqlite:///idem.db: a database in memory would be empty for every "
            "connection; for a store in memory use memory://"
        )
    if "\0" in path or path.endswith("/"):
        raise InvalidUrl("the path in an SQLite URL is that of a file: no NUL (%00), and no slash at its end")
    return os.path.abspath("/" + path.lstrip("/") if path.startswith("/") else path)


def _check_library(max_result: int) -> None:
    """The SQLite that Python brings must be new enough, safe for threads, and able to hold the results."""
    if sqlite3.sqlite_version_info < OLDEST or sqlite3.threadsafety == 0:
        raise ConfigurationError(
            f"this Python brings SQLite {sqlite3.sqlite_version}; it takes {'.'.join(map(str, OLDEST))} or newer, "
            "built with thread safety: use another Python build"
        )
    probe = sqlite3.connect(":memory:")
    longest = probe.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    probe.close()
    if 2 * max_result + 2**18 > longest:
        raise ConfigurationError(f"this Python's SQLite holds rows of {longest} bytes at most: lower max_result")


backend: Final = SqliteBackend()
