"""What idemstore costs over bare DynamoDB calls, in both modes: ratios of medians, interleaved in one run.

    python -m benchmarks.dynamodb_floor [--rounds 400] [--url dynamodb+http://HOST:PORT/TABLE?region=REGION]

Floors: two bare single-item ``PutItem`` against claim + complete, a strongly consistent ``GetItem`` against a replay.
The floor's client is the same library's, as one gets it (boto3, aiobotocore), with items of the same size. Without
``--url`` it starts DynamoDB Local.
"""

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import boto3
from aiobotocore.session import AioSession

import idemstore
from benchmarks.common import Report, parser
from idemstore.outcomes import Claimed, InFlight
from idemstore.testing.families.dynamodb import ACCESS, SECRET, url_of
from idemstore.testing.servers import start
from idemstore.url import parse_url

BOUNDS = {"claim + complete": 1.15, "replay": 1.25}
HOT = 64
PAYLOAD = b"r" * 100


def floor_arguments(url: str) -> dict[str, str]:
    """How a bare client reaches the same server."""
    parsed = parse_url(url)
    host = parsed.hosts[0]
    return {
        "service_name": "dynamodb",
        "endpoint_url": f"http://{host.name}:{host.port}",
        "region_name": dict(parsed.query)["region"],
        "aws_access_key_id": ACCESS,
        "aws_secret_access_key": SECRET,
    }


class Timings:
    """Medians by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """One measurement."""
        self.seconds.setdefault(name, []).append(seconds)

    def median(self, name: str) -> float:
        """In milliseconds; the first tenth is warm-up."""
        values = self.seconds[name]
        return statistics.median(values[len(values) // 10 :]) * 1000

    def report(self, mode: str, report: Report) -> bool:
        """Print, and say whether the bounds hold."""
        rows = {
            "claim + complete": (self.median("claim") + self.median("complete"), 2 * self.median("put")),
            "replay": (self.median("replay"), self.median("get")),
        }
        for name, (mine, floor) in rows.items():
            ratio, bound = mine / floor, BOUNDS[name]
            verdict = "ok" if ratio <= bound else "TOO SLOW"
            print(f"{mode:5} {name:17} {mine:6.2f} ms / {floor:6.2f} ms = {ratio:.3f} (at most {bound}) {verdict}")
            report.row(mode=mode, operation=name, floor_ms=floor, ours_ms=mine, ratio=ratio, bound=bound)
        return all(mine / floor <= BOUNDS[name] for name, (mine, floor) in rows.items())


def run_sync(url: str, rounds: int) -> Timings:
    """Sync: boto3."""
    timings, prefix = Timings(), os.urandom(4).hex()
    bare = boto3.Session().client(**floor_arguments(url))
    with idemstore.open(url) as store:
        table = parse_url(url).path[1:]
        store.ping()
        for turn in range(rounds):
            key = f"{prefix}-{turn}"
            tokens: list[str] = []

            def put(key: str = key) -> object:
                return bare.put_item(TableName=table, Item={"id": {"S": key + "-bare"}, "data": {"B": PAYLOAD}})

            def get(key: str = key) -> object:
                return bare.get_item(TableName=table, Key={"id": {"S": key + "-bare"}}, ConsistentRead=True)

            def claim(key: str = key, tokens: list[str] = tokens) -> object:
                outcome = store.claim(key, fingerprint=b"f" * 32)
                assert isinstance(outcome, Claimed)
                tokens.append(outcome.token)
                return outcome

            def complete(key: str = key, tokens: list[str] = tokens) -> object:
                return store.complete(key, tokens[0], PAYLOAD)

            def replay(key: str = key) -> object:
                return store.claim(key, fingerprint=b"f" * 32)

            for first, second in _pairs(put, claim, complete, replay, get):
                for name, call in (first, second):
                    started = time.perf_counter()
                    call()
                    timings.add(name, time.perf_counter() - started)
    return timings


Call = Callable[[], object]


def _pairs(
    put: Call, claim: Call, complete: Call, replay: Call, get: Call
) -> list[tuple[tuple[str, Call], tuple[str, Call]]]:
    """Each of ours beside its floor, in random order."""
    pairs = [
        (("claim", claim), ("put", put)),
        (("complete", complete), ("put", put)),
        (("replay", replay), ("get", get)),
    ]
    return [pair if random.random() < 0.5 else (pair[1], pair[0]) for pair in pairs]


async def run_async(url: str, rounds: int) -> Timings:
    """Async: aiobotocore."""
    timings, prefix = Timings(), os.urandom(4).hex()
    async with AioSession().create_client(**floor_arguments(url)) as bare, idemstore.open_async(url) as store:
        table = parse_url(url).path[1:]
        await store.ping()
        for turn in range(rounds):
            key = f"{prefix}-{turn}"
            await _turn(timings, bare, store, table, key)
    return timings


async def _turn(timings: Timings, bare: object, store: idemstore.AsyncStore, table: str, key: str) -> None:
    """One round."""
    bare_key = {"id": {"S": key + "-bare"}}
    token = idemstore.store.checks.new_token()

    def put() -> Awaitable[object]:
        return bare.put_item(TableName=table, Item={**bare_key, "data": {"B": PAYLOAD}})

    def get() -> Awaitable[object]:
        return bare.get_item(TableName=table, Key=bare_key, ConsistentRead=True)

    def claim() -> Awaitable[object]:
        return store.claim(key, fingerprint=b"f" * 32, token=token)

    def complete() -> Awaitable[object]:
        return store.complete(key, token, PAYLOAD)

    def replay() -> Awaitable[object]:
        return store.claim(key, fingerprint=b"f" * 32)

    for first, second in _pairs(put, claim, complete, replay, get):
        for name, call in (first, second):
            started = time.perf_counter()
            await call()
            timings.add(name, time.perf_counter() - started)


async def hot_key(url: str) -> bool:
    """64 clients on one key: one winner, no error, one trip to the server for each."""
    async with idemstore.open_async(url) as store:
        await store.ping()
        started = time.perf_counter()
        key = f"hot-{os.urandom(4).hex()}"
        answers = await asyncio.gather(*(store.claim(key) for _ in range(HOT)))
        seconds = time.perf_counter() - started
    winners = sum(isinstance(answer, Claimed) for answer in answers)
    busy = sum(isinstance(answer, InFlight) for answer in answers)
    print(f"async {HOT} clients on one key: {winners} winner, {busy} told to wait, {seconds * 1000:.0f} ms in all")
    return winners == 1 and busy == HOT - 1


def main() -> int:
    """Measure and judge."""
    known = parser(__doc__)
    known.add_argument("--rounds", type=int, default=400)
    known.add_argument("--url")
    arguments = known.parse_args()
    report = Report("dynamodb_floor", "DynamoDB: one caller, against bare calls", "boto3", "aiobotocore")
    with ExitStack() as stack:
        url = arguments.url or url_of(stack.enter_context(start("dynamodb")).url, "idemstore-floor")
        with idemstore.open(url) as store:
            store.migrate()
        good = run_sync(url, arguments.rounds).report("sync", report)
        good &= asyncio.run(run_async(url, arguments.rounds)).report("async", report)
        good &= asyncio.run(hot_key(url))
    report.write(arguments.json)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
