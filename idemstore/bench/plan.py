"""What is to be measured: scenarios, callers, modes, rounds. Plain values; nothing here opens a store."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from idemstore.errors import InvalidInput

Mode = Literal["sync", "async"]
Who = Literal["store", "floor"]

MODES: Final[tuple[Mode, ...]] = ("sync", "async")
MOST_CALLERS: Final = 4096
BUDGET: Final = 25.0
"""Seconds that all samples take together where nobody says how long one is to take ..."""
SHORTEST, LONGEST = 0.1, 1.0
"""... but none takes less or more than these."""
BIG_SIZES: Final = (1024, 4096, 16384, 65536, 262144)
SMALL: Final = 200
"""Bytes of a result where size plays no part."""
READ_KEYS: Final = 100
"""Finished records that replays read in turns."""


class Scenario(StrEnum):
    """What the callers do."""

    UNIQUE = "unique"
    REPLAY = "replay"
    HOT = "hot"
    MIXED = "mixed"
    WAIT = "wait"
    BIG = "big"


TITLES: Final = {
    Scenario.UNIQUE: "unique keys",
    Scenario.REPLAY: "replay",
    Scenario.HOT: "hot key",
    Scenario.MIXED: "mixed (Zipf)",
    Scenario.WAIT: "wait",
    Scenario.BIG: "big results",
}

ABOUT: Final = {
    Scenario.UNIQUE: "claim and complete a new key; floor: two bare writes",
    Scenario.REPLAY: "claim a completed key, get its result; floor: one bare read",
    Scenario.HOT: "all callers claim one key, another one every 50 ms; floor: one bare read",
    Scenario.MIXED: "claim one of 1,000 keys, Zipf-distributed, and complete it if it is new; "
    "floor: two bare writes where the key is new, else one bare read",
    Scenario.WAIT: "one holder completes, all others wait for its result: the time from completing to having it; "
    "floor: one bare write, then one bare read each",
    Scenario.BIG: "claim, complete and replay with results of 1 to 256 KB in turns; "
    "floor: two bare writes and one bare read with the same bytes",
}


class Cell(NamedTuple):
    """One line of the table, for one target."""

    mode: Mode
    scenario: Scenario
    callers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure on each target."""

    scenarios: tuple[Scenario, ...] = tuple(Scenario)
    concurrency: tuple[int, ...] = (1, 64)
    modes: tuple[Mode, ...] = MODES
    processes: int = 1
    seconds: float | None = None
    operations: int | None = None
    rounds: int = 3
    latency: float = 0.0
    """Milliseconds added to each round trip."""

    @property
    def cells(self) -> list[Cell]:
        """All lines, in the order of the table."""
        return [
            Cell(mode, scenario, callers)
            for mode in self.modes
            for scenario in self.scenarios
            for callers in self.concurrency
        ]

    def cells_of(self, mode: Mode) -> list[Cell]:
        """The lines of one mode."""
        return [cell for cell in self.cells if cell.mode == mode]

    def seconds_of_sample(self, targets: int) -> float:
        """How long one sample takes: as was said, or a share of the budget."""
        if self.seconds is not None:
            return self.seconds
        samples = max(1, len(self.cells) * self.rounds * 2 * targets)
        return min(LONGEST, max(SHORTEST, BUDGET / samples))


def read_concurrency(text: str) -> tuple[int, ...]:
    """``1,16,64`` as numbers, in order, each once; or ``InvalidInput``."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if not 1 <= found[0] <= found[-1] <= MOST_CALLERS:
        raise InvalidInput(f"--concurrency takes numbers from 1 to {MOST_CALLERS} with commas between, such as 1,16,64")
    return tuple(found)


def read_scenarios(texts: list[str]) -> tuple[Scenario, ...]:
    """Names, repeated or with commas between, as scenarios; all where there is none; or ``InvalidInput``."""
    names = [name.strip() for text in texts for name in text.split(",")]
    unknown = [name for name in names if name not in set(Scenario)]
    if unknown:
        raise InvalidInput(f"--scenario {unknown[0]}: there is none of that name; there are {', '.join(Scenario)}")
    return tuple(scenario for scenario in Scenario if not names or scenario in names)


def read_modes(text: str) -> tuple[Mode, ...]:
    """``sync``, ``async`` or ``both``."""
    if text == "both":
        return MODES
    if text == "sync":
        return ("sync",)
    if text == "async":
        return ("async",)
    raise InvalidInput(f"--mode {text}: it is sync, async or both")


def callers(count: int) -> str:
    """So many, in words."""
    return f"{count} caller" if count == 1 else f"{count} callers"
