"""From the samples of the processes to figures, and from the figures of the rounds to rows. Pure."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from idemstore.bench.orders import Sample
from idemstore.bench.plan import Cell

KEPT_WRONG: Final = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """One sample, all its processes together. Latencies in milliseconds; None where no operation succeeded."""

    operations: int
    seconds: float
    throughput: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    round_trips_per_op: float | None
    wire_round_trips_per_op: float | None
    cpu_us_per_op: float | None
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one cell: the store's figures beside its floor's."""

    number: int
    first: str
    """Who came first, store or floor."""
    store: Figures
    floor: Figures | None
    ratio: float | None
    """Throughput of the store in units of the floor's."""


@dataclass(slots=True)
class Row:
    """One line of the table: medians of its rounds."""

    target: str
    cell: Cell
    rounds: list[Round] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def median(self, of: Callable[[Round], float | None]) -> float | None:
        """The median over the rounds of what they have."""
        found = [value for value in map(of, self.rounds) if value is not None]
        return statistics.median(found) if found else None

    @property
    def throughput(self) -> float | None:
        """Operations a second."""
        return self.median(lambda one: one.store.throughput)

    @property
    def floor_throughput(self) -> float | None:
        """The floor's."""
        return self.median(lambda one: one.floor.throughput if one.floor else None)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        return self.median(lambda one: one.ratio)

    @property
    def errors(self) -> Counter[str]:
        """The store's errors in all rounds."""
        return sum((Counter(one.store.errors) for one in self.rounds), Counter[str]())

    @property
    def floor_errors(self) -> Counter[str]:
        """The floor's errors in all rounds."""
        return sum((Counter(one.floor.errors) for one in self.rounds if one.floor), Counter[str]())


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value that this share of all is not above (nearest rank); None where there is none."""
    if not ordered:
        return None
    rank = -(-len(ordered) * share // 1)
    return ordered[min(len(ordered) - 1, max(0, int(rank) - 1))]


def merged(samples: Sequence[Sample], wire: int | None = None) -> Figures:
    """The figures of one sample. Throughput: all operations over the wall clock from the first to the last."""
    latencies = sorted(chain.from_iterable(sample.latencies for sample in samples))
    operations = len(latencies)
    spanned = max(sample.ended for sample in samples) - min(sample.began for sample in samples)
    on_purpose = all(sample.busy < sample.ended - sample.began for sample in samples)
    seconds = max(sample.busy for sample in samples) if on_purpose else spanned
    errors: Counter[str] = Counter()
    for sample in samples:
        errors.update(sample.errors)

    def each(total: float | None, unit: float = 1.0) -> float | None:
        return None if total is None or not operations else total * unit / operations

    def at(share: float) -> float | None:
        found = percentile(latencies, share)
        return None if found is None else found * 1000

    return Figures(
        operations=operations,
        seconds=seconds,
        throughput=operations / seconds if seconds > 0 else 0.0,
        p50_ms=at(0.50),
        p95_ms=at(0.95),
        p99_ms=at(0.99),
        round_trips_per_op=each(sum(sample.trips for sample in samples)),
        wire_round_trips_per_op=each(wire),
        cpu_us_per_op=each(sum(sample.cpu for sample in samples), 1e6),
        errors=dict(errors),
    )


def violations(samples: Sequence[Sample]) -> list[str]:
    """Where not exactly one caller was Claimed, or somebody was told what cannot be; each with its key."""
    claims: Counter[str] = Counter()
    for sample in samples:
        claims.update(sample.claims)  # keys with none, too
    doubtful = frozenset[str]().union(*(sample.doubtful for sample in samples))
    found = [f"{key}: {claims[key]} Claimed" for key in sorted(claims) if claims[key] > 1]
    found += [f"{key}: 0 Claimed" for key in sorted(claims) if claims[key] == 0 and key not in doubtful]
    found += [line for sample in samples for line in sample.wrong]
    return list(dict.fromkeys(found))[:KEPT_WRONG]


def ratio(store: Figures, floor: Figures | None) -> float | None:
    """The store's throughput in units of the floor's."""
    if floor is None or not floor.throughput or not store.operations:
        return None
    return store.throughput / floor.throughput
