"""Many records quickly, as the library writes them: one is its own work, the rest are copies made by the server.

Keys of a batch are spread evenly over all that random keys could be, and ascend, so that a B-tree is filled at the
speed of its disk and yet searched everywhere. A copy differs from its template in its key and, where an index holds it,
in the end of its retention. Memory has no server: its records are all written by ``claim_many`` and ``complete_many``.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import idemstore
from idemstore import Claimed, Store
from idemstore.machine import MICROSECONDS

RESULT: Final = b'{"receipt": 4711, "state": "created"}' * 5
FINGERPRINT: Final = bytes(range(32))
TEMPLATE: Final = "template"
CHUNK: Final = 500
PAST: Final = 7 * 86400 * MICROSECONDS
"""How much older than the others records are whose retention is over."""


def key_of(batch: int, number: int, count: int) -> str:
    """A key of a batch: as long as a UUID in hexadecimal, its start spread over the whole range."""
    return f"{int(number * 2**32 / count):08x}{batch:02x}{number:022x}"


class Place(Protocol):
    """One store, and how it is filled."""

    store: Store

    def load(self, batch: int, count: int, *, expired: bool = False) -> None:
        """``count`` completed records more."""
        ...

    def size(self) -> int | None:
        """Bytes that the records take, indexes included; None where nobody knows."""
        ...

    def live(self) -> int:
        """How many records are not over."""
        ...


def write_template(store: Store, key: str = TEMPLATE) -> None:
    """The record that the others are copied from."""
    store.forget(key)
    claim = store.claim(key, fingerprint=FINGERPRINT)
    assert isinstance(claim, Claimed)
    store.complete(key, claim.token, RESULT)


def check(place: Place, batch: int, count: int, samples: Sequence[int]) -> None:
    """Copies read like what the library has written."""
    for number in samples:
        found = place.store.get(key_of(batch, number, count))
        assert found is not None, "a record that was loaded is not there"
        record = found.record
        assert (record.state, record.fingerprint, record.result) == ("completed", FINGERPRINT, RESULT)
        assert record.expires_at is not None
        assert record.attempt == 1


class Memory:
    """Written by the library itself."""

    def __init__(self) -> None:
        self.store = idemstore.open("memory://")
        self._count = 0
        self._size = 0

    def load(self, batch: int, count: int, *, expired: bool = False) -> None:
        """In batches."""
        assert not expired, "memory has no way to make old records"
        before = resident()
        for start in range(0, count, CHUNK):
            keys = [key_of(batch, number, count) for number in range(start, min(start + CHUNK, count))]
            claims = self.store.claim_many(keys, fingerprints=[FINGERPRINT] * len(keys))
            # Its own bytes for every record, as they come from callers.
            done = [
                (key, claim.token, bytes(bytearray(RESULT)))
                for key, claim in zip(keys, claims, strict=True)
                if isinstance(claim, Claimed)
            ]
            assert len(done) == len(keys)
            self.store.complete_many(done)
        self._size += resident() - before
        self._count += count

    def size(self) -> int:
        """What the process grew by."""
        return self._size

    def live(self) -> int:
        """Those that were loaded."""
        return self._count


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


COPY: Final = """
local batch, from, to, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
for number = from, to - 1 do
  local key = string.format('%08x%02x%022x', math.floor(number * 4294967296 / count), batch, number)
  redis.call('COPY', KEYS[1], ARGV[5] .. key)
end
"""


class Redis:
    """Copied by ``COPY`` in a script; in a database of its own, so that every store has a hash table of its own."""

    STEP: Final = 20_000

    def __init__(self, url: str, database: int) -> None:
        import redis

        url = f"{url.partition('?')[0].rstrip('/').removesuffix('/0')}/{database}"
        self.store = idemstore.open(url)
        self.client = redis.Redis.from_url(url, socket_timeout=60)
        self._empty = self._used()
        write_template(self.store)

    def _used(self) -> int:
        return int(str(self.client.info("memory")["used_memory"]))

    def load(self, batch: int, count: int, *, expired: bool = False) -> None:
        """In steps, so that no script runs for long."""
        assert not expired, "Redis deletes what is over"
        script = self.client.register_script(COPY)
        self._empty = self._used() if not self.client.dbsize() > 1 else self._empty
        for start in range(0, count, self.STEP):
            ends = min(start + self.STEP, count)
            script(keys=[f"idem:{TEMPLATE}"], args=[batch, start, ends, count, "idem:"])

    def size(self) -> int:
        """What the server grew by since this store was empty (loaded by itself, one after the other)."""
        return self._used() - self._empty

    def live(self) -> int:
        """All keys of the database."""
        return int(self.client.dbsize())


class Sqlite:
    """Copied by ``INSERT ... SELECT`` in a connection of its own."""

    STEP: Final = 500_000

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}?timeout=30"
        self.store = idemstore.open(self.url)
        self.store.migrate()
        write_template(self.store)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=60)) as connection:
            yield connection

    def load(self, batch: int, count: int, *, expired: bool = False) -> None:
        """In steps, so that the log does not outgrow the file."""
        with self._connection() as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -200000")
            for start in range(0, count, self.STEP):
                connection.execute(
                    f"""
                    WITH RECURSIVE numbers (number) AS (
                        SELECT :start UNION ALL SELECT number + 1 FROM numbers WHERE number + 1 < :ends
                    )
                    INSERT INTO idemstore
                    SELECT printf('%08x%02x%022x', CAST(number * 4294967296.0 / :count AS INTEGER), :batch, number),
                        state, token, fence - :past, attempt, fingerprint, lease_until, expires_at + number - :past,
                        retry_at, result, checkpoint
                    FROM numbers, (SELECT * FROM idemstore WHERE key = '{TEMPLATE}')
                    """,
                    {
                        "start": start,
                        "ends": min(start + self.STEP, count),
                        "count": count,
                        "batch": batch,
                        "past": PAST if expired else 0,
                    },
                )
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def size(self) -> int:
        """The file and its log."""
        return sum(path.stat().st_size for path in self.path.parent.glob(f"{self.path.name}*"))

    def live(self) -> int:
        """By their end of retention."""
        with self._connection() as connection:
            now = time.time_ns() // 1000
            (found,) = connection.execute("SELECT count(*) FROM idemstore WHERE expires_at > ?", (now,)).fetchone()
            return int(found)


class Postgresql:
    """Copied by ``INSERT ... SELECT``."""

    def __init__(self, url: str, table: str) -> None:
        import psycopg

        self.table = table
        self.url = f"{url}?table={table}"
        self.store = idemstore.open(self.url)
        self.store.migrate()
        self.admin = psycopg.connect(url, autocommit=True)
        write_template(self.store)

    def load(self, batch: int, count: int, *, expired: bool = False) -> None:
        """One statement; then what autovacuum would do some time later."""
        past = PAST if expired else 0
        self.admin.execute(
            f"""
            INSERT INTO {self.table} (key, state, token, fence, attempt, fingerprint, lease_until, expires_at, retry_at,
                due, result, checkpoint)
            SELECT lpad(to_hex(floor(number * 4294967296.0::float8 / {count})::bigint), 8, '0')
                || lpad(to_hex({batch}), 2, '0') || lpad(to_hex(number), 22, '0'),
                state, token, fence - {past}, attempt, fingerprint, lease_until, expires_at + number - {past}, retry_at,
                due + number - {past}, result, checkpoint
            FROM (SELECT * FROM {self.table} WHERE key = '{TEMPLATE}') AS one, generate_series(0, {count - 1}) AS number
            """.encode()
        )
        self.admin.execute(f"VACUUM ANALYZE {self.table}".encode())

    def size(self) -> int:
        """Table and indexes."""
        return self._number(f"SELECT pg_total_relation_size('{self.table}')")

    def live(self) -> int:
        """By their end of retention."""
        return self._number(f"SELECT count(*) FROM {self.table} WHERE expires_at > {time.time_ns() // 1000}")

    def _number(self, query: str) -> int:
        (found,) = self.admin.execute(query.encode()).fetchone() or (0,)
        return int(found)


class Mongodb:
    """Copies inserted by the client."""

    STEP: Final = 1000

    def __init__(self, url: str, collection: str) -> None:
        from pymongo import MongoClient
        from pymongo.collection import Collection

        self.store = idemstore.open(f"{url}&directConnection=true&collection={collection}&timeout=60")
        self.store.migrate()
        write_template(self.store)
        self.records: Collection[dict[str, object]] = MongoClient(
            f"{url}&directConnection=true"
        ).get_default_database()[collection]

    def load(self, batch: int, count: int, *, expired: bool = False) -> None:
        """In bulk."""
        assert not expired, "not measured here"
        (template,) = self.records.find({"_id": TEMPLATE})
        for start in range(0, count, self.STEP):
            numbers = range(start, min(start + self.STEP, count))
            self.records.insert_many(
                [{**template, "_id": key_of(batch, number, count)} for number in numbers], ordered=False
            )

    def size(self) -> None:
        """The emulation does not say."""

    def live(self) -> int:
        """All documents."""
        return int(self.records.count_documents({}))


class Dynamodb:
    """Copies put by the client, 25 at a time."""

    STEP: Final = 25

    def __init__(self, server_url: str, table: str) -> None:
        from idemstore.testing.families.dynamodb import connect, url_of

        url = url_of(server_url, table, "timeout=60")
        self.table = table
        self.store = idemstore.open(url)
        self.store.migrate()
        write_template(self.store)
        self.client = connect(url)

    def load(self, batch: int, count: int, *, expired: bool = False) -> None:
        """In batches."""
        assert not expired, "not measured here"
        found = self.client.get_item(TableName=self.table, Key={"id": {"S": TEMPLATE}}, ConsistentRead=True)["Item"]
        for start in range(0, count, self.STEP):
            items = [{**found, "id": {"S": key_of(batch, n, count)}} for n in range(start, min(start + 25, count))]
            puts = [{"PutRequest": {"Item": item}} for item in items]
            answer = self.client.batch_write_item(RequestItems={self.table: puts})  # type: ignore[attr-defined]
            assert not answer["UnprocessedItems"], "the server did not take all of them"

    def size(self) -> None:
        """DynamoDB Local does not say."""

    def live(self) -> int:
        """Not counted: a scan of all would take longer than the run."""
        return 0
