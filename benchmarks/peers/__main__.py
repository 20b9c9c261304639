"""Measure: ``python -m benchmarks.peers [--quick] [--only PAIR,...] [--json FILE]``.

For each pair of a library and a server: the library, and this one (``guard.call``, and claim + complete by hand), in
turns within each round; new keys, then the same keys again (replays), with 1 and with 64 callers (tasks for async
libraries, threads for sync ones). Throughput is by the wall clock, the ratio the median of the rounds' ratios. Round
trips are counted by a proxy in a run of their own. Then 16 callers ask for one key at once: how often the
function runs, and what callers are told, is counted for every contender.
"""

import argparse
import asyncio
import importlib
import logging
import os
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import idemstore
from benchmarks.common import EMULATION, Report, Row, parser, percentile, ratio, table, turns, version
from benchmarks.peers import ours
from benchmarks.peers.contender import Contender, Entry, Timing, opened
from idemstore.testing.families.dynamodb import url_of
from idemstore.testing.proxy import Proxy
from idemstore.testing.servers import ServerUnavailable, start

CALLERS: Final = (1, 64)
CROWD: Final = 16
CROWDS: Final = 6
WARM_UP: Final = 5
PACKAGES: Final = ("redis", "asyncpg", "pymongo", "boto3", "aiobotocore", "aioboto3", "idemkit", "idempotency-kit")


class Plan(NamedTuple):
    """How many operations a round has, with one caller and with many: about half a second of each."""

    alone: int
    many: int


class Pair(NamedTuple):
    """A library on a server."""

    library: str
    server: str
    where: str
    """Module and name of the entry."""
    mode: str
    plan: Plan


class Place(NamedTuple):
    """A server that both of a pair use: by which URL each of them does."""

    theirs: str
    ours: str

    def through(self, proxy: Proxy, port: int) -> "Place":
        """The same through a proxy."""
        return Place(*(url.replace(f":{port}", f":{proxy.port}") for url in self))


PAIRS: Final = {
    "idemkit-redis": Pair("idemkit", "redis", "idemkit:redis", "async", Plan(400, 2048)),
    "idemkit-postgresql": Pair("idemkit", "postgresql", "idemkit:postgresql", "async", Plan(200, 1024)),
    "idempotency-kit-redis": Pair("idempotency-kit", "redis", "idempotency_kit:on_redis", "async", Plan(400, 2048)),
    "powertools-redis": Pair("aws-lambda-powertools", "redis", "powertools:on_redis", "sync", Plan(400, 1024)),
    "powertools-dynamodb": Pair("aws-lambda-powertools", "dynamodb", "powertools:on_dynamodb", "sync", Plan(30, 192)),
    "idemkit-dynamodb": Pair("idemkit", "dynamodb", "idemkit:dynamodb", "async", Plan(30, 192)),
    "idemkit-mongodb": Pair("idemkit", "mongodb", "idemkit:mongodb", "async", Plan(15, 64)),
}


SLOW: Final = {
    "dynamodb": "DynamoDB Local answers a few hundred requests a second in all: with 64 callers it is the server that "
    "is measured, for whoever sends as many requests",
    "mongodb": "an emulation of MongoDB, whose time for a command goes with the number of documents: no figure of "
    "MongoDB's; the loser of an upsert race may get no document, which idemkit takes for a failed store",
}
"""What else must be known of figures of a server."""


ODD: Final = {
    "idemkit-dynamodb": "idemkit's README says DynamoBackend('idempotency_keys'), which is a TypeError (it takes 1 "
    "positional argument but 2 were given); measured with from_url(endpoint), as for its other stores",
    "idempotency-kit-redis": "idempotency-kit's README does not show how the coordinator is made; measured as the "
    "docstrings of its classes ask for",
}
"""What happened when a library was used as its README shows."""


def place(server: str, url: str) -> Place:
    """Where they meet."""
    match server:
        case "dynamodb":
            return Place(url, url_of(url, "peers", "timeout=30"))
        case "mongodb":
            direct = f"{url}&directConnection=true"
            return Place(direct, f"{direct}&timeout=30")
        case _:
            return Place(url, url)


class Figures:
    """What the rounds of one contender came to, by what was done."""

    def __init__(self) -> None:
        self.rates: defaultdict[str, list[float]] = defaultdict(list)
        self.calls: defaultdict[str, list[float]] = defaultdict(list)
        self.ran: dict[str, tuple[int, int]] = {}
        """How often the function ran, for how many keys."""
        self.most = 0
        """How often it ran for the key for which it ran most, replays included."""
        self.raised: Counter[str] = Counter()

    def add(self, what: str, timing: Timing, ran: int) -> None:
        """One run."""
        before, of = self.ran.get(what, (0, 0))
        self.ran[what] = before + ran, of + len(timing.calls)
        self.rates[what].append(len(timing.calls) / timing.wall)
        self.calls[what].extend(timing.calls)
        self.raised += timing.raised


def keys(count: int) -> list[str]:
    """New ones."""
    return [os.urandom(16).hex() for _ in range(count)]


class Duel:
    """One pair, measured."""

    def __init__(self, pair: Pair, entries: Sequence[Entry], place: Place, runner: asyncio.Runner) -> None:
        self.pair, self.entries, self.place, self.runner = pair, entries, place, runner

    def _open(self, stack: ExitStack, place: Place, callers: int) -> dict[str, Contender]:
        """All contenders, warm."""
        found = {}
        for entry in self.entries:
            found[entry.name] = stack.enter_context(opened(entry, self._url(entry, place), self.runner))
            found[entry.name].run(keys(WARM_UP), 1)
            if callers > 1:
                found[entry.name].run(keys(min(2 * callers, self.pair.plan.many // 2)), callers)
        return found

    def _url(self, entry: Entry, place: Place) -> str:
        """A collection of its own for each: the emulation of MongoDB reads all of one for every update."""
        if entry.name == self.pair.library:
            return place.theirs
        separate = f"&collection={entry.name.replace(' ', '_')}" if self.pair.server == "mongodb" else ""
        return place.ours + separate

    def rates(self, rounds: int, callers: int) -> dict[str, Figures]:
        """New keys and replays, in turns."""
        figures = {entry.name: Figures() for entry in self.entries}
        count = self.pair.plan.alone if callers == 1 else self.pair.plan.many
        with ExitStack() as stack:
            contenders = self._open(stack, self.place, callers)
            for _, name in turns(list(contenders), rounds):
                chosen, contender, found = keys(count), contenders[name], figures[name]
                contender.job.most()
                found.add("new key", contender.run(chosen, callers), len(contender.job.ran))
                first = len(contender.job.ran)
                found.add("replay", contender.run(chosen, callers), len(contender.job.ran) - first)
                found.most = max(found.most, contender.job.most())
        return figures

    def trips(self, callers: int) -> dict[tuple[str, str], float]:
        """Round trips of one operation, through a proxy."""
        found = {}
        count = 20 if callers == 1 else min(4 * callers, self.pair.plan.many)
        address = urlsplit(self.place.theirs)
        port = address.port or 0
        with Proxy(address.hostname or "", port) as proxy, ExitStack() as stack:
            for name, contender in self._open(stack, self.place.through(proxy, port), callers).items():
                chosen = keys(count)
                for what in ("new key", "replay"):
                    before = proxy.round_trips
                    contender.run(chosen, callers)
                    found[name, what] = (proxy.round_trips - before) / count
        return found

    def crowds(self) -> dict[str, tuple[int, Counter[str]]]:
        """Many callers of one key at once: how often the function ran for it at most, and what was raised."""
        found = {}
        with ExitStack() as stack:
            for name, contender in self._open(stack, self.place, 1).items():
                contender.job.most()
                contender.job.seconds = 0.02
                raised = Counter[str]()
                for key in keys(CROWDS):
                    raised += contender.run([key] * CROWD, CROWD).raised
                found[name] = contender.job.most(), raised
        return found


def told(raised: Counter[str]) -> str:
    """What was raised, by class."""
    return ", ".join(f"{name} x{count}" for name, count in sorted(raised.items()))


def measure(report: Report, pair: Pair, server: str, duel: Duel, rounds: int) -> None:
    """All rows of a pair."""
    crowds = duel.crowds()
    for callers in CALLERS:
        figures, trips = duel.rates(rounds, callers), duel.trips(callers)
        theirs = figures[pair.library]
        for what in ("new key", "replay"):
            for entry in duel.entries:
                mine = figures[entry.name]
                report.row(
                    library=pair.library,
                    server=server,
                    operation=what,
                    callers=callers,
                    contender=entry.name,
                    mode=entry.mode,
                    rate_per_s=statistics.median(mine.rates[what]),
                    ratio=None if mine is theirs else ratio(mine.rates[what], theirs.rates[what]),
                    p50_us=percentile(mine.calls[what], 0.5) * 1e6,
                    p99_us=percentile(mine.calls[what], 0.99) * 1e6,
                    round_trips=trips[entry.name, what],
                    runs_per_operation=mine.ran[what][0] / mine.ran[what][1],
                    most_runs_of_a_key=mine.most,
                    errors=told(mine.raised) or None,
                )
    for name, (most, raised) in crowds.items():
        report.row(
            library=pair.library,
            server=server,
            operation="one key at once",
            callers=CROWD,
            contender=name,
            most_runs_of_a_key=most,
            errors=told(raised) or None,
        )


def entry_of(pair: Pair) -> Entry:
    """The library's own entry; raises ``ModuleNotFoundError`` where it is not installed."""
    module, _, name = pair.where.partition(":")
    found: Callable[..., object] = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)
    return Entry(pair.library, found, pair.mode)  # type: ignore[arg-type]


def compare(report: Report, name: str, rounds: int) -> None:
    """One pair; what stands in its way is recorded."""
    pair = PAIRS[name]
    try:
        entries = [entry_of(pair), *(ours.ASYNC if pair.mode == "async" else ours.SYNC)]
        with start(pair.server) as server, asyncio.Runner() as runner:
            label = pair.server + (EMULATION if server.emulation else "")
            report.server(pair.server, server.version, emulation=server.emulation)
            where = place(pair.server, server.url)
            with idemstore.open(where.ours) as store:
                store.migrate()
            measure(report, pair, label, Duel(pair, entries, where, runner), rounds)
            if name in ODD:
                report.note(f"{name}: {ODD[name]}")
            if pair.server in SLOW:
                report.note(f"{name}: {SLOW[pair.server]}")
    except ModuleNotFoundError as error:
        report.note(f"{name}: {error.name} is not installed: python -m pip install --group peers")
    except ServerUnavailable as error:
        report.note(f"{name}: {error}")
    except Exception as error:  # noqa: BLE001 - that a library does not work as its README shows is a result
        report.note(f"{name}: {type(error).__name__}: {error}")


def verdict(rows: Sequence[Row]) -> list[str]:
    """The goals, against what was measured: 1.2 times at one caller, 3 times at 64. Beside a sync library, 64 callers
    may also be tasks of an async store.
    """
    lines = []
    for row in rows:
        fair = ("idemstore guard",) if row["callers"] == 1 else ("idemstore guard", "idemstore async guard")
        if row["contender"] not in fair or row["operation"] != "new key":
            continue
        goal, found = (1.2 if row["callers"] == 1 else 3.0), float(str(row["ratio"]))
        holds = "reached" if found >= goal else "NOT reached"
        where = f"{row['contender']} / {row['library']} on {row['server']}, {row['callers']} callers"
        lines.append(f"{where}: {found:.2f} (goal {goal}: {holds})")
    return lines


def arguments() -> argparse.Namespace:
    """The command line."""
    found = parser(__doc__)
    found.add_argument("--only", help="some of: " + ", ".join(PAIRS))
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--quick", action="store_true", help="two rounds, without MongoDB's emulation")
    return found.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    report = Report("peers", "Other libraries on the same servers", *PACKAGES)
    report.versions["aws-lambda-powertools"] = version("aws-lambda-powertools") or version("aws_lambda_powertools")
    warnings.simplefilter("ignore")  # what libraries say of their defaults
    logging.getLogger().addHandler(logging.NullHandler())  # what they raise is counted
    chosen = [name for name in PAIRS if not (options.quick and name.endswith("-mongodb"))]
    for name in options.only.split(",") if options.only else chosen:
        before = len(report.rows)
        compare(report, name, 2 if options.quick else options.rounds)
        print(f"\n{name}\n{table(report.rows[before:])}", flush=True)
        report.write(options.json)
    for line in verdict(report.rows):
        report.note(line)
    report.write(options.json)


if __name__ == "__main__":
    main()
