"""What the guard costs: ``python -m benchmarks.guard [URL ...] [--rounds N]``.

- its own CPU time per call (medians of the rounds): ``guard.call`` against claim + complete by hand on the same kind of
  memory store, interleaved;
- the heartbeat: CPU of 10,000 leases of 30 seconds in flight, as a share of one core (memory store, a minute's worth of
  renewals in a third of the time);
- waking: how long after ``complete`` has returned a waiter has its result, for each URL given (memory:// if none);
- a crowd: how long until the last of 1,000 waiters on one key has its result.
"""

import asyncio
import gc
import os
import statistics
import threading
import time
from collections.abc import Callable

import idemstore
from benchmarks.common import Report, parser
from idemstore import Claimed, Completed, Guard
from idemstore.keepalive import Beat, keepalive

CALLS = 4000
LEASES = 10_000
WATCHED = 20.0
WAITERS = 1000
HEAD_START = 0.3
"""Seconds for waiters to be waiting before the owner completes."""


def keys(count: int) -> list[str]:
    """Random keys, as callers send them."""
    return [os.urandom(16).hex() for _ in range(count)]


def per_call(work: Callable[[str], object]) -> float:
    """CPU microseconds of one call."""
    chosen = keys(CALLS)
    gc.collect()
    start = time.process_time()
    for key in chosen:
        work(key)
    return (time.process_time() - start) / CALLS * 1e6


def own_cost(report: Report, rounds: int) -> None:
    """The guard's own time."""
    guarded, bare = idemstore.open("memory://"), idemstore.open("memory://")
    guard = Guard(guarded)

    def by_hand(key: str) -> None:
        claim = bare.claim(key)
        assert isinstance(claim, Claimed)
        bare.complete(key, claim.token, b"1")

    for what, value in (("None", None), ("a small dict", {"receipt": 1, "text": "thank you"})):

        def guarded_call(key: str, value: object = value) -> None:
            guard.call(key, lambda: value)

        pairs = [(per_call(guarded_call), per_call(by_hand)) for _ in range(rounds)]
        extra = statistics.median(with_guard - without for with_guard, without in pairs)
        whole = statistics.median(with_guard for with_guard, _ in pairs)
        report.note(
            f"guard.call, a function that returns {what}: {whole:.1f} us, {extra:.1f} us beside claim and complete"
        )


def heartbeat(report: Report) -> None:
    """The CPU share of many leases."""
    store = idemstore.open("memory://")
    beating = keepalive(store)
    beats = []
    for key in keys(LEASES):
        claim = store.claim(key, lease=30)
        assert isinstance(claim, Claimed)
        beats.append(Beat(key, claim.token, 30.0, None))
        beating.add(beats[-1])
    wall, cpu = time.perf_counter(), time.process_time()
    threading.Event().wait(WATCHED)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    assert not any(beat.lost for beat in beats)
    report.note(f"heartbeat: {LEASES:,} leases of 30 s take {share:.1%} of a core (CPU over {WATCHED:.0f} s)")
    store.close()


def waking(report: Report, url: str, rounds: int) -> None:
    """From the completion to the waiter, in sync mode."""
    late = []
    with idemstore.open(url) as owner:
        other = owner if url == "memory://" else idemstore.open(url)
        owner.migrate()
        for key in keys(rounds):
            claim = owner.claim(key)
            assert isinstance(claim, Claimed)
            woken: list[float] = []

            def wait(key: str = key, woken: list[float] = woken) -> None:
                outcome = other.claim(key, wait=20)
                woken.append(time.perf_counter())
                assert isinstance(outcome, Completed)

            waiter = threading.Thread(target=wait)
            waiter.start()
            threading.Event().wait(HEAD_START)
            owner.complete(key, claim.token, b"1")
            completed = time.perf_counter()
            waiter.join()
            late.append((woken[0] - completed) * 1000)
    report.note(
        f"waking, {url.split(':')[0]}: {statistics.median(late):.2f} ms, slowest {max(late):.2f} ms ({rounds} rounds)"
    )


async def crowd(report: Report, url: str) -> None:
    """Many waiters on one key, as tasks."""
    async with idemstore.open_async(url) as store:
        await store.migrate()
        (key,) = keys(1)
        claim = await store.claim(key)
        assert isinstance(claim, Claimed)
        waiters = [asyncio.create_task(store.claim(key, wait=20)) for _ in range(WAITERS)]
        await asyncio.sleep(2)
        start = time.perf_counter()
        await store.complete(key, claim.token, b"1")
        outcomes = await asyncio.gather(*waiters)
        took = time.perf_counter() - start
        assert all(isinstance(outcome, Completed) for outcome in outcomes)
    report.note(f"crowd, {url.split(':')[0]}: {WAITERS:,} waiters had the result after {took * 1000:.0f} ms")


def main() -> None:
    """Measure and print."""
    known = parser(__doc__)
    known.add_argument("urls", nargs="*", metavar="URL", default=["memory://"])
    known.add_argument("--rounds", type=int, default=15)
    options = known.parse_args()
    report = Report("guard", "The guard: its own cost, heartbeat, waking waiters")
    own_cost(report, options.rounds)
    heartbeat(report)
    for url in options.urls:
        waking(report, url, options.rounds)
        asyncio.run(crowd(report, url))
    report.write(options.json)


if __name__ == "__main__":
    main()
