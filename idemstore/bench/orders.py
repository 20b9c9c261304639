"""What the command says to its worker processes, and what they say back. Plain values that can be pickled."""

from array import array
from dataclasses import dataclass, field

from idemstore.bench.plan import Mode, Scenario, Who


@dataclass(frozen=True, slots=True)
class Hello:
    """The first word to a worker: what it works on. The URLs may hold passwords: never show them."""

    url: str = field(repr=False)
    """Of the store."""
    floor_url: str = field(repr=False)
    """The same server as the floor sees it: through a proxy of its own where latency is added."""
    mode: Mode
    run: str
    """Part of every key of this run."""
    process: int
    floor: bool
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """One sample, as one process is to take it."""

    number: int
    who: Who
    scenario: Scenario
    callers: int
    seconds: float
    operations: int | None
    """Of this process; None: as many as there is time for."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything is prepared and warm."""


@dataclass(frozen=True, slots=True)
class Go:
    """Begin, all processes at this moment (monotonic clock, the same for all of them)."""

    at: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process saw in one sample."""

    began: float
    ended: float
    busy: float
    """Seconds on the wall clock that count; less than from beginning to end where a scenario waits on purpose."""
    latencies: "array[float]" = field(repr=False)
    trips: int
    cpu: float
    errors: dict[str, int]
    claims: dict[str, int]
    """How often each key that several callers asked for was Claimed, as far as this process saw."""
    doubtful: frozenset[str]
    """Those of them whose claims did not all get an answer."""
    wrong: tuple[str, ...]
    """What no store may do, with the key."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Audit:
    """Look at the records of the sample."""


@dataclass(frozen=True, slots=True)
class Audited:
    """What a look at the records of a sample found afterwards, when its clock and its counts had stopped."""

    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete the records of this run, as far as it can be done in so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of them."""

    deleted: int
    left: int


@dataclass(frozen=True, slots=True)
class Broke:
    """A worker cannot go on; in words for people."""

    message: str
    usage: bool = False
    """Whether it is the user's to put right (a missing package, a wrong option) rather than the store's."""


Said = Ready | Sample | Audited | Forgotten | Broke
Asked = Hello | Order | Go | Audit | Forget
