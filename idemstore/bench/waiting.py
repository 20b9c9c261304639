"""The wait scenario: again and again, one holder, and waiters that want its result.

Nothing happens on purpose while the waiters gather, so the clock runs from each completion to its last waiter only.
"""

from collections.abc import Generator
from typing import Final, Protocol

from idemstore.bench.bare import Caller, Work
from idemstore.bench.job import Job, clock

GROUPS: Final = 5
"""However short a sample is, so many results are waited for."""
ATTEMPTS: Final = 3
"""How often the holder says that it has finished, where it gets no answer: others wait for that."""
HOLD: Final = 0.04
"""Seconds between the waiters' setting out and the completion, so that all of them are waiting by then."""
GATHER: Final = 0.0005
"""Seconds more for each waiter."""
PATIENCE: Final = 30.0
"""Seconds that anybody stands at a meeting point."""


class Meeting(Protocol):
    """Where the holder and its waiters meet, in either mode."""

    def meet(self) -> object:
        """Come back when all are there (async: an awaitable)."""
        ...

    def pause(self, seconds: float) -> object:
        """Sleep (async: an awaitable)."""
        ...


class Group:
    """One holder and its waiters."""

    def __init__(self, job: Job, work: Work, meeting: Meeting) -> None:
        self._job, self._work, self._meeting = job, work, meeting
        self._number: int | None = None
        self._since = self._last = 0.0
        job.spans = []

    def callers(self) -> list[Caller]:
        """The holder, and as many waiters as there are to be callers."""
        return [self._holder(), *(self._waiter() for _ in range(self._job.order.callers))]

    def _holder(self) -> Caller:
        """Claim, let them gather, complete, wait until all have it."""
        job, work, meeting = self._job, self._work, self._meeting
        while (number := job.ticket(GROUPS)) is not None:
            if not (yield from self._trying(work.hold(job, number))):
                continue
            self._number = number
            yield meeting.meet()
            if work.waits:
                yield meeting.pause(HOLD + GATHER * job.order.callers)
            self._since = self._last = clock()
            for _ in range(ATTEMPTS):
                if (yield from self._trying(work.finish(job, number))):
                    break
            if not work.waits:
                yield meeting.meet()
            yield meeting.meet()
            assert job.spans is not None, "set when the group was made"
            job.spans.append(self._last - self._since)
        self._number = None
        yield meeting.meet()

    def _waiter(self) -> Caller:
        """Wait for each holder in turn."""
        job, work, meeting = self._job, self._work, self._meeting
        while True:
            yield meeting.meet()
            number = self._number
            if number is None:
                return
            if not work.waits:
                yield meeting.meet()
            try:
                yield from work.follow(job, number)
            except job.failures as error:
                job.failed(error)
            else:
                now = clock()
                job.latencies.append(now - self._since)
                self._last = max(self._last, now)
            yield meeting.meet()

    def _trying(self, steps: Caller) -> Generator[object, object, bool]:
        """The holder's steps, and whether they succeeded; what fails is counted."""
        try:
            yield from steps
        except self._job.failures as error:
            self._job.failed(error)
            return False
        return True
