"""``Batch``: a guard for queue consumers. Many messages are claimed in one round trip, what is new runs, and results
are recorded in batches.

Between a function's return and its recording lies a window in which a crash repeats its work. ``flush_every`` and
``flush_after`` bound it; where it must be as small as can be, use ``Guard.call`` for each message.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from idemstore.batch_core import NEVER_RAN, Ask, Ran, Ready, Work, bounds
from idemstore.batch_core import Item as Item
from idemstore.checks import Duration
from idemstore.errors import IdemstoreError
from idemstore.face import Failure
from idemstore.guard import Guard
from idemstore.guard_core import DOWN, log
from idemstore.insist import last_try, pauses
from idemstore.keys import KeyLike
from idemstore.outcomes import Claimed
from idemstore.running import Operation

T = TypeVar("T")


class Batch:
    """Runs a function once for each of many keys, one after the other. Nothing waits for executions elsewhere
    (``Policy.wait`` plays no part): their messages come again.
    """

    def __init__(
        self, guard: Guard, *, claim_at_once: int = 100, flush_every: int = 50, flush_after: Duration = 1.0
    ) -> None:
        """Results are recorded when there are ``flush_every``, or when a function returns and nothing has been recorded
        for ``flush_after``; so a slow function's result is recorded at once. Leases are kept alive from the claim to
        the recording.
        """
        self._guard = guard
        self._bounds = bounds(claim_at_once, flush_every, flush_after)

    def map(
        self,
        keys: Sequence[KeyLike],
        fn: Callable[[KeyLike], T],
        *,
        fingerprints: Sequence[bytes | None] | None = None,
    ) -> list[Item[T]]:
        """Run ``fn(key)`` for every key that has not run before: one ``Item`` for each key, in order.

        An exception of ``fn`` stays with its item. An interruption (KeyboardInterrupt and whatever else is no
        ``Exception``) goes on, after what has run is recorded and what has not is given back.
        """
        work = Work[T, Operation](self._guard, keys, fingerprints, self._bounds)
        while asks := work.asks():
            self._claim(work, asks)
            try:
                while work.ready:
                    self._run_next(work, fn)
                    if work.due():
                        self._flush(work)
            finally:
                try:
                    self._flush(work)
                finally:
                    self._give_back(work)
        return work.items()

    def _claim(self, work: Work[T, Operation], asks: Sequence[Ask]) -> None:
        """Claim one round; what is ours is ready then, what is not has its answer."""
        guard, policy = self._guard, self._guard.policy
        try:
            outcomes = guard.store.claim_many(
                [ask.key for ask in asks],
                fingerprints=[ask.fingerprint for ask in asks],
                tokens=[ask.token for ask in asks],
                lease=policy.lease,
                retention=policy.retention,
                takeover=policy.takeover,
            )
        except DOWN as error:
            outcomes = [error] * len(asks)
            if not work.proceeds(error):
                work.refuse_rest(error)
        except IdemstoreError:
            raise
        except BaseException as interruption:
            self._tell_given_back([(ask.key, ask.stored, ask.token) for ask in asks], interruption)
            raise  # what of this could not be told, its lease tells
        for ask, outcome in zip(asks, outcomes, strict=True):
            if isinstance(outcome, Claimed):
                work.ready.append(Ready(ask.at, guard.begin(ask.key, ask.stored, outcome)))
            elif not isinstance(outcome, IdemstoreError):
                work.answered(ask, outcome)
            elif work.refused(ask, outcome):
                work.ready.append(Ready(ask.at, guard.unprotected(ask.key, ask.stored)))

    def _run_next(self, work: Work[T, Operation], fn: Callable[[KeyLike], T]) -> None:
        """Run one operation; its error stays its own."""
        index, running = work.ready.popleft()
        try:
            self._guard.check_begin(running)
            value = self._guard.run(running, lambda: fn(running.key))
        except Exception as error:  # noqa: BLE001 - an item's error is handed to the caller in its item
            self._guard.drop(running)
            work.raised(index, running, error)
        else:
            work.returned(index, running, value)

    def _flush(self, work: Work[T, Operation]) -> None:
        """Record what has run, trying until the last of its leases would be over."""
        told = work.take()
        if not told:
            return
        for ran in told:
            self._guard.drop(ran.running)
        waiting = pauses(max(ran.until for ran in told))
        try:
            while told:
                pause = next(waiting, None)
                told = self._tell(work, told, last=pause is None)
                if told and pause is not None:
                    time.sleep(pause)
        except BaseException as interruption:
            last_try(lambda: self._tell(work, told, last=True), interruption)
            raise

    def _tell(self, work: Work[T, Operation], told: Sequence[Ran[T]], last: bool) -> list[Ran[T]]:
        """Record once; what must be tried again."""
        guard = self._guard
        try:
            answers = guard.store.complete_many([ran.completion for ran in told], retention=guard.policy.retention)
        except IdemstoreError as error:
            answers = [error] * len(told)
        return work.recorded(told, answers, last)

    def _give_back(self, work: Work[T, Operation]) -> None:
        """What was claimed and has not run, because of an interruption: as if it had never been claimed. A checkpoint
        of an earlier attempt stays; so what has one goes back as a failure to retry at once.
        """
        unused = work.unused()
        for running in unused:
            self._guard.drop(running)
        fresh = [(running.key, running.token) for running in unused if running.attempt == 1]
        try:
            if fresh:
                self._guard.store.release_many(fresh)
        except IdemstoreError as error:
            log.warning("%d claims that did not run could not be released: %s", len(fresh), error)
        again = [(running.key, running.stored, running.token) for running in unused if running.attempt > 1]
        self._tell_given_back(again, InterruptedError(NEVER_RAN))

    def _tell_given_back(self, claims: Sequence[tuple[KeyLike, str, str]], why: BaseException) -> None:
        """Claims that are not going to be used: each may be taken at once."""
        guard = self._guard
        failures = [Failure(key, token, guard.envelope.failure(why, stored), 0) for key, stored, token in claims]
        try:
            if failures:
                guard.store.fail_many(failures, retention=guard.policy.failure_retention)
        except IdemstoreError as error:
            log.warning("%d claims that did not run could not be given back: %s", len(failures), error)
