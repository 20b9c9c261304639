"""Whether size matters: ``python -m benchmarks.scale [--full] [--quick] [--only FAMILY,...] [--json FILE]``.

*Claims*: a store of 1,000 records beside one that grows to 10^4, 10^5, ...: claims of new keys, and replays of keys
anywhere in it, on both in turns; and what a record takes. New claims are released again, so that the stores stay as
large as they are said to be.

*Purge*: a store of 10^6 records whose retention is over and some live ones: how fast ``purge`` deletes them while one
client goes on claiming, and what that does to its claims. The live ones are counted before and after.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import idemstore
from benchmarks import loaders
from benchmarks.common import Report, Row, parser, percentile, table
from benchmarks.loaders import FINGERPRINT, Place, key_of
from idemstore import Claimed, Completed, Store
from idemstore.testing.servers import ServerUnavailable, start

SMALL: Final = 1000
GOAL: Final = 1.3
SAMPLES: Final = 12
SETTINGS: Final = {"max_wal_size": "32GB", "checkpoint_timeout": "1h", "shared_buffers": "512MB"}
"""PostgreSQL: no checkpoint of what was just loaded while claims are timed."""


class Family(NamedTuple):
    """How far a family goes, and how often each size is measured."""

    quick: int
    usual: int
    full: int
    claims: int


FAMILIES: Final = {
    "memory": Family(10**4, 10**6, 10**7, 4000),
    "sqlite": Family(10**5, 10**6, 10**7, 2000),
    "redis": Family(10**5, 10**6, 10**7, 2000),
    "postgresql": Family(10**5, 10**6, 10**7, 1500),
    "mongodb": Family(10**3, 10**3, 10**4, 60),
    "dynamodb": Family(10**3, 10**4, 10**5, 150),
}
PURGED: Final = ("sqlite", "postgresql")


@contextmanager
def places(family: str, report: Report) -> Iterator[tuple[Callable[[str], Place], Path]]:
    """Makes places of a family, by name."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idemstore-scale-")))
        if family == "memory":
            yield lambda name: loaders.Memory(), directory
            return
        if family == "sqlite":
            yield lambda name: loaders.Sqlite(directory / f"{name}.db"), directory
            return
        server = stack.enter_context(start(family, settings=SETTINGS if family == "postgresql" else {}))
        report.server(family, server.version, emulation=server.emulation)
        numbers = {"small": 1, "large": 2}
        makers: dict[str, Callable[[str], Place]] = {
            "redis": lambda name: loaders.Redis(server.url, numbers[name]),
            "postgresql": lambda name: loaders.Postgresql(server.url, f"scale_{name}"),
            "mongodb": lambda name: loaders.Mongodb(server.url, f"scale_{name}"),
            "dynamodb": lambda name: loaders.Dynamodb(server.url, f"scale-{name}"),
        }
        yield makers[family], directory


class Clock:
    """Times by what was done, and where."""

    def __init__(self) -> None:
        self.times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def claim(self, where: str, store: Store) -> None:
        """One new key, released again."""
        key = random.randbytes(16).hex()
        began = time.perf_counter()
        claim = store.claim(key, fingerprint=FINGERPRINT)
        self.times["claim", where].append(time.perf_counter() - began)
        assert isinstance(claim, Claimed)
        store.release(key, claim.token)

    def replay(self, where: str, store: Store, key: str) -> None:
        """One key that is there."""
        began = time.perf_counter()
        found = store.claim(key, fingerprint=FINGERPRINT)
        self.times["replay", where].append(time.perf_counter() - began)
        assert isinstance(found, Completed)

    def microseconds(self, what: str, where: str, share: float) -> float:
        """A percentile, the first tenth left out."""
        times = self.times[what, where]
        return percentile(times[len(times) // 10 :], share) * 1e6


Batches = dict[int, int]
"""How many records each batch has."""


def compare(small: Place, large: Place, batches: Batches, count: int) -> Clock:
    """Both, in turns."""
    clock, (numbers, sizes) = Clock(), zip(*batches.items(), strict=True)
    for turn in range(count):
        (batch,) = random.choices(numbers, sizes)
        anywhere = key_of(batch, random.randrange(batches[batch]), batches[batch])
        near = key_of(0, random.randrange(SMALL), SMALL)
        pair = [("small", small, near), ("large", large, anywhere)]
        for where, place, key in pair if turn % 2 else reversed(pair):
            clock.claim(where, place.store)
            clock.replay(where, place.store, key)
    return clock


def row(report: Report, family: str, records: int, clock: Clock, large: Place, seconds: float) -> Row:
    """One size."""
    columns: Row = {"measured": "claims", "family": family, "records": records}
    for what in ("claim", "replay"):
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            mine, small = (clock.microseconds(what, where, share) for where in ("large", "small"))
            columns |= {f"{what}_{name}_us": mine, f"{what}_{name}_ratio": mine / small}
    size = large.size()
    columns |= {
        "bytes_per_record": None if size is None else round(size / records),
        "size_mb": None if size is None else round(size / 1e6),
        "load_s": seconds,
    }
    return report.row(**columns)


def grow(report: Report, family: str, most: int) -> None:
    """Every size of a family."""
    with places(family, report) as (make, _):
        small = make("small")
        small.load(0, SMALL)
        large = make("large")
        batches: Batches = {}
        size = SMALL
        while size <= most:
            batch, more = len(batches), size - sum(batches.values())
            began = time.perf_counter()
            large.load(batch, more)
            took = time.perf_counter() - began
            batches[batch] = more
            loaders.check(large, batch, more, [0, more - 1, *(random.randrange(more) for _ in range(SAMPLES))])
            clock = compare(small, large, batches, FAMILIES[family].claims)
            print(table([row(report, family, size, clock, large, took)]), flush=True)
            size *= 10
        small.store.close()
        large.store.close()


class Traffic:
    """One client that claims and completes new keys, and times its claims."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.completed = 0
        self.times: list[float] = []
        self._stop = threading.Event()

    def run(self) -> None:
        """Until it is stopped."""
        with idemstore.open(self._url) as store:
            while not self._stop.is_set():
                key = random.randbytes(16).hex()
                began = time.perf_counter()
                claim = store.claim(key)
                self.times.append(time.perf_counter() - began)
                assert isinstance(claim, Claimed)
                store.complete(key, claim.token, b"1")
                self.completed += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """In a thread of its own."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def since(self, start: int) -> list[float]:
        """What it took from then on."""
        return self.times[start:]


def purge(report: Report, family: str, over: int, alone: float) -> None:
    """Delete what is over, while a client goes on."""
    live = max(SMALL, over // 10)
    with places(family, report) as (make, _):
        place = make("large")
        place.load(1, live)
        place.load(2, over, expired=True)
        before = place.live()
        traffic, gone = Traffic(place.url), 0  # type: ignore[attr-defined]
        with traffic.running():
            time.sleep(alone)
            quiet = traffic.since(0)
            began = time.perf_counter()
            while some := place.store.purge():
                gone += some
            took = time.perf_counter() - began
            busy = traffic.since(len(quiet))
        after = place.live()
        loaders.check(place, 1, live, range(0, live, max(1, live // 50)))
        report.row(
            measured="purge",
            family=family,
            expired=over,
            purged=gone,
            collected_by_claims=over - gone,
            purged_per_s=gone / took,
            seconds=took,
            live_before=before,
            live_lost=before + traffic.completed - after,
            claim_p50_before_us=percentile(quiet, 0.5) * 1e6 if quiet else None,
            claim_p99_before_us=percentile(quiet, 0.99) * 1e6 if quiet else None,
            claim_p50_during_us=percentile(busy, 0.5) * 1e6 if busy else None,
            claim_p99_during_us=percentile(busy, 0.99) * 1e6 if busy else None,
            claims_before_per_s=len(quiet) / alone,
            claims_during_per_s=len(busy) / took,
        )
        place.store.close()
    print(table(report.rows[-1:]), flush=True)


def verdict(report: Report) -> None:
    """The goal: a claim at the largest size takes at most 1.3 times as long as at the smallest."""
    largest: dict[str, Row] = {str(row["family"]): row for row in report.rows if row["measured"] == "claims"}
    for family, found in largest.items():
        times = float(str(found["claim_p50_ratio"]))
        holds = "reached" if times <= GOAL else "NOT reached"
        report.note(f"{family}, {found['records']:,} records: a claim takes {times:.2f} times as long ({holds})")


def arguments() -> argparse.Namespace:
    """The command line."""
    found = parser(__doc__)
    found.add_argument("--only", default=",".join(FAMILIES), help="some of: " + ", ".join(FAMILIES))
    found.add_argument("--quick", action="store_true", help="small sizes")
    found.add_argument(
        "--full", action="store_true", help="up to 10^7 records (MongoDB's emulation 10^4, DynamoDB Local 10^5)"
    )
    found.add_argument("--most", type=int, help="no size beyond this one")
    found.add_argument("--no-purge", action="store_true")
    return found.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    report = Report(
        "scale", "Size: claims with many records present, and purge", "redis", "psycopg", "pymongo", "boto3"
    )
    chosen = options.only.split(",")
    for name in chosen:
        family = FAMILIES[name]
        most = family.quick if options.quick else family.full if options.full else family.usual
        try:
            grow(report, name, min(most, options.most or most))
            if name in PURGED and not options.no_purge:
                purge(report, name, 10**5 if options.quick else 10**6, 0.5 if options.quick else 3.0)
        except ServerUnavailable as error:
            report.note(f"{name}: {error}")
        report.write(options.json)
    verdict(report)
    report.write(options.json)


if __name__ == "__main__":
    main()
