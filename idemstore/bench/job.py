"""One sample while it runs: its keys, its clock, and what its callers saw. Shared by all callers of a process."""

import itertools
import random
import time
from array import array
from collections import Counter
from functools import cache
from typing import Final

from idemstore.bench.orders import Order, Sample
from idemstore.bench.plan import BIG_SIZES, SMALL

clock: Final = time.monotonic

LEASE: Final = 120.0
RETENTION: Final = 600.0
"""Seconds; what cannot be deleted at the end of a run is gone after as many."""
HOT_LIFE: Final = 0.05
MIXED_KEYS: Final = 1000
ZIPF: Final = 1.1
LONGEST_SAMPLE: Final = 60.0
OVERTIME: Final = 1.0
AUDITED: Final = 10


@cache
def zipf(count: int = 4096, keys: int = MIXED_KEYS, exponent: float = ZIPF) -> tuple[int, ...]:
    """Numbers of keys, the n-th of them asked for as often as 1/n^exponent; the same sequence in every run."""
    weights = [1 / rank**exponent for rank in range(1, keys + 1)]
    return tuple(random.Random(4711).choices(range(keys), weights, k=count))  # noqa: S311 - no secret


class Job:
    """Tickets for the callers, and their notes. Everything that several threads write is a list or a counter."""

    def __init__(
        self, run: str, process: int, order: Order, failures: tuple[type[Exception], ...], largest: int
    ) -> None:
        self.order = order
        self.failures = failures
        self.common = f"bench-{run}-{order.number}-"
        self.own = f"{self.common}{process}."
        self.process = process
        self.sizes = tuple(min(size, largest) for size in BIG_SIZES)
        self.small = b"r" * min(SMALL, largest)
        self.epoch = self.began = self.until = 0.0
        self.spans: list[float] | None = None
        self.latencies: list[float] = []
        self.completed: list[int] = []
        self.won: list[str] = []
        self.asked: set[str] = set()
        self.doubtful: set[str] = set()
        self.wrong: list[str] = []
        self._errors: list[str] = []
        self._tickets = itertools.count()
        self._looks = 0

    def begin(self) -> None:
        """The callers set out: the clock runs from here, however late a busy machine let this process be."""
        self.began = clock()
        limit = LONGEST_SAMPLE if self.order.operations is not None else self.order.seconds
        self.until = self.began + limit

    def ticket(self, least: int = 0) -> int | None:
        """The number of the caller's next operation; None where it is over. ``least``: so many there are anyhow, but
        beyond the first not long after the end.
        """
        late = clock() - self.until
        if late >= 0 and not least:
            return None
        number = next(self._tickets)
        if late >= 0 and number >= (least if late < OVERTIME else 1):
            return None
        quota = self.order.operations
        return number if quota is None or number < quota else None

    @property
    def tickets(self) -> int:
        """How many were handed out; for one thread alone."""
        self._looks += 1
        return next(self._tickets) + 1 - self._looks

    def failed(self, error: BaseException) -> None:
        """A call that ended in an error."""
        self._errors.append(type(error).__name__)

    def key(self, number: int) -> str:
        """A key that no other caller asks for."""
        return f"{self.own}{number}"

    def hot(self) -> str:
        """The key of the moment, the same in all processes."""
        return f"{self.common}h{int((clock() - self.epoch) / HOT_LIFE)}"

    def mixed(self, number: int) -> str:
        """A key by Zipf's law; processes begin at different places of the same sequence."""
        numbers = zipf()
        return f"{self.common}m{numbers[(number + self.process * 997) % len(numbers)]}"

    def payload(self, number: int) -> bytes:
        """A big result."""
        return b"b" * self.sizes[number % len(self.sizes)]

    def sample(self, ended: float, trips: int, cpu: float) -> Sample:
        """What there is to tell."""
        won = Counter(self.won)
        cut = [size for size, wanted in zip(self.sizes, BIG_SIZES, strict=True) if size < wanted]
        notes = (f"results are cut to this store's limit of {cut[0]:,} bytes",) if cut else ()
        return Sample(
            began=self.began,
            ended=ended,
            busy=ended - self.began if self.spans is None else sum(self.spans),
            latencies=array("d", self.latencies),
            trips=trips,
            cpu=cpu,
            errors=dict(Counter(self._errors)),
            claims={key: won[key] for key in self.asked | set(won)},
            doubtful=frozenset(self.doubtful),
            wrong=tuple(self.wrong[:20]),
            notes=notes if self.order.scenario == "big" else (),
        )
