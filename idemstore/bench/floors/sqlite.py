"""SQLite: one statement, and so one transaction, for each write; in a file beside the store's, with its settings.

One connection writes, under a lock, since SQLite has one writer at a time; others read. Async: the same in one worker
thread, since the standard library has no other way.
"""

import asyncio
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import LifoQueue
from typing import Final

from idemstore.url import parse_url

READERS: Final = 3
"""As many as a sync store has by default, beside the one that writes."""
CREATE: Final = "CREATE TABLE IF NOT EXISTS bare (key TEXT PRIMARY KEY, state TEXT, result BLOB) STRICT"
INSERT: Final = "INSERT INTO bare VALUES (?, 'in-flight', NULL)"
UPDATE: Final = "UPDATE bare SET state = 'completed', result = ? WHERE key = ?"
SEED: Final = "INSERT OR REPLACE INTO bare VALUES (?, 'completed', ?)"
SELECT: Final = "SELECT state, result FROM bare WHERE key = ?"


def place(url: str, run: str) -> str:
    """The file, beside the store's."""
    path = parse_url(url).path.removeprefix("/")
    return f"{os.path.abspath('/' + path.lstrip('/') if path.startswith('/') else path)}.floor-{run}"


def connect(url: str, run: str) -> sqlite3.Connection:
    """A connection."""
    synchronous = dict(parse_url(url).query).get("synchronous", "normal")
    connection = sqlite3.connect(place(url, run), timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous if synchronous in ('full', 'off') else 'normal'}")
    return connection


class SqliteBare:
    """Sync."""

    def __init__(self, url: str, run: str, readers: int = READERS) -> None:
        self._writer, self._lock = connect(url, run), threading.Lock()
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue()
        for _ in range(readers):
            self._readers.put(connect(url, run))

    def insert(self, key: str) -> None:
        """``INSERT``."""
        with self._lock:
            self._writer.execute(INSERT, (key,))

    def update(self, key: str, result: bytes) -> None:
        """``UPDATE``."""
        with self._lock:
            self._writer.execute(UPDATE, (result, key))

    def seed(self, key: str, result: bytes) -> None:
        """``INSERT`` of a finished row."""
        with self._lock:
            self._writer.execute(SEED, (key, result))

    def read(self, key: str) -> object:
        """``SELECT``."""
        reader = self._readers.get()
        try:
            return reader.execute(SELECT, (key,)).fetchone()
        finally:
            self._readers.put(reader)

    def close(self) -> None:
        """Close the connections."""
        self._writer.close()
        while not self._readers.empty():
            self._readers.get().close()


class AsyncSqliteBare:
    """In one worker thread."""

    def __init__(self, url: str, run: str) -> None:
        self._bare = SqliteBare(url, run, 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="floor")
        self._run = partial(asyncio.get_running_loop().run_in_executor, self._thread)

    async def insert(self, key: str) -> None:
        """As ``SqliteBare``."""
        await self._run(self._bare.insert, key)

    async def update(self, key: str, result: bytes) -> None:
        """As ``SqliteBare``."""
        await self._run(self._bare.update, key, result)

    async def seed(self, key: str, result: bytes) -> None:
        """As ``SqliteBare``."""
        await self._run(self._bare.seed, key, result)

    async def read(self, key: str) -> object:
        """As ``SqliteBare``."""
        return await self._run(self._bare.read, key)

    async def close(self) -> None:
        """Close the connections."""
        await self._run(self._bare.close)
        self._thread.shutdown()


class SqliteFloor:
    """See the module."""

    packages: tuple[str, ...] = ()
    failures: tuple[type[Exception], ...] = (sqlite3.Error,)

    def prepare(self, url: str, run: str) -> str:
        """Make the file."""
        connection = connect(url, run)
        connection.execute(CREATE)
        connection.close()
        return f"SQLite {sqlite3.sqlite_version}"

    def drop(self, url: str, run: str) -> None:
        """Delete it, and what SQLite puts beside it."""
        for end in ("", "-wal", "-shm"):
            path = place(url, run) + end
            if os.path.exists(path):
                os.unlink(path)

    def open(self, url: str, run: str) -> SqliteBare:
        """Sync."""
        return SqliteBare(url, run)

    async def open_async(self, url: str, run: str) -> AsyncSqliteBare:
        """Async."""
        return AsyncSqliteBare(url, run)


floor: Final = SqliteFloor()
