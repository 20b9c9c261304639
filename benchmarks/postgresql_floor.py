"""What idemstore costs on PostgreSQL, in units of what the same client needs without it, in the same run.

    python -m benchmarks.postgresql_floor [--url postgresql://user@host/db] [--rounds 3000] [--async-commit]
                                          [--placements apart together free]

*write*: claim + complete of a new key, against an INSERT and an UPDATE of one row by primary key.
*read*: a replay, against a SELECT of one row by primary key. *busy*: a claim of a running key, against the same SELECT.
One client, one connection each, prepared statements on both sides, bare and idemstore calls in random order within each
round; medians. Without ``--url`` it starts the servers of the test harness.

Which processor the server's process of a connection happens to be on, and so what it takes to wake it, counts for more
than anything that a client does, and stays as it is for as long as the connection lasts. So client and server are given
their places: *apart*, each on processors of its own, as where the server is another machine; *together*, both on one
processor, where every microsecond of either counts, and neither finds its code in the caches. (*free*: as it happens.)
Rounds are measured in lots, each with connections of its own, of which now the one and now the other is opened first.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from functools import partial
from typing import TypeVar

import asyncpg
import psycopg

import idemstore
from benchmarks.common import Report, parser
from idemstore.testing import servers

RESULT = os.urandom(200)
KEY = "tenant-7:order-4711"
BARE = "floor_bare"
INSERT = f"INSERT INTO {BARE} (key, state) VALUES ({{}}, 1)"
UPDATE = f"UPDATE {BARE} SET state = 2, result = {{}} WHERE key = {{}}"
SELECT = f"SELECT state, result FROM {BARE} WHERE key = {{}}"

Call = Callable[[str], Awaitable[object]]
SyncCall = Callable[[str], object]
Times = dict[str, list[float]]
LOTS = 12
T = TypeVar("T")


def prepare(url: str) -> None:
    """A bare table beside ours."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {BARE}")
        connection.execute(f'CREATE TABLE {BARE} (key text COLLATE "C" PRIMARY KEY, state smallint, result bytea)')
        connection.execute(INSERT.format("%s"), (KEY,))
        connection.execute(UPDATE.format("%s", "%s"), (RESULT, KEY))
    with idemstore.open(f"{url}?table=floor") as store:
        store.migrate()
        store.forget(KEY)
        store.forget("running")
        claim = store.claim(KEY, retention=None)
        assert isinstance(claim, idemstore.Claimed)
        store.complete(KEY, claim.token, RESULT, retention=None)
        store.claim("running", lease=86400)


def clock(times: Times, name: str, began: float) -> None:
    """Note one measurement."""
    times.setdefault(name, []).append(time.perf_counter() - began)


def shuffled(calls: dict[str, T]) -> list[tuple[str, T]]:
    """A round in random order: on a machine at rest whoever comes behind a write finds its processors awake, and is
    served in half the time.
    """
    return random.sample(list(calls.items()), len(calls))


def in_lots(measure: Callable[[int, bool], Times], rounds: int) -> Times:
    """All lots together, without the first rounds of each, in which plans are made. In every other one our connection
    is the first to be opened.
    """
    times: Times = {}
    for lot in range(LOTS):
        for name, found in measure(rounds // LOTS, lot % 2 == 1).items():
            times.setdefault(name, []).extend(found[len(found) // 10 :])
    return times


def sync_times(url: str, rounds: int, first: bool) -> Times:
    """The psycopg driver, sync."""
    times: Times = {}
    with ExitStack() as stack:
        store = stack.enter_context(idemstore.open(f"{url}?table=floor"))
        if first:
            store.ping()
        bare = stack.enter_context(closing(psycopg.connect(url, autocommit=True)))
        bare.prepare_threshold = 0

        def bare_write(key: str) -> None:
            bare.execute(INSERT.format("%s"), (key,))
            bare.execute(UPDATE.format("%s", "%s"), (RESULT, key))

        def write(key: str) -> None:
            claim = store.claim(key)
            assert isinstance(claim, idemstore.Claimed)
            store.complete(key, claim.token, RESULT)

        calls: dict[str, SyncCall] = {
            "bare write": bare_write,
            "write": write,
            "bare read": lambda key: bare.execute(SELECT.format("%s"), (KEY,), binary=True).fetchone(),
            "read": lambda key: store.claim(KEY),
            "busy": lambda key: store.claim("running"),
        }
        for turn in range(rounds):
            key = f"{os.getpid()}-{time.monotonic_ns()}-{turn}"
            for name, call in shuffled(calls):
                began = time.perf_counter()
                call(key)
                clock(times, name, began)
    return times


async def async_times(store: idemstore.AsyncStore, insert: Call, update: Call, select: Call, rounds: int) -> Times:
    """An async driver."""
    times: Times = {}

    async def bare_write(key: str) -> None:
        await insert(key)
        await update(key)

    async def write(key: str) -> None:
        claim = await store.claim(key)
        assert isinstance(claim, idemstore.Claimed)
        await store.complete(key, claim.token, RESULT)

    calls: dict[str, Call] = {
        "bare write": bare_write,
        "write": write,
        "bare read": select,
        "read": lambda key: store.claim(KEY),
        "busy": lambda key: store.claim("running"),
    }
    for turn in range(rounds):
        key = f"{os.getpid()}-{time.monotonic_ns()}-{turn}"
        for name, call in shuffled(calls):
            began = time.perf_counter()
            await call(key)
            clock(times, name, began)
    return times


async def asyncpg_times(url: str, rounds: int, first: bool) -> Times:
    """The asyncpg driver."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(idemstore.open_async(f"{url}?table=floor"))
        if first:
            await store.ping()
        bare = await asyncpg.connect(url)
        stack.push_async_callback(bare.close)
        return await async_times(
            store,
            lambda key: bare.fetch(INSERT.format("$1"), key),
            lambda key: bare.fetch(UPDATE.format("$1", "$2"), RESULT, key),
            lambda key: bare.fetchrow(SELECT.format("$1"), KEY),
            rounds,
        )


async def psycopg_times(url: str, rounds: int, first: bool) -> Times:
    """The psycopg driver, async."""
    address = url.replace("postgresql://", "postgresql+psycopg://")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(idemstore.open_async(f"{address}?table=floor"))
        if first:
            await store.ping()
        bare = await psycopg.AsyncConnection.connect(url, autocommit=True)
        stack.push_async_callback(bare.close)
        bare.prepare_threshold = 0

        async def select(key: str) -> object:
            cursor = await bare.execute(SELECT.format("%s"), (KEY,), binary=True)
            return await cursor.fetchone()

        return await async_times(
            store,
            lambda key: bare.execute(INSERT.format("%s"), (key,)),
            lambda key: bare.execute(UPDATE.format("%s", "%s"), (RESULT, key)),
            select,
            rounds,
        )


def tell(report: Report, server: str, driver: str, placement: str, times: Times) -> None:
    """Medians in microseconds, and the ratios."""
    name = f"{placement} {server} {driver}"
    middle = {what: statistics.median(found) * 1e6 for what, found in times.items()}
    print(
        f"{name:35}"
        f" write {middle['write']:7.0f} / {middle['bare write']:7.0f} us = {middle['write'] / middle['bare write']:.2f}"
        f"   read {middle['read']:6.0f} / {middle['bare read']:6.0f} us = {middle['read'] / middle['bare read']:.2f}"
        f"   busy {middle['busy']:6.0f} us = {middle['busy'] / middle['bare read']:.2f}"
    )
    for what, floor in (("write", "bare write"), ("read", "bare read"), ("busy", "bare read")):
        ratio = middle[what] / middle[floor]
        report.row(
            placement=placement,
            server=server,
            driver=driver,
            operation=what,
            floor_us=middle[floor],
            ours_us=middle[what],
            ratio=ratio,
        )


@contextmanager
def placed(placement: str) -> Iterator[Callable[[], None]]:
    """The servers that are started in here have their processors; what is given puts this process on its own."""
    every = os.sched_getaffinity(0)
    first = {min(every)}
    servers_on, client_on = {
        "apart": (every - first or every, first),
        "together": (first, first),
        "free": (every, every),
    }[placement]
    os.sched_setaffinity(0, servers_on)
    try:
        yield lambda: os.sched_setaffinity(0, client_on)
    finally:
        os.sched_setaffinity(0, every)


@contextmanager
def addresses(url: str | None, names: list[str], async_commit: bool, placement: str) -> Iterator[dict[str, str]]:
    """The servers to measure. A given one stays where it is."""
    settings = {"synchronous_commit": "off"} if async_commit else {}
    with placed(placement) as place_client, ExitStack() as stack:
        found = (
            {"the given server": url}
            if url is not None
            else {name: stack.enter_context(servers.start(name, settings=settings)).url for name in names}
        )
        place_client()
        yield found


def measure(report: Report, name: str, url: str, placement: str, rounds: int) -> None:
    """All drivers on one server."""
    prepare(url)
    for driver, times in (
        ("psycopg", partial(sync_times, url)),
        ("asyncpg", lambda rounds, first: asyncio.run(asyncpg_times(url, rounds, first))),
        ("psycopg async", lambda rounds, first: asyncio.run(psycopg_times(url, rounds, first))),
    ):
        tell(report, name, driver, placement, in_lots(times, rounds))


def main() -> None:
    """Measure."""
    known = parser(__doc__)
    known.add_argument("--url", help="a database in which tables may be made")
    known.add_argument("--servers", nargs="*", default=["postgresql15", "postgresql"])
    known.add_argument("--placements", nargs="*", default=["apart", "together"], choices=["apart", "together", "free"])
    known.add_argument("--rounds", type=int, default=3000)
    known.add_argument("--async-commit", action="store_true", help="synchronous_commit = off: no disk in the figures")
    options = known.parse_args()
    report = Report("postgresql_floor", "PostgreSQL: one caller, against bare statements", "asyncpg", "psycopg")
    for placement in ["free"] if options.url else options.placements:
        with addresses(options.url, options.servers, options.async_commit, placement) as found:
            for name, url in found.items():
                measure(report, name, url, placement, options.rounds)
    report.write(options.json)


if __name__ == "__main__":
    main()
