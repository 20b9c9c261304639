"""What the callers do to the store, and what they must be told: exactly one is Claimed for each key.

Written once for both modes, as generators: they yield what a call returned (async: an awaitable) and are sent the
answer.
"""

from functools import partial
from typing import Final, Protocol

from idemstore.bench.bare import Caller
from idemstore.bench.job import AUDITED, LEASE, RETENTION, Job
from idemstore.bench.plan import READ_KEYS, Scenario
from idemstore.errors import StoreTimeout
from idemstore.outcomes import Claimed, Completed, Done, Failed, InFlight

WAIT: Final = 10.0
"""Seconds that a waiter waits at most."""


class Keys(Protocol):
    """What is used of a store, of either mode."""

    def claim(self, key: str, *, lease: float, retention: float, wait: float = 0) -> object:
        """Claim."""
        ...

    def complete(self, key: str, token: str, result: bytes, *, retention: float) -> object:
        """Complete."""
        ...


class StoreWork:
    """Each scenario, on the store."""

    waits = True

    def __init__(self, store: Keys, run: str, process: int) -> None:
        self._claim = partial(store.claim, lease=LEASE, retention=RETENTION)
        self._complete = partial(store.complete, retention=RETENTION)
        self.stem = f"bench-{run}-seeded-{process}."
        self._tokens: dict[str, str] = {}

    def prepare(self, job: Job) -> Caller:
        """The finished records that replays read."""
        while (number := job.ticket()) is not None:
            yield from self._new(job, f"{self.stem}{number}", job.small)

    def warm(self, job: Job, number: int) -> Caller:
        """Every kind of call."""
        yield from self._new(job, job.key(number), job.small)
        yield from self._replayed(job, job.key(number), job.small)

    def operation(self, job: Job, number: int) -> Caller:
        """One operation of the sample's scenario."""
        match job.order.scenario:
            case Scenario.UNIQUE:
                yield from self._new(job, job.key(number), job.small)
                job.completed.append(number)
            case Scenario.REPLAY:
                yield from self._replayed(job, f"{self.stem}{number % READ_KEYS}", job.small)
            case Scenario.HOT:
                yield from self._shared(job, job.hot())
            case Scenario.MIXED:
                yield from self._shared(job, job.mixed(number))
            case Scenario.BIG:
                yield from self._new(job, job.key(number), job.payload(number))
                yield from self._replayed(job, job.key(number), job.payload(number))
            case Scenario.WAIT:
                raise AssertionError("the wait scenario is no loop of operations")

    def _new(self, job: Job, key: str, result: bytes) -> Caller:
        """Claim a key that nobody has asked for, and complete it."""
        outcome = yield self._claim(key)
        if not isinstance(outcome, Claimed):
            job.wrong.append(f"{key}: 0 Claimed, the first caller was told {type(outcome).__name__}")
            return
        yield from self._settle(job, key, outcome.token, result)

    def _settle(self, job: Job, key: str, token: str, result: bytes) -> Caller:
        """Complete, as the owner."""
        settled = yield self._complete(key, token, result)
        if not isinstance(settled, Done):
            job.wrong.append(f"{key}: the one Claimed could not complete, it was told {type(settled).__name__}")

    def _replayed(self, job: Job, key: str, result: bytes) -> Caller:
        """Claim a key that is completed."""
        _check(job, key, (yield self._claim(key)), result)

    def _shared(self, job: Job, key: str) -> Caller:
        """Claim a key that others claim, too; complete it if it is ours."""
        job.asked.add(key)
        try:
            outcome = yield self._claim(key)
        except job.failures:
            job.doubtful.add(key)
            raise
        match outcome:
            case Claimed(token=token):
                job.won.append(key)
                yield from self._settle(job, key, token, job.small)
            case Completed(result=result) if result == job.small:
                pass
            case InFlight():
                pass
            case _:
                job.wrong.append(f"{key}: a second caller was told {_told(outcome)}")

    def hold(self, job: Job, number: int) -> Caller:
        """The holder claims."""
        key = job.key(number)
        outcome = yield self._claim(key)
        if isinstance(outcome, Claimed):
            self._tokens[key] = outcome.token
        else:
            job.wrong.append(f"{key}: 0 Claimed, the first caller was told {type(outcome).__name__}")

    def finish(self, job: Job, number: int) -> Caller:
        """The holder completes."""
        token = self._tokens.get(job.key(number))
        if token is not None:
            yield from self._settle(job, job.key(number), token, job.small)
            del self._tokens[job.key(number)]

    def follow(self, job: Job, number: int) -> Caller:
        """A waiter gets the result; one that waits in vain (the holder's completion got lost) has an error."""
        outcome = yield self._claim(job.key(number), wait=WAIT)
        if isinstance(outcome, InFlight):
            raise StoreTimeout("the holder's result did not come")
        _check(job, job.key(number), outcome, job.small)

    def audit(self, job: Job) -> Caller:
        """After the sample: some of its keys are asked for again and must have their results."""
        numbers = job.completed[:AUDITED] + job.completed[AUDITED:][-AUDITED:]
        for number in numbers:
            try:
                yield from self._replayed(job, job.key(number), job.small)
            except job.failures as error:
                job.failed(error)


def _check(job: Job, key: str, outcome: object, result: bytes) -> None:
    """Whoever is not the first must get the result."""
    match outcome:
        case Completed(result=stored) if stored == result:
            pass
        case Claimed():
            job.wrong.append(f"{key}: 2 Claimed")
        case _:
            job.wrong.append(f"{key}: completed, but a later caller was told {_told(outcome)}")


def _told(outcome: object) -> str:
    """An outcome, for people."""
    return "another result" if isinstance(outcome, Completed | Failed) else type(outcome).__name__
