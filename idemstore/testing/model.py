"""The Hypothesis model: any sequence of operations, on a store and on ``machine.step``, must be answered alike.

Time passes for both by ageing: the subject's records by ``Subject.age``, the model's by its clock. Every duration is a
multiple of ``UNIT`` and every ageing a little more than one, so no lease ends within minutes of a test's "now" and the
time that the test itself takes never matters.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from idemstore.errors import IdemstoreError
from idemstore.exchange import Snapshot
from idemstore.machine import MICROSECONDS, Claim, Complete, Event, Fail, Phase, Record, Release, Renew, phase, step
from idemstore.outcomes import Abandoned, Claimed, Failed, InFlight
from idemstore.testing.contract_lab import Lab
from idemstore.testing.storm import Outcome, perform

UNIT: Final = 10_000 * MICROSECONDS
OFFSET: Final = 700 * MICROSECONDS
"""Less than a hundred ageings never add up to a whole number of units."""
TOLERANCE: Final = 300.0
"""Seconds by which the store's clock may have run on, since it does not stand still as the model's does."""

examples: Final[Counter[tuple[str, str]]] = Counter()
"""How many examples ran, by subject and mode."""

_serial: Final = itertools.count(1)


@dataclass
class Twin:
    """One key: the model's record and clock, and what the store's answers must be read with."""

    name: str
    record: Record | None = None
    now: int = 0
    tokens: list[str] = field(default_factory=list)
    ghost: bool = False
    """Whether an expired record may still lie there."""
    fences: dict[int, int] = field(default_factory=dict)
    """The model's fences and the store's."""

    def step(self, event: Event) -> Outcome:
        """What the machine answers; its clock ticks, so its fences grow."""
        self.now += 1
        self.record, outcome = step(self.record, event, self.now)
        self.ghost = self.ghost and self.record is None
        return outcome

    def age(self, micros: int) -> None:
        """Time passes."""
        self.now += micros
        if self.record is not None and not self.alive():
            self.record, self.ghost = None, True

    def left(self) -> list[int]:
        """Microseconds until lease, back-off and retention end."""
        record = self.record
        ends = () if record is None else (record.lease_until, record.retry_at, record.expires_at)
        return [end - self.now for end in ends if end is not None]

    def alive(self) -> bool:
        """Whether there is a record."""
        return phase(self.record, self.now) is not Phase.ABSENT

    def token(self, who: str) -> str:
        """The token of the current owner (or last record), of an earlier claim, or of nobody."""
        if who == "owner" and self.record is not None:
            return self.record.token
        if who == "former" and self.tokens:
            return self.tokens[0]
        return "stranger"

    def fence(self, model: int, real: int) -> None:
        """A fence that is new to the model must be greater than all before; a known one must be the same."""
        if model not in self.fences:
            assert all(real > earlier for earlier in self.fences.values()), f"fence {real} did not grow"
            self.fences[model] = real
        assert real == self.fences[model], f"fence {real} should be {self.fences[model]}"

    def agree(self, model: Outcome, real: object) -> None:
        """The store must answer as the model, but for the passing of time and the numbers of fences."""
        match model, real:
            case (Claimed() | Abandoned(), Claimed() | Abandoned()):
                self.fence(model.fence, real.fence)
                assert replace(real, fence=model.fence) == model
            case InFlight(), InFlight():
                close(real.retry_after, model.retry_after)
            case Failed(), Failed():
                assert real.result == model.result
                close(real.retry_after, model.retry_after)
            case _:
                assert real == model, f"the store answered {real!r}, the machine {model!r}"

    def look(self, found: Snapshot | None) -> None:
        """What ``get`` shows must be the model's record."""
        if not self.alive() or self.record is None:
            assert found is None, f"the store has {found!r}, the machine nothing"
            return
        assert found is not None, f"the store has nothing, the machine {self.record!r}"
        mine, its = self.record, found.record
        self.fence(mine.fence, its.fence)
        close(found.lease_left, _left(mine.lease_until, self.now))
        close(found.expires_in, _left(mine.expires_at, self.now))
        close(found.retry_in, _left(mine.retry_at, self.now))
        assert _timeless(its) == _timeless(mine)


def _timeless(record: Record) -> Record:
    """A record without what was compared already."""
    return record._replace(fence=0, lease_until=None, expires_at=None, retry_at=None)


def _left(moment: int | None, now: int) -> float | None:
    """Seconds from now."""
    return None if moment is None else (moment - now) / MICROSECONDS


def close(real: float | None, model: float | None) -> None:
    """Two times must be about the same, or both absent."""
    if real is None or model is None:
        assert real is model, f"{real} should be {model}"
    else:
        assert abs(real - model) < TOLERANCE, f"{real} s should be about {model} s"


def units(*counts: int) -> st.SearchStrategy[int]:
    """Durations."""
    return st.sampled_from([count * UNIT for count in counts])


FINGERPRINTS: Final = st.sampled_from([None, b"a", b"b"])
LEASES: Final = units(1, 3)
RETENTIONS: Final = st.one_of(st.none(), units(2, 6))
RESULTS: Final = st.sampled_from([b"", b"r", b"\x00\xff$.{}"])
CHECKPOINTS: Final = st.sampled_from([None, b"", b"half"])
WHO: Final = st.sampled_from(["owner", "owner", "former", "stranger"])
KEYS: Final = st.sampled_from([0, 0, 1])


def kept(model: "StoreModel") -> bool:
    """Whether there is any record: most of what can be done to absent keys is soon seen."""
    return any(twin.record is not None for twin in model.twins)


class StoreModel(RuleBasedStateMachine):
    """A store and the machine, side by side, on two keys."""

    lab: Lab

    def __init__(self) -> None:
        super().__init__()
        serial = next(_serial)
        self.twins = [Twin(self.lab.key(f"model-{serial}")) for _ in range(2)]
        examples[self.lab.subject.name, self.lab.mode] += 1

    def both(self, key: int, event: Event) -> None:
        """One operation on both."""
        twin = self.twins[key]
        twin.agree(twin.step(event), perform(self.lab.store, twin.name, event))

    @rule(key=KEYS, fingerprint=FINGERPRINTS, lease=LEASES, retention=RETENTIONS, takeover=st.booleans())
    def claim(self, key: int, fingerprint: bytes | None, lease: int, retention: int | None, takeover: bool) -> None:
        """A new caller."""
        twin = self.twins[key]
        twin.tokens.append(f"token-{len(twin.tokens)}")
        self.both(key, Claim(fingerprint, twin.tokens[-1], lease, retention, takeover))

    @precondition(kept)
    @rule(key=KEYS, who=WHO, fingerprint=FINGERPRINTS, lease=LEASES, retention=RETENTIONS, takeover=st.booleans())
    def claim_again(
        self, key: int, who: str, fingerprint: bytes | None, lease: int, retention: int | None, takeover: bool
    ) -> None:
        """A claim that is sent once more."""
        self.both(key, Claim(fingerprint, self.twins[key].token(who), lease, retention, takeover))

    @precondition(kept)
    @rule(key=KEYS, who=WHO, result=RESULTS, retention=RETENTIONS)
    def complete(self, key: int, who: str, result: bytes, retention: int | None) -> None:
        """A result."""
        self.both(key, Complete(self.twins[key].token(who), result, retention))

    @precondition(kept)
    @rule(key=KEYS, who=WHO, result=RESULTS, retention=RETENTIONS, back_off=st.sampled_from([None, 0, UNIT, 2 * UNIT]))
    def fail(self, key: int, who: str, result: bytes, retention: int | None, back_off: int | None) -> None:
        """A failure."""
        self.both(key, Fail(self.twins[key].token(who), result, retention, back_off))

    @precondition(kept)
    @rule(key=KEYS, who=WHO, lease=LEASES, checkpoint=CHECKPOINTS)
    def renew(self, key: int, who: str, lease: int, checkpoint: bytes | None) -> None:
        """A renewal."""
        self.both(key, Renew(self.twins[key].token(who), lease, checkpoint))

    @precondition(kept)
    @rule(key=KEYS, who=WHO)
    def release(self, key: int, who: str) -> None:
        """A release."""
        self.both(key, Release(self.twins[key].token(who)))

    @precondition(kept)
    @rule(key=KEYS, count=st.sampled_from([0, 1, 2, 5]))
    def pass_time(self, key: int, count: int) -> None:
        """Time passes for one key."""
        self.age(key, count)

    def age(self, key: int, count: int) -> None:
        """So many units, and a little more."""
        twin = self.twins[key]
        twin.age(count * UNIT + OFFSET)
        self.lab.age(twin.name, (count * UNIT + OFFSET) / MICROSECONDS)

    @precondition(kept)
    @rule(key=KEYS)
    def lapse(self, key: int) -> None:
        """The next thing that can end for a record ends: its lease, back-off or retention."""
        twin = self.twins[key]
        ends = [left for left in twin.left() if left > 0]
        self.age(key, -(-min(ends) // UNIT) if ends else 0)

    @precondition(kept)
    @rule(key=KEYS)
    def forget(self, key: int) -> None:
        """An operator deletes a record. (An expired one may be there still, or not.)"""
        twin = self.twins[key]
        found = self.lab.store.forget(twin.name)
        assert found == (twin.record is not None) or twin.ghost
        twin.record, twin.ghost = None, False

    @rule(limit=st.sampled_from([1, 1000]))
    def purge(self, limit: int) -> None:
        """Expired records go; nothing else may change."""
        assert 0 <= self.lab.store.purge(limit) <= limit

    @rule(fingerprint=FINGERPRINTS, lease=LEASES, retention=RETENTIONS, takeover=st.booleans())
    def claim_both(self, fingerprint: bytes | None, lease: int, retention: int | None, takeover: bool) -> None:
        """Both keys in one batch, which makes its own tokens."""
        answers = self.lab.store.claim_many(
            [twin.name for twin in self.twins],
            fingerprints=[fingerprint, fingerprint],
            lease=lease / MICROSECONDS,
            retention=None if retention is None else retention / MICROSECONDS,
            takeover=takeover,
        )
        for twin, answer in zip(self.twins, answers, strict=True):
            token = "unseen"  # noqa: S105 - no password
            if isinstance(answer, Claimed):
                token = answer.token
                assert token not in twin.tokens, "a token was handed out twice"
                twin.tokens.append(token)
            twin.agree(twin.step(Claim(fingerprint, token, lease, retention, takeover)), answer)

    @precondition(kept)
    @rule(who=WHO, result=RESULTS, retention=RETENTIONS)
    def complete_both(self, who: str, result: bytes, retention: int | None) -> None:
        """Both keys in one batch."""
        items = [(twin.name, twin.token(who), result) for twin in self.twins]
        answers = self.lab.store.complete_many(items, retention=None if retention is None else retention / MICROSECONDS)
        for twin, (_, token, _), answer in zip(self.twins, items, answers, strict=True):
            assert not isinstance(answer, IdemstoreError), answer
            twin.agree(twin.step(Complete(token, result, retention)), answer)

    @invariant()
    def seen(self) -> None:
        """What the store shows is what the machine has, after every operation."""
        for twin in self.twins:
            twin.look(self.lab.store.get(twin.name))


def model_of(lab: Lab) -> type[StoreModel]:
    """The model for one lab, as ``hypothesis.stateful.run_state_machine_as_test`` takes it."""
    return type("StoreModel", (StoreModel,), {"lab": lab})
