"""What coalescing brings: claim + complete of new keys, many callers, with and without, beside bare writes.

    python -m benchmarks.coalesce [SERVER ...] [--callers 1 64 256] [--rounds 5] [--cycles 4000] [--url URL]

The floor is as many single writes by the same client library (two for each cycle), on as many connections as it likes.
Floor, ``coalesce=0`` and ``coalesce=1`` take turns within every round, so that whatever else the machine does hits all
alike; what is printed are medians over the rounds, in cycles a second, and their ratios to the floor. Servers are those
of the test harness: sqlite redis valkey postgresql postgresql15 postgresql-psycopg mongodb dynamodb; the first four
families are run unless some are named. MongoDB and DynamoDB do not coalesce: there is no second variant. The last line
is for replays from ``local_cache``, in calls a second, beside the floor's calls.
"""

import argparse
import asyncio
import itertools
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

import idemstore
from idemstore.errors import UnknownOption
from idemstore.testing import servers

RESULT = os.urandom(200)
CONNECTIONS = 20

C = TypeVar("C")
Cycle = Callable[[str], Awaitable[object]]
_serial = itertools.count()


class Figure(NamedTuple):
    """Cycles a second, client CPU microseconds per cycle, 99th percentile of a cycle in milliseconds."""

    rate: float
    cpu: float
    p99: float


async def measure(cycle: Cycle, callers: int, cycles: int) -> Figure:
    """Run ``cycles`` cycles, so many at a time."""
    numbers = iter(range(cycles))
    times: list[float] = []
    prefix = f"{os.getpid()}-{next(_serial)}"

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await cycle(f"{prefix}-{number}")
            times.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    return Figure(cycles / wall, used / cycles * 1e6, statistics.quantiles(times, n=100)[98] * 1e3)


def claim_and_complete(store: idemstore.AsyncStore) -> Cycle:
    """What is measured."""

    async def cycle(key: str) -> None:
        claim = await store.claim(key)
        assert isinstance(claim, idemstore.Claimed), claim
        assert await store.complete(key, claim.token, RESULT) == idemstore.Done()

    return cycle


@asynccontextmanager
async def redis_floor(url: str) -> AsyncIterator[Cycle]:
    """SET, twice."""
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(url, max_connections=1000) as client:

        async def cycle(key: str) -> None:
            await client.set(key, b"1", ex=86400)
            await client.set(key, RESULT, ex=86400)

        yield cycle


class Connections(Generic[C]):
    """Connections that callers take in turns: what the thinnest pool costs."""

    def __init__(self, connections: list[C]) -> None:
        self.all = connections
        self._idle = list(connections)
        self._room = asyncio.Semaphore(len(connections))

    @asynccontextmanager
    async def one(self) -> AsyncIterator[C]:
        """A connection."""
        async with self._room:
            connection = self._idle.pop()
            try:
                yield connection
            finally:
                self._idle.append(connection)


TABLE = "CREATE TABLE IF NOT EXISTS floor_bare (key text PRIMARY KEY, state smallint, result bytea)"
INSERT = "INSERT INTO floor_bare (key, state) VALUES ({}, 1)"
UPDATE = "UPDATE floor_bare SET state = 2, result = {} WHERE key = {}"


@asynccontextmanager
async def asyncpg_floor(url: str) -> AsyncIterator[Cycle]:
    """INSERT and UPDATE, prepared."""
    import asyncpg

    lines = [await asyncpg.connect(url) for _ in range(CONNECTIONS)]
    await lines[0].execute(TABLE)
    inserts = {line: await line.prepare(INSERT.format("$1")) for line in lines}
    updates = {line: await line.prepare(UPDATE.format("$1", "$2")) for line in lines}
    pool = Connections(lines)

    async def cycle(key: str) -> None:
        async with pool.one() as line:
            await inserts[line].fetch(key)
        async with pool.one() as line:
            await updates[line].fetch(RESULT, key)

    yield cycle
    for line in lines:
        await line.close()


@asynccontextmanager
async def psycopg_floor(url: str) -> AsyncIterator[Cycle]:
    """INSERT and UPDATE, prepared."""
    import psycopg

    lines = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(CONNECTIONS)]
    for line in lines:
        line.prepare_threshold = 0
    await lines[0].execute(TABLE)
    pool = Connections(lines)

    async def cycle(key: str) -> None:
        async with pool.one() as line:
            await line.execute(INSERT.format("%s"), (key,))
        async with pool.one() as line:
            await line.execute(UPDATE.format("%s", "%s"), (RESULT, key))

    yield cycle
    for line in lines:
        await line.close()


@asynccontextmanager
async def sqlite_floor(url: str) -> AsyncIterator[Cycle]:
    """INSERT and UPDATE in a worker thread, each committed."""
    path = f"{url.removeprefix('sqlite:///')}.bare"
    line = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    line.execute("PRAGMA journal_mode = WAL")
    line.execute("PRAGMA synchronous = normal")
    line.execute("CREATE TABLE IF NOT EXISTS floor_bare (key text PRIMARY KEY, state int, result blob) WITHOUT ROWID")
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as worker:

        async def cycle(key: str) -> None:
            await loop.run_in_executor(worker, line.execute, INSERT.format("?"), (key,))
            await loop.run_in_executor(worker, line.execute, UPDATE.format("?", "?"), (RESULT, key))

        yield cycle
    line.close()


@asynccontextmanager
async def mongodb_floor(url: str) -> AsyncIterator[Cycle]:
    """insert_one and update_one, both to a majority."""
    from pymongo import AsyncMongoClient, WriteConcern

    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(url)
    bare = client.get_default_database("test").get_collection("bare", write_concern=WriteConcern("majority"))

    async def cycle(key: str) -> None:
        await bare.insert_one({"_id": key, "state": 1})
        await bare.update_one({"_id": key}, {"$set": {"state": 2, "result": RESULT}})

    yield cycle
    await client.close()


@asynccontextmanager
async def dynamodb_floor(url: str) -> AsyncIterator[Cycle]:
    """put_item, twice."""
    from aiobotocore.session import AioSession

    from idemstore.backends.dynamodb.settings import read_settings
    from idemstore.url import parse_url

    _, settings = read_settings(parse_url(url), "async")
    async with AioSession().create_client(
        "dynamodb",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
    ) as client:

        async def cycle(key: str) -> None:
            item = {"id": {"S": f"bare-{key}"}, "state": {"N": "1"}}
            await client.put_item(TableName=settings.table, Item=item)
            await client.put_item(TableName=settings.table, Item={**item, "result": {"B": RESULT}})

        yield cycle


FLOORS = {
    "sqlite": sqlite_floor,
    "redis": redis_floor,
    "valkey": redis_floor,
    "postgresql": asyncpg_floor,
    "postgresql15": asyncpg_floor,
    "postgresql-psycopg": psycopg_floor,
    "mongodb": mongodb_floor,
    "dynamodb": dynamodb_floor,
}


def option(url: str, text: str) -> str:
    """The URL with one more option."""
    return f"{url}{'&' if '?' in url else '?'}{text}"


def coalescing(url: str, width: int) -> idemstore.AsyncStore | None:
    """A store that coalesces, so many batches at once (0: as usual); None where the family does not."""
    try:
        store = idemstore.open_async(option(url, "coalesce=1"))
    except UnknownOption:
        return None
    assert store._coalesce is not None, "else it would have been refused"
    store._coalesce = store._coalesce._replace(width=width or store._coalesce.width)
    return store


async def replays(url: str, callers: int) -> float:
    """Replays from memory, in calls a second."""
    async with idemstore.open_async(option(url, "local_cache=10")) as store:
        key = f"replay-{os.getpid()}"
        claim = await store.claim(key)
        assert isinstance(claim, idemstore.Claimed)
        await store.complete(key, claim.token, RESULT)
        await store.claim(key)
        times = range(200_000 // callers)

        async def caller() -> None:
            for _ in times:
                await store.claim(key)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        rate = len(times) * callers / (time.perf_counter() - began)
        await store.forget(key)
        return rate


async def run(name: str, url: str, callers: int, rounds: int, cycles: int, widths: list[int]) -> None:
    """Measure one server with so many callers, and print a line for each variant."""
    scheme = url.partition(":")[0]
    ours = url.replace(scheme, f"{scheme}+psycopg", 1) if name == "postgresql-psycopg" else url
    figures: dict[str, list[Figure]] = {}
    async with FLOORS[name](url) as floor:
        variants: dict[str, Cycle] = {"floor": floor}
        stores = [idemstore.open_async(option(ours, "coalesce=0"))]
        variants["coalesce=0"] = claim_and_complete(stores[0])
        for width in widths:
            store = coalescing(ours, width)
            if store is not None:
                stores.append(store)
                variants[f"coalesce=1{f' x {width}' if width else ''}"] = claim_and_complete(store)
        await stores[0].migrate()
        for variant in variants.values():
            await measure(variant, callers, max(callers, cycles // 10))
        for _ in range(rounds):
            for what, variant in variants.items():
                figures.setdefault(what, []).append(await measure(variant, callers, cycles))
        for store in stores:
            await store.close()
    report(name, callers, figures)
    hits = await replays(ours, callers)
    bare = 2 * statistics.median(figure.rate for figure in figures["floor"])
    print(f"{name:20}{callers:5} callers  local_cache {hits:9.0f} calls/s  {hits / bare:6.0f} x floor", flush=True)


def report(name: str, callers: int, figures: dict[str, list[Figure]]) -> None:
    """Medians."""
    bare = statistics.median(figure.rate for figure in figures["floor"])
    for what, found in figures.items():
        rate, cpu, p99 = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"{name:20}{callers:5} callers  {what:12}{rate:9.0f} cycles/s {rate / bare:6.2f} x floor"
            f"{cpu:8.0f} us CPU{p99:9.2f} ms p99",
            flush=True,
        )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=["sqlite", "redis", "postgresql", "postgresql-psycopg"])
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=4000)
    parser.add_argument("--widths", nargs="*", type=int, default=[0], help="batches on the wire at once; 0: as usual")
    parser.add_argument("--url", help="measure this server instead, as the one that is named")
    options = parser.parse_args()
    for name in options.servers:
        with ExitStack() as stack:
            if options.url:
                url = options.url
            elif name == "sqlite":
                url = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/idem.db"
            else:
                url = stack.enter_context(servers.start(name.partition("-")[0])).url
            for callers in options.callers:
                asyncio.run(run(name, url, callers, options.rounds, options.cycles, options.widths))


if __name__ == "__main__":
    main()
