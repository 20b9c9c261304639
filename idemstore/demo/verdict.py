"""Was every key executed once? Worked out from what the workers did: the ledger, and their journals. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from idemstore.demo.journal import Charge, Entry, What

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the files prove. The claim stands where no list of complaints has an item."""

    keys: int
    callers: int
    answers: int
    charges: int
    repeated: dict[str, int] = field(default_factory=dict)
    """Keys with more than one charge, and how many."""
    missing: list[str] = field(default_factory=list)
    """Keys without a charge."""
    differing: list[str] = field(default_factory=list)
    """Keys whose callers got something else than the receipt of the first charge."""
    shared: dict[str, int] = field(default_factory=dict)
    """Keys of which one attempt was handed to several workers, and to how many."""

    @property
    def once(self) -> bool:
        """Every key executed once, and every caller has the one result."""
        complaints = self.repeated or self.missing or self.differing or self.shared
        return not complaints and self.answers == self.callers

    def headline(self) -> str:
        """The verdict in one line."""
        if self.once:
            return "every key executed once"
        if self.repeated:
            return f"NOT once: {len(self.repeated)} of {self.keys} keys executed more than once"
        if self.missing or self.answers < self.callers:
            return f"NOT proven: the run ended with {self.callers - self.answers} of {self.callers} callers unanswered"
        return "NOT as promised: every key was charged once, but"

    def lines(self) -> list[str]:
        """What the verdict rests on, or what is wrong, in whole sentences."""
        if self.once:
            return [
                f"{self.keys} keys, {self.keys} charges in the ledger; "
                f"all {self.callers} callers got their key's receipt"
            ]
        found = []
        if self.repeated:
            found.append(f"executed more than once: {_counted(self.repeated)}")
        if self.shared:
            found.append(f"one attempt handed to several workers: {_counted(self.shared)}")
        if self.differing:
            found.append(f"callers got different results: {_listed(self.differing)}")
        if self.missing:
            found.append(f"never executed: {_listed(self.missing)}")
        if self.answers < self.callers:
            found.append(f"without a result: {self.callers - self.answers} of {self.callers} callers")
        return found


def _counted(keys: dict[str, int]) -> str:
    """Keys and how often, as text."""
    return _listed([f"{key} ({times} times)" for key, times in sorted(keys.items())])


def _listed(words: Sequence[str]) -> str:
    """The first words, and how many more there are."""
    rest = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def judge(keys: Sequence[str], callers: int, ledger: Iterable[Charge], entries: Iterable[Entry]) -> Verdict:
    """The verdict on a run of ``keys``, each wanted by ``callers`` callers."""
    receipts: dict[str, list[str]] = defaultdict(list)
    for row in ledger:
        if row.receipt:
            receipts[row.key].append(row.receipt)
    answers: dict[tuple[str, int], str] = {}
    results: dict[str, set[str]] = defaultdict(set)
    claims: Counter[tuple[str, int]] = Counter()
    for entry in entries:
        if entry.what in (What.ANSWERED, What.REPLAYED):
            answers[entry.key, entry.number] = entry.detail
            results[entry.key].add(entry.detail)
        elif entry.what is What.CLAIMED:
            claims[entry.key, entry.number] += 1
    return Verdict(
        keys=len(keys),
        callers=len(keys) * callers,
        answers=len(answers),
        charges=sum(map(len, receipts.values())),
        repeated={key: len(some) for key, some in receipts.items() if len(some) > 1},
        missing=[key for key in keys if not receipts[key]],
        differing=[key for key in keys if results[key] - set(receipts[key][:1])],
        shared={key: times for (key, _), times in claims.items() if times > 1},
    )
