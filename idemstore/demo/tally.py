"""Counts for the display and the table, from journal entries and what the parent did to its workers."""

from collections import Counter
from dataclasses import dataclass, field

from idemstore.demo.journal import Entry, What
from idemstore.demo.plan import Fault, Settings


@dataclass(slots=True)
class Row:
    """One worker, as the display shows it."""

    number: int
    doing: str = "starting"
    key: str = ""
    completed: int = 0
    replayed: int = 0
    kills: int = 0
    down: bool = False


@dataclass(slots=True)
class Tally:
    """What has happened so far."""

    settings: Settings
    counts: Counter[What] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    takeovers: int = 0
    settled: set[str] = field(default_factory=set)
    answered: set[tuple[str, int]] = field(default_factory=set)
    rows: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """One row for each worker."""
        self.rows = {number: Row(number) for number in range(1, self.settings.workers + 1)}

    @property
    def callers(self) -> int:
        """How many callers want a result."""
        return self.settings.keys * self.settings.attempts

    @property
    def kills(self) -> int:
        """Workers killed."""
        return sum(times for fault, times in self.faults.items() if fault is not Fault.STALL)

    def add(self, entry: Entry) -> None:
        """Count one line of a journal."""
        self.counts[entry.what] += 1
        row = self.rows[entry.worker]
        row.down = row.down and entry.what is not What.STARTED
        if not row.down:
            row.doing, row.key = DOING[entry.what], entry.key
        match entry.what:
            case What.CLAIMED if entry.number > 1:
                self.takeovers += 1
            case What.ANSWERED:
                row.completed += 1
                self._answer(entry)
            case What.REPLAYED:
                row.replayed += 1
                self._answer(entry)
            case _:
                pass

    def _answer(self, entry: Entry) -> None:
        """A caller has its result."""
        self.settled.add(entry.key)
        self.answered.add((entry.key, entry.number))

    def strike(self, number: int, fault: Fault) -> None:
        """A worker was killed or put to sleep."""
        self.faults[fault] += 1
        row = self.rows[number]
        row.down = fault is not Fault.STALL
        row.doing = "killed" if row.down else "asleep past its lease of"
        row.key = "" if row.down else row.key
        row.kills += row.down


DOING = {
    What.STARTED: "started",
    What.TRIED: "asking for",
    What.BUSY: "told to wait for",
    What.CLAIMED: "executing",
    What.REACHED: "executing",
    What.CHARGED: "completing",
    What.FOUND: "completing",
    What.REFUSED: "too late for",
    What.LOST: "too late for",
    What.ANSWERED: "completed",
    What.REPLAYED: "got the result of",
    What.TROUBLE: "in trouble with",
    What.BROKE: "broken",
    What.FINISHED: "finished",
}
