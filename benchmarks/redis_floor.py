"""What a claim and its completion cost beside the least that any script call costs.

The floor is two bare EVALSHA of ``return 1`` through the same redis-py, with its defaults. One client, one call after
the other, both measured in turns within one run, so that whatever else the machine does hits both alike. Run it as

    python -m benchmarks.redis_floor [URL] [--rounds N]
"""

import asyncio
import statistics
import time
from typing import NamedTuple

import redis
import redis.asyncio

import idemstore
from benchmarks.common import Report, parser
from idemstore.backends.redis.options import Address, Topology, read_target
from idemstore.url import parse_url

ROUNDS = 5000
WARM_UP = 300
BARE = "return 1"


class Row(NamedTuple):
    """Medians of one mode, in microseconds."""

    mode: str
    bare: float
    ours: float

    def __str__(self) -> str:
        """A line of the table."""
        return f"{self.mode:<8}{self.bare:>14.0f} us{self.ours:>18.0f} us{self.ours / self.bare:>10.2f}"


def row(mode: str, times: list[tuple[float, float]]) -> Row:
    """The medians of what was measured, the start left out."""
    bare, ours = zip(*times[WARM_UP:], strict=True)
    return Row(mode, statistics.median(bare) * 1e6, statistics.median(ours) * 1e6)


def measure(url: str, address: Address, rounds: int = ROUNDS) -> Row:
    """Sync."""
    times, keys = [], []
    with redis.Redis(*address) as client, idemstore.open(url) as store:
        digest = client.script_load(BARE)
        for number in range(rounds + WARM_UP):
            key = f"floor-{time.time_ns()}-{number}"
            start = time.perf_counter()
            client.evalsha(digest, 1, key)
            client.evalsha(digest, 1, key)
            middle = time.perf_counter()
            claim = store.claim(key)
            assert isinstance(claim, idemstore.Claimed)
            store.complete(key, claim.token, b"a result")
            times.append((middle - start, time.perf_counter() - middle))
            keys.append(key)
        for key in keys:
            store.forget(key)
    return row("sync", times)


async def measure_async(url: str, address: Address, rounds: int = ROUNDS) -> Row:
    """Async."""
    times, keys = [], []
    async with redis.asyncio.Redis(host=address.host, port=address.port) as client, idemstore.open_async(url) as store:
        digest = await client.script_load(BARE)
        for number in range(rounds + WARM_UP):
            key = f"floor-{time.time_ns()}-{number}"
            start = time.perf_counter()
            await client.evalsha(digest, 1, key)
            await client.evalsha(digest, 1, key)
            middle = time.perf_counter()
            claim = await store.claim(key)
            assert isinstance(claim, idemstore.Claimed)
            await store.complete(key, claim.token, b"a result")
            times.append((middle - start, time.perf_counter() - middle))
            keys.append(key)
        for key in keys:
            await store.forget(key)
    return row("async", times)


def main() -> None:
    """Measure both modes and print the table."""
    known = parser(__doc__)
    known.add_argument("url", nargs="?", default="redis://localhost:6379/0")
    known.add_argument("--rounds", type=int, default=ROUNDS)
    options = known.parse_args()
    url, rounds = options.url, options.rounds
    target = read_target(parse_url(url))
    if target.topology is not Topology.ONE or not target.addresses[0].port or target.tls:
        raise SystemExit("the floor is measured on one server over TCP: redis://host:port")
    report = Report("redis_floor", "Redis: one caller, against two bare EVALSHA", "redis")
    rows = [measure(url, target.addresses[0], rounds), asyncio.run(measure_async(url, target.addresses[0], rounds))]
    print(f"redis-py {redis.__version__}, {rounds} rounds, medians")
    print(f"{'mode':<8}{'2 x EVALSHA':>17}{'claim + complete':>21}{'ratio':>10}")
    for line in rows:
        print(line)
        report.row(mode=line.mode, floor_us=line.bare, claim_and_complete_us=line.ours, ratio=line.ours / line.bare)
    report.write(options.json)


if __name__ == "__main__":
    main()
