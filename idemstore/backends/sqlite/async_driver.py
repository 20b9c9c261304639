"""Async: one worker thread with one connection, fed by a bounded queue.

The worker never waits for a lock: a job that meets one is put off, and others, replays above all, go on. Callers keep
their own deadline on the loop, so no call outlives its time even while the disk hangs. A caller that was cancelled or
timed out is no longer there when its reply comes, and nobody else gets it; a job that had not begun is dropped.
"""

import asyncio
import contextlib
import heapq
import itertools
import math
import queue
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from typing import Final, cast

from idemstore.backends.sqlite.dialect import Reply, Request
from idemstore.backends.sqlite.patience import Patience
from idemstore.backends.sqlite.session import PENDING, Answer, Place, Session
from idemstore.backends.sqlite.translate import Busy
from idemstore.errors import IdemstoreError, StoreClosed, StoreTimeout
from idemstore.exchange import ALONE, Alone
from idemstore.flows import AsyncSleepWatch

QUEUED: Final = 1000
"""Calls in the worker's queue at most; further ones wait on the loop, where they cost the worker nothing."""

CLOSE_PATIENCE: Final = 5.0

BRIEF: Final = 0.02
"""Seconds for which calls that want no lock may have to wait for others of their batch that want one."""


class Job:
    """One call on its way to the worker and back."""

    __slots__ = ("_future", "_loop", "_patience", "_why", "requests", "splits_at")

    def __init__(self, requests: Sequence[Request], timeout: float, path: str, splits_at: float = math.inf) -> None:
        """``splits_at``: when a batch of strangers that has met nothing but locks is divided (``time.monotonic()``)."""
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Sequence[Answer | Alone]] = self._loop.create_future()
        self._patience = Patience(timeout)
        self._why = f"{path} did not answer in time"
        self.requests = requests
        self.splits_at = splits_at

    def __await__(self) -> Generator[object, None, Sequence[Answer | Alone]]:
        """Wait for the reply. Who is cancelled here cancels the future with it, and so drops the job."""
        return self._future.__await__()

    def left(self) -> float:
        """Seconds left; 0 also where nobody waits any more."""
        return 0.0 if self._future.done() else self._patience.left()

    def put_off(self, met: Busy) -> float:
        """When to try again."""
        self._why = str(met)
        return time.monotonic() + self._patience.next_pause()

    def over(self) -> StoreTimeout:
        """The error of a caller whose time is up."""
        return self._patience.over(self._why)

    def finish(self, answers: Sequence[Answer | Alone] | BaseException) -> None:
        """Bring the reply to the loop, if that still runs. Called by the worker."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be answered
            self._loop.call_soon_threadsafe(self._arrive, answers)

    def _arrive(self, answers: Sequence[Answer | Alone] | BaseException) -> None:
        """On the loop: hand over the reply, unless the caller has gone."""
        if self._future.done():
            return
        if isinstance(answers, BaseException):
            self._future.set_exception(answers)
        else:
            self._future.set_result(answers)


class Worker:
    """What the thread runs: jobs as they come, and those that were put off as they fall due."""

    def __init__(self, session: Session) -> None:
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._session = session
        self._later: list[tuple[float, int, Job]] = []
        self._serial = itertools.count()
        self._again = False
        """Whether the last job, where there was a choice, was one that had been put off."""

    def serve(self) -> None:
        """Until the end is queued. Whatever is left then is refused."""
        while True:
            job = self._next()
            if job is None:
                break
            self._try(job)
        self._session.close()
        for _, _, job in self._later:
            job.finish(StoreClosed("the store was closed while the call waited for a lock: open a new store"))

    def _next(self) -> Job | None:
        """The next job: one that is due again or one that is new, by turns where there are both, since many that meet a
        lock again and again would leave no time for those who need none; None is the end.
        """
        while True:
            wait = self._later[0][0] - time.monotonic() if self._later else None
            if wait is not None and wait <= 0:
                wait, self._again = 0.0, not self._again
                if self._again:
                    return heapq.heappop(self._later)[2]
            with contextlib.suppress(queue.Empty):
                return self.jobs.get(timeout=wait)

    def _try(self, job: Job) -> None:
        """One attempt, if anybody waits for it still; a job that meets a lock is put off."""
        left = job.left()
        if not left:
            return
        try:
            if time.monotonic() < job.splits_at:
                job.finish(self._session.run(job.requests, left))
            else:
                answers = self._session.look(job.requests, left)
                job.finish([ALONE if answer is PENDING else answer for answer in answers])
        except Busy as met:
            heapq.heappush(self._later, (job.put_off(met), next(self._serial), job))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            job.finish(error)


class AsyncSqliteDriver:
    """The queue and the worker of one async store, whose loop alone calls it."""

    def __init__(self, place: Place) -> None:
        self._path = place.path
        self._session = Session(place)
        self._worker = Worker(self._session)
        self._room = asyncio.Semaphore(QUEUED)
        self._thread: threading.Thread | None = None
        self._end: weakref.finalize[..., AsyncSqliteDriver] = weakref.finalize(self, self._worker.jobs.put, None)
        self._end.atexit = False

    async def execute(self, request: Request, timeout: float) -> Reply:
        """One request, within ``timeout`` seconds."""
        answer = (await self.execute_many((request,), timeout))[0]
        if isinstance(answer, IdemstoreError):
            raise answer
        return answer

    async def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[Answer]:
        """Many, in one transaction where anything must be written; an item's error is its own."""
        answers = await self._do(Job(requests, timeout, self._path), timeout)
        return cast("Sequence[Answer]", answers)

    async def execute_together(self, requests: Sequence[Request], timeout: float) -> Sequence[Answer | Alone]:
        """Many of different callers. Where another process has the write lock for long, each goes its own way."""
        return await self._do(Job(requests, timeout, self._path, time.monotonic() + BRIEF), timeout)

    async def _do(self, job: Job, timeout: float) -> Sequence[Answer | Alone]:
        """Have the worker do a job."""
        try:
            async with asyncio.timeout(timeout), self._room:
                self._start()
                self._worker.jobs.put(job)
                return await job
        except TimeoutError:
            raise job.over() from None

    def _start(self) -> None:
        """The thread, at first use. It is a daemon: a program may end without closing the store."""
        if not self._end.alive:
            raise StoreClosed("the store was closed while the call waited for its turn: open a new store")
        if self._thread is None:
            self._thread = threading.Thread(target=self._worker.serve, name="idemstore-sqlite", daemon=True)
            self._thread.start()

    def watch(self, key: str) -> AsyncSleepWatch:
        """Nobody tells of changes: poll."""
        return AsyncSleepWatch()

    async def close(self) -> None:
        """End the worker, after the calls before this one, and the connection."""
        self._end()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, CLOSE_PATIENCE)
