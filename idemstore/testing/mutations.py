"""One fault each: what the mutants of ``idemstore.testing.mutants`` are made of.

Most are another ``step`` for the memory family; the others change what surrounds it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from idemstore.backends.memory import (
    AsyncMemoryDriver,
    AsyncMemoryWatch,
    Engine,
    MemoryDialect,
    MemoryDriver,
    MemoryWatch,
    Request,
)
from idemstore.exchange import Exchange, Snapshot
from idemstore.machine import Claim, Complete, Event, Fail, Phase, Record, Release, Renew, State, phase, step
from idemstore.outcomes import DONE, LEASE_LOST, Claimed, ClaimOutcome, Completed, InFlight, SettleOutcome

Outcome = ClaimOutcome | SettleOutcome
Step = Callable[[Record | None, Event, int], tuple[Record | None, Outcome]]

PATIENCE: Final = 3.0
"""How long the waiters of a mutant wait (seconds): a test that fails ends soon."""


class MutantEngine(Engine):
    """An engine that runs another step than the machine's."""

    def __init__(self, mutated: Step | None = None) -> None:
        super().__init__()
        self.mutated = mutated

    def apply(self, key: str, event: Event) -> Outcome:
        """As ``Engine.apply``."""
        with self.lock:
            before = self.records.get(key)
            now = self.clock()
            after, outcome = step(before, event, now) if self.mutated is None else self.mutated(before, event, now)
            if after is not before:
                self.put(key, after)
            return outcome


# -- settlements ------------------------------------------------------------------------------------------------------


def ignoring_token(kind: type[Complete | Fail | Renew | Release]) -> Step:
    """One of the settlements takes any token for the owner's."""

    def mutated(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
        if isinstance(event, kind) and record is not None:
            return step(record, event._replace(token=record.token), now)
        return step(record, event, now)

    return mutated


def renew_finished(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A finished record can be renewed."""
    if isinstance(event, Renew) and record is not None and record.token == event.token and record.result is not None:
        return record._replace(expires_at=now + event.lease), DONE
    return step(record, event, now)


def complete_overwrites(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A second completion replaces the first."""
    if isinstance(event, Complete) and record is not None and record.token == event.token:
        return step(record._replace(state=State.IN_FLIGHT, lease_until=now), event, now)
    return step(record, event, now)


def complete_once(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A completion that is delivered again is refused."""
    if isinstance(event, Complete) and record is not None and record.state is State.COMPLETED:
        return record, LEASE_LOST
    return step(record, event, now)


def release_once(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A release that is delivered again is refused."""
    return (None, LEASE_LOST) if record is None and isinstance(event, Release) else step(record, event, now)


def fail_again(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A failure that is delivered again starts its back-off anew."""
    if isinstance(event, Fail) and record is not None and record.state is State.FAILED:
        return step(record._replace(state=State.IN_FLIGHT, lease_until=now), event, now)
    return step(record, event, now)


def late_owner_refused(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """The clock, not the token, decides who owns a record."""
    if not isinstance(event, Claim) and phase(record, now) is Phase.LAPSED:
        return record, LEASE_LOST
    return step(record, event, now)


def renew_leaves_end(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A renewal does not move the end of retention."""
    after, outcome = step(record, event, now)
    if isinstance(event, Renew) and after is not None and record is not None:
        after = after._replace(expires_at=record.expires_at)
    return after, outcome


def renew_drops_checkpoint(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A renewal without checkpoint clears the last one."""
    after, outcome = step(record, event, now)
    if isinstance(event, Renew) and after is not None and event.checkpoint is None:
        after = after._replace(checkpoint=None)
    return after, outcome


def retention_of_claim(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A result ends when its claim would have."""
    after, outcome = step(record, event, now)
    if isinstance(event, Complete) and record is not None and after is not None:
        after = after._replace(expires_at=record.expires_at)
    return after, outcome


def bytes_changed(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Results go through text."""
    if isinstance(event, Complete | Fail):
        event = event._replace(result=event.result.decode("utf-8", "replace").encode())
    return step(record, event, now)


# -- claims -----------------------------------------------------------------------------------------------------------


def fingerprint_not_stored(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A claim does not keep its fingerprint."""
    after, outcome = step(record, event, now)
    return (after._replace(fingerprint=None) if isinstance(event, Claim) and after is not None else after), outcome


def fingerprint_ignored_on_takeover(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Who takes over may bring another payload."""
    if isinstance(event, Claim) and record is not None and phase(record, now) in (Phase.LAPSED, Phase.RETRYABLE):
        return step(record._replace(fingerprint=event.fingerprint), event, now)
    return step(record, event, now)


def fingerprint_only_of_results(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Payloads are compared when a result is replayed, and else not."""
    if isinstance(event, Claim) and record is not None and record.state is State.IN_FLIGHT:
        return step(record._replace(fingerprint=None), event, now)
    return step(record, event, now)


class ForgetfulWaiters(MutantEngine):
    """Whoever was told to wait is not asked for its payload again."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: set[str] = set()

    def apply(self, key: str, event: Event) -> Outcome:
        """As ``Engine.apply``, but for waiters."""
        if isinstance(event, Claim) and event.token in self._waiting:
            event = event._replace(fingerprint=None)
        outcome = super().apply(key, event)
        if isinstance(outcome, InFlight):
            self._waiting.add(event.token)
        return outcome


def lease_never_ends(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Nobody takes over."""
    if isinstance(event, Claim) and phase(record, now) is Phase.LAPSED and record and record.token != event.token:
        return record, InFlight(1.0)
    return step(record, event, now)


def lease_ignored(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Everybody takes over."""
    if isinstance(event, Claim) and record is not None and record.state is State.IN_FLIGHT:
        return step(record._replace(lease_until=now), event, now)
    return step(record, event, now)


def retention_ignored(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Nothing ever ends."""
    after, outcome = step(record, event, now)
    return (after and after._replace(expires_at=None)), outcome


def crash_forgotten(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A claim is absent as soon as its lease is over."""
    if phase(record, now) is Phase.LAPSED and isinstance(event, Claim):
        return step(None, event, now)
    return step(record, event, now)


def attempt_stands_still(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A takeover does not count."""
    after, outcome = step(record, event, now)
    if isinstance(outcome, Claimed) and after is not None:
        return after._replace(attempt=1), Claimed(outcome.token, outcome.fence, 1, outcome.checkpoint)
    return after, outcome


def fence_stands_still(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A takeover keeps the fence."""
    after, outcome = step(record, event, now)
    if isinstance(outcome, Claimed) and after is not None and record is not None:
        fence = record.fence
        return after._replace(fence=fence), Claimed(outcome.token, fence, outcome.attempt, outcome.checkpoint)
    return after, outcome


def fence_starts_anew(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Each life of a key counts its fences from one."""
    after, outcome = step(record, event, now)
    if isinstance(outcome, Claimed) and after is not None and after is not record:
        fence = after.attempt
        return after._replace(fence=fence), Claimed(outcome.token, fence, outcome.attempt, outcome.checkpoint)
    return after, outcome


def checkpoint_lost(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Who takes over gets no checkpoint."""
    if isinstance(event, Claim) and record is not None and record.token != event.token:
        record = record._replace(checkpoint=None)
    return step(record, event, now)


def always_takes_over(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """takeover=False is overheard."""
    return step(record, event._replace(takeover=True) if isinstance(event, Claim) else event, now)


def claim_resent_is_busy(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A claim that is delivered again is told to wait for itself."""
    if isinstance(event, Claim) and phase(record, now) is Phase.RUNNING:
        return step(record, event._replace(token="nobody"), now)  # noqa: S106 - no password
    return step(record, event, now)


def busy_answer_extends(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """Whoever asks extends the owner's lease."""
    after, outcome = step(record, event, now)
    if isinstance(event, Claim) and isinstance(outcome, InFlight) and after is not None:
        after = after._replace(lease_until=now + event.lease)
    return after, outcome


def replay_extends(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A replay keeps the result for longer."""
    after, outcome = step(record, event, now)
    if isinstance(event, Claim) and isinstance(outcome, Completed) and after is not None and event.retention:
        after = after._replace(expires_at=now + event.retention)
    return after, outcome


def back_off_ignored(record: Record | None, event: Event, now: int) -> tuple[Record | None, Outcome]:
    """A failure that may be retried may be retried at once."""
    if isinstance(event, Claim) and phase(record, now) is Phase.BACKING_OFF and record is not None:
        record = record._replace(retry_at=now)
    return step(record, event, now)


# -- what surrounds the step ------------------------------------------------------------------------------------------


class TokenTwice(MemoryDialect):
    """Tokens are made once for all."""

    def claim(self, key: str, event: Claim) -> Exchange[Request, object, ClaimOutcome]:
        """Tokens that the store makes have 32 digits."""
        return super().claim(key, event._replace(token="0" * 32) if len(event.token) == 32 else event)


class ReadThenWrite(MemoryDialect):
    """A claim reads, decides, and writes."""

    def claim(self, key: str, event: Claim) -> Exchange[Request, object, ClaimOutcome]:
        """Two round trips."""

        def decide(reply: object) -> ClaimOutcome | Exchange[Request, object, ClaimOutcome]:
            found = reply.record if isinstance(reply, Snapshot) else None
            now = reply.now if isinstance(reply, Snapshot) else time.time_ns() // 1000
            after, outcome = step(found, event, now)
            return outcome if after is found else Exchange(lambda engine: write(engine, key, after), lambda _: outcome)

        return Exchange(lambda engine: engine.get(key), decide)


def write(engine: Engine, key: str, record: Record | None) -> None:
    """Store without looking."""
    with engine.lock:
        engine.put(key, record)


class Yielding(MemoryDriver):
    """Lets other threads run after each request, as a network would."""

    def execute(self, request: Request, timeout: float) -> object:
        """Then yield."""
        reply = super().execute(request, timeout)
        time.sleep(0.0005)
        return reply


class AsyncYielding(AsyncMemoryDriver):
    """Lets other tasks run after each request, as a network would."""

    async def execute(self, request: Request, timeout: float) -> object:
        """Then yield."""
        reply = await super().execute(request, timeout)
        await asyncio.sleep(0.0005)
        return reply


class SilentRelease(MutantEngine):
    """Waiters hear of changes, but not of deletions."""

    def put(self, key: str, record: Record | None) -> None:
        """Delete in silence."""
        watchers, self._watchers = self._watchers, {} if record is None else self._watchers
        super().put(key, record)
        self._watchers = watchers


class PurgesLapsed(MutantEngine):
    """A purge takes claims whose lease is over."""

    def purge(self, limit: int) -> int:
        """Those, too."""
        with self.lock:
            now = self.clock()
            over = [key for key, record in self.records.items() if phase(record, now) in (Phase.ABSENT, Phase.LAPSED)]
            for key in over[:limit]:
                self.put(key, None)
            return len(over[:limit])


class PurgesAll(MutantEngine):
    """A purge does not know when to stop."""

    def purge(self, limit: int) -> int:
        """Without limit."""
        return super().purge(10**6)


class OversleepingWatch(MemoryWatch):
    """Sleeps on when the lease ends."""

    def wait(self, poll: float, limit: float) -> None:
        """Too long."""
        super().wait(poll, limit + PATIENCE)


class AsyncOversleepingWatch(AsyncMemoryWatch):
    """Sleeps on when the lease ends."""

    async def wait(self, poll: float, limit: float) -> None:
        """Too long."""
        await super().wait(poll, limit + PATIENCE)


class Oversleeping(MemoryDriver):
    """Its waiters do."""

    def watch(self, key: str) -> MemoryWatch:
        """Such a watch."""
        return OversleepingWatch(self.engine, key)


class AsyncOversleeping(AsyncMemoryDriver):
    """Its waiters do."""

    def watch(self, key: str) -> AsyncMemoryWatch:
        """Such a watch."""
        return AsyncOversleepingWatch(self.engine, key)


class LateWatch(MemoryWatch):
    """Forgets what changed before it began to wait."""

    def wait(self, poll: float, limit: float) -> None:
        """Clear, then wait."""
        self._changed.clear()
        super().wait(poll, limit)


class AsyncLateWatch(AsyncMemoryWatch):
    """Forgets what changed before it began to wait."""

    async def wait(self, poll: float, limit: float) -> None:
        """Clear, then wait."""
        await asyncio.sleep(0)
        self._changed.clear()
        await super().wait(poll, limit)


class Late(MemoryDriver):
    """Its waiters do."""

    def watch(self, key: str) -> MemoryWatch:
        """Such a watch."""
        return LateWatch(self.engine, key)


class AsyncLate(AsyncMemoryDriver):
    """Its waiters do."""

    def watch(self, key: str) -> AsyncMemoryWatch:
        """Such a watch."""
        return AsyncLateWatch(self.engine, key)
