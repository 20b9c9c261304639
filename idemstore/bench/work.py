"""What a worker does with its orders: prepare and warm up, take a sample, look after it, delete what it stored."""

import gc
import time
from typing import Final

from idemstore.bench.bare import BareWork, Caller, Work, looping, warming
from idemstore.bench.counting import Count
from idemstore.bench.floors import Floor, floor_of
from idemstore.bench.hands import HANDS
from idemstore.bench.job import Job, clock
from idemstore.bench.orders import Audited, Forgotten, Go, Hello, Order, Sample
from idemstore.bench.plan import BIG_SIZES, READ_KEYS, Scenario, Who
from idemstore.bench.scenarios import StoreWork
from idemstore.bench.waiting import Group
from idemstore.errors import IdemstoreError

CLEANERS: Final = 16
PREPARERS: Final = 8
WARM: Final = Scenario.UNIQUE
PREPARING: Final = 30.0
"""Seconds that preparing and warming up may take, each."""


def _nothing() -> None:
    """Nobody needs to know when the callers set out."""


class Side:
    """The store or the floor, in one worker."""

    def __init__(self, who: Who, work: Work, failures: tuple[type[Exception], ...]) -> None:
        self.who, self.work, self.failures = who, work, failures
        self.warmed = 0
        """With how many callers it has been used."""


class Worker:
    """One process: a store, its floor, and the orders for them."""

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self._stem = f"{hello.run}{hello.mode[0]}"
        """Part of every key: the modes of a run share a server."""
        self._count = Count()
        self._hands = HANDS[hello.mode](hello.url, self._count)
        self._spaces: list[tuple[str, int]] = []
        """What was stored: the beginning of the keys, and how many there are at most."""
        self._store = StoreWork(self._hands.store, self._stem, hello.process)
        self._sides: dict[Who, Side] = {"store": Side("store", self._store, (IdemstoreError,))}
        floor = floor_of(hello.floor_url) if hello.floor else None
        self._bare = self._hands.bare(floor, hello.floor_url, hello.run) if floor else None
        if floor is not None and self._bare is not None:
            self._sides["floor"] = self._floor(floor)

    def _floor(self, floor: Floor) -> Side:
        """The side of the floor."""
        assert self._bare is not None, "asked for only where there is one"
        return Side("floor", BareWork(self._bare, self._stem, self._hello.process), floor.failures)

    def ready(self, order: Order) -> Job:
        """Prepare what the sample reads and warm up, where that has not been done."""
        side = self._sides[order.who]
        before: list[str] = []
        if not side.warmed:
            # Whatever cannot be prepared ends the run: nothing would be right without it.
            many = READ_KEYS + (len(BIG_SIZES) if side.who == "floor" else 0)
            job = self._job(Order(-1, order.who, WARM, PREPARERS, PREPARING, many))
            self._run(job, [side.work.prepare(job) for _ in range(PREPARERS)], side)
            before += job.wrong
            if side.who == "store":
                self._spaces.append((self._store.stem, READ_KEYS))
        if order.callers > side.warmed:
            job = self._job(Order(-2 - order.callers, order.who, WARM, order.callers, PREPARING, 2 * order.callers))
            self._run(job, [warming(job, side.work) for _ in range(order.callers)], side)
            before += job.wrong
            self._keep(job, side)
            side.warmed = order.callers
        gc.collect()
        job = self._job(order)
        job.wrong += before
        return job

    def sample(self, job: Job, go: Go) -> Sample:
        """Take it."""
        side = self._sides[job.order.who]
        callers = self._callers(job, side)
        before = self._count.look()
        cpu = time.process_time()
        ended = self._run(job, callers, side, go.at)
        cpu = time.process_time() - cpu
        trips = self._count.look() - before
        self._keep(job, side)
        return job.sample(ended, trips, cpu)

    def audit(self, job: Job) -> Audited:
        """Ask again for some of its keys."""
        side = self._sides[job.order.who]
        before = len(job.wrong)
        if side.who == "store":
            self._hands.run([self._store.audit(job)], side.failures, 0.0, _nothing)
        return Audited(tuple(job.wrong[before:]))

    def _job(self, order: Order) -> Job:
        """A job for an order."""
        failures = self._sides[order.who].failures
        return Job(self._stem, self._hello.process, order, failures, self._hands.largest)

    def _callers(self, job: Job, side: Side) -> list[Caller]:
        """The callers of a sample."""
        count = job.order.callers
        if job.order.scenario is Scenario.WAIT:
            return Group(job, side.work, self._hands.meeting(count + 1)).callers()
        return [looping(job, side.work) for _ in range(count)]

    def _run(self, job: Job, callers: list[Caller], side: Side, at: float | None = None) -> float:
        """Run callers on the job's clock."""
        job.epoch = clock() if at is None else at
        return self._hands.run(callers, side.failures, job.epoch, job.begin)

    def _keep(self, job: Job, side: Side) -> None:
        """Note what the store holds now."""
        if side.who != "store":
            return
        match job.order.scenario:
            case Scenario.HOT | Scenario.MIXED:
                self._spaces += [(key, -1) for key in job.asked]
            case Scenario.REPLAY:
                pass
            case _:
                self._spaces.append((job.own, job.tickets))

    def forget(self, seconds: float) -> Forgotten:
        """Delete what this worker stored, the last samples first, as far as the time goes."""
        keys = [
            stem if count < 0 else f"{stem}{number}"
            for stem, count in reversed(self._spaces)
            for number in range(max(1, count) if count < 0 else count)
        ]
        done: list[str] = []
        names = iter(keys)
        until = clock() + seconds

        def cleaner() -> Caller:
            for key in names:
                if clock() > until:
                    return
                try:
                    yield self._hands.forget(key)
                except side.failures:
                    return  # what is left expires, and is counted
                done.append(key)

        side = self._sides["store"]
        self._hands.run([cleaner() for _ in range(CLEANERS)], side.failures, 0.0, _nothing)
        self._spaces.clear()
        return Forgotten(len(done), len(keys) - len(done))

    def close(self) -> None:
        """Close everything."""
        self._hands.close(self._bare)
