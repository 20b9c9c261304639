"""What the SQLite family costs above SQLite itself: ``python -m benchmarks.sqlite_floor [--cycles N] [--rounds N]``.

In each round, on new files in one directory, one after the other: bare single-row writes (``INSERT`` of key and result,
a transaction each, the same settings), claim + complete cycles, and replays, sync in one thread and async with 64
tasks. Prints the median of the rounds; ratios are taken within a round, so that a busy moment of the machine hits all
of it alike; and CPU time per operation, which other programs on the machine move less.
"""

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import idemstore
from benchmarks.common import Report, parser
from idemstore import Claimed, Completed

RESULT = b"r" * 200
FINGERPRINT = b"f" * 32
TASKS = 64


class Cost(NamedTuple):
    """Of one operation."""

    seconds: float
    cpu: float


def timed(count: int, work: Callable[[], object]) -> Cost:
    """Run ``count`` operations."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def keys(count: int) -> list[str]:
    """Random keys, as callers send them."""
    return [os.urandom(16).hex() for _ in range(count)]


def bare(path: Path, count: int) -> Cost:
    """Writes of one row each, with nothing around them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE bare (key TEXT PRIMARY KEY, result BLOB) STRICT")
        rows = [(key, RESULT) for key in keys(count)]

        def work() -> None:
            for row in rows:
                connection.execute("INSERT INTO bare VALUES (?, ?)", row)

        return timed(count, work)


def sync(path: Path, count: int) -> tuple[Cost, Cost]:
    """Cycles and replays of one thread."""
    chosen = keys(count)
    with idemstore.open(f"sqlite:///{path}") as store:
        store.ping()

        def cycles() -> None:
            for key in chosen:
                claim = store.claim(key, fingerprint=FINGERPRINT)
                assert isinstance(claim, Claimed)
                store.complete(key, claim.token, RESULT)

        def replays() -> None:
            for key in chosen:
                assert isinstance(store.claim(key, fingerprint=FINGERPRINT), Completed)

        return timed(count, cycles), timed(count, replays)


async def spread(work: Callable[[str], Awaitable[None]], chosen: Sequence[str]) -> None:
    """Share the keys out among the tasks."""

    async def task(mine: Sequence[str]) -> None:
        for key in mine:
            await work(key)

    await asyncio.gather(*(task(chosen[number::TASKS]) for number in range(TASKS)))


def concurrent(path: Path, count: int) -> tuple[Cost, Cost]:
    """Cycles and replays of many tasks."""
    chosen = keys(count)
    store = idemstore.open_async(f"sqlite:///{path}?timeout=60")

    async def cycle(key: str) -> None:
        claim = await store.claim(key, fingerprint=FINGERPRINT)
        assert isinstance(claim, Claimed)
        await store.complete(key, claim.token, RESULT)

    async def replay(key: str) -> None:
        assert isinstance(await store.claim(key, fingerprint=FINGERPRINT), Completed)

    with asyncio.Runner() as runner:
        runner.run(store.ping())
        costs = (
            timed(count, lambda: runner.run(spread(cycle, chosen))),
            timed(count, lambda: runner.run(spread(replay, chosen))),
        )
        runner.run(store.close())
    return costs


def measure(count: int) -> dict[str, Cost]:
    """One round."""
    with tempfile.TemporaryDirectory(prefix="idemstore-floor-") as directory:
        place = Path(directory)
        floor = bare(place / "bare.db", count)
        cycle, replay = sync(place / "sync.db", count)
        task_cycle, task_replay = concurrent(place / "async.db", count)
    return {
        "bare write": floor,
        "claim + complete": cycle,
        "replay": replay,
        f"claim + complete, {TASKS} tasks": task_cycle,
        f"replay, {TASKS} tasks": task_replay,
    }


def main() -> None:
    """Measure and print."""
    known = parser(__doc__)
    known.add_argument("--cycles", type=int, default=5000)
    known.add_argument("--rounds", type=int, default=5)
    options = known.parse_args()
    report = Report("sqlite_floor", "SQLite: against bare single-row writes")
    report.versions["sqlite"] = sqlite3.sqlite_version
    rounds = [measure(options.cycles) for _ in range(options.rounds)]
    print(f"SQLite {sqlite3.sqlite_version}, WAL, synchronous=normal, {os.cpu_count()} cores; median of {len(rounds)}")
    for name in rounds[0]:
        rate = statistics.median(1 / result[name].seconds for result in rounds)
        cpu = statistics.median(result[name].cpu for result in rounds) * 1e6
        ratio = statistics.median(result[name].seconds / result["bare write"].seconds for result in rounds)
        print(f"{name:28} {rate:9,.0f} /s   {cpu:6.0f} us CPU   {ratio:5.2f} bare writes")
        report.row(operation=name, rate_per_s=rate, cpu_us=cpu, bare_writes=ratio)
    report.write(options.json)


if __name__ == "__main__":
    main()
