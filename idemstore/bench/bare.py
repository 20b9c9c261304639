"""What a floor is: bare calls of a client library, and how they stand in for each scenario.

One ``Bare`` serves both modes: in async mode its methods return awaitables.
"""

import threading
from collections.abc import Generator
from typing import Protocol

from idemstore.bench.job import Job, clock
from idemstore.bench.plan import READ_KEYS, Scenario

Caller = Generator[object, object, None]
"""A caller as a generator: it yields what a call returned (async: an awaitable) and is sent the answer."""


class Bare(Protocol):
    """Bare calls on rows of this run alone, in a place of their own or under a prefix."""

    def insert(self, key: str) -> object:
        """Write a new row, without a result."""
        ...

    def update(self, key: str, result: bytes) -> object:
        """Write the result into that row."""
        ...

    def seed(self, key: str, result: bytes) -> object:
        """Store a row that will be read."""
        ...

    def read(self, key: str) -> object:
        """Read a row that was seeded."""
        ...

    def close(self) -> object:
        """Close the connections."""
        ...


class BareWork:
    """Each scenario, in bare calls."""

    def __init__(self, bare: Bare, run: str, process: int) -> None:
        self._bare, self._stem = bare, f"bench-{run}-seeded-{process}."
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def prepare(self, job: Job) -> Caller:
        """Seed what is read: small rows, and one of each size."""
        while (number := job.ticket()) is not None:
            if number < READ_KEYS:
                yield self._bare.seed(f"{self._stem}{number}", job.small)
            elif number < READ_KEYS + len(job.sizes):
                yield self._bare.seed(f"{self._stem}big{number % len(job.sizes)}", job.payload(number))
            else:
                return

    def warm(self, job: Job, number: int) -> Caller:
        """Every kind of call."""
        yield self._bare.insert(job.key(number))
        yield self._bare.update(job.key(number), job.small)
        yield self._bare.read(f"{self._stem}{number % READ_KEYS}")

    def operation(self, job: Job, number: int) -> Caller:
        """One operation of the sample's scenario."""
        match job.order.scenario:
            case Scenario.UNIQUE:
                yield self._bare.insert(job.key(number))
                yield self._bare.update(job.key(number), job.small)
            case Scenario.REPLAY:
                yield self._bare.read(f"{self._stem}{number % READ_KEYS}")
            case Scenario.HOT:
                yield self._bare.read(f"{self._stem}0")
            case Scenario.MIXED:
                yield from self._mixed(job, number)
            case Scenario.BIG:
                yield self._bare.insert(job.key(number))
                yield self._bare.update(job.key(number), job.payload(number))
                yield self._bare.read(f"{self._stem}big{number % len(job.sizes)}")
            case Scenario.WAIT:
                raise AssertionError("the wait scenario is no loop of operations")

    def _mixed(self, job: Job, number: int) -> Caller:
        """Two writes where this process has not seen the key in this sample, else one read."""
        key = f"{job.mixed(number)}.{job.process}"
        with self._lock:
            new = key not in self._seen
            self._seen.add(key)
        if new:
            yield self._bare.insert(key)
            yield self._bare.update(key, job.small)
        else:
            yield self._bare.read(f"{self._stem}{number % READ_KEYS}")

    def hold(self, job: Job, number: int) -> Caller:
        """The wait scenario: nothing before the holder completes."""
        yield self._bare.insert(job.key(number))

    def finish(self, job: Job, number: int) -> Caller:
        """What the holder does at last."""
        yield self._bare.update(job.key(number), job.small)

    def follow(self, job: Job, number: int) -> Caller:
        """What a waiter does once it may."""
        yield self._bare.read(f"{self._stem}{number % READ_KEYS}")

    waits = False
    """A bare client cannot wait: it is told when to read."""


def looping(job: Job, work: "BareWork | Work") -> Caller:
    """A caller that does one operation after the other until the time is up; one of them does at least one."""
    while (number := job.ticket(1)) is not None:
        began = clock()
        try:
            yield from work.operation(job, number)
        except job.failures as error:
            job.failed(error)
        else:
            job.latencies.append(clock() - began)


def warming(job: Job, work: "BareWork | Work") -> Caller:
    """A caller that only warms up."""
    while (number := job.ticket()) is not None:
        try:
            yield from work.warm(job, number)
        except job.failures as error:
            job.failed(error)


class Work(Protocol):
    """What the callers of a sample do; see ``scenarios.StoreWork`` and ``BareWork``."""

    waits: bool
    """Whether a waiter asks before the holder has finished."""

    def prepare(self, job: Job) -> Caller:
        """What must be stored before the first sample."""
        ...

    def warm(self, job: Job, number: int) -> Caller:
        """One operation that opens connections and prepares statements."""
        ...

    def operation(self, job: Job, number: int) -> Caller:
        """One operation of the sample's scenario."""
        ...

    def hold(self, job: Job, number: int) -> Caller:
        """Wait scenario: the holder begins."""
        ...

    def finish(self, job: Job, number: int) -> Caller:
        """Wait scenario: the holder finishes."""
        ...

    def follow(self, job: Job, number: int) -> Caller:
        """Wait scenario: a waiter."""
        ...
