"""The protocol of everything that is compared: run one idempotent operation for a key, sync or async."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Final, NamedTuple, Protocol

Result = dict[str, object]
Call = Callable[[str], object]
AsyncCall = Callable[[str], Awaitable[object]]

AMOUNT: Final = 1000


class Job:
    """The function that must run once: it makes a small result, and notes the key."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.seconds = 0.0
        """How long it takes."""

    def result(self, key: str) -> Result:
        """What every contender stores."""
        self.ran.append(key)
        return {"receipt": key, "amount": AMOUNT, "text": "thank you"}

    def run(self, key: str) -> Result:
        """Sync."""
        if self.seconds:
            time.sleep(self.seconds)
        return self.result(key)

    async def run_async(self, key: str) -> Result:
        """Async."""
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return self.result(key)

    def most(self) -> int:
        """How often it ran for the key for which it ran most; then starts over."""
        counts, self.ran = Counter(self.ran), []
        return max(counts.values(), default=0)


Open = Callable[[str, Job], AbstractContextManager[Call]]
OpenAsync = Callable[[str, Job], AbstractAsyncContextManager[AsyncCall]]


class Entry(NamedTuple):
    """One way to do the job."""

    name: str
    open: Open | OpenAsync
    mode: str = "async"


class Timing(NamedTuple):
    """One run: how long all of it took, and each call; what was raised, by class."""

    wall: float
    calls: list[float]
    raised: Counter[str]


class Contender(Protocol):
    """An entry that is open."""

    job: Job

    def run(self, keys: Sequence[str], callers: int) -> Timing:
        """The operation for every key, shared out among so many callers."""
        ...


class Threads:
    """A sync one: callers are threads."""

    def __init__(self, call: Call, job: Job) -> None:
        self.call, self.job = call, job

    def run(self, keys: Sequence[str], callers: int) -> Timing:
        """Threads that all start at once."""
        taken, raised, start = list[float](), list[str](), threading.Barrier(callers + 1)

        def work(mine: Sequence[str]) -> None:
            start.wait()
            for key in mine:
                began = time.perf_counter()
                try:
                    self.call(key)
                except Exception as error:  # noqa: BLE001 - whatever a contender raises is a result
                    raised.append(type(error).__name__)
                taken.append(time.perf_counter() - began)

        threads = [threading.Thread(target=work, args=(keys[number::callers],)) for number in range(callers)]
        for thread in threads:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        return Timing(time.perf_counter() - began, taken, Counter(raised))


class Tasks:
    """An async one: callers are tasks of one loop."""

    def __init__(self, call: AsyncCall, job: Job, runner: asyncio.Runner) -> None:
        self.call, self.job, self.runner = call, job, runner

    def run(self, keys: Sequence[str], callers: int) -> Timing:
        """All tasks in turn."""
        return self.runner.run(self._run(keys, callers))

    async def _run(self, keys: Sequence[str], callers: int) -> Timing:
        taken, raised = list[float](), list[str]()

        async def work(mine: Sequence[str]) -> None:
            for key in mine:
                began = time.perf_counter()
                try:
                    await self.call(key)
                except Exception as error:  # noqa: BLE001 - whatever a contender raises is a result
                    raised.append(type(error).__name__)
                taken.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(work(keys[number::callers]) for number in range(callers)))
        return Timing(time.perf_counter() - began, taken, Counter(raised))


@contextmanager
def opened(entry: Entry, url: str, runner: asyncio.Runner) -> Iterator[Contender]:
    """An entry on a server; async ones live on the runner's loop."""
    job = Job()
    manager = entry.open(url, job)
    if isinstance(manager, AbstractContextManager):
        with manager as call:
            yield Threads(call, job)
        return
    call = runner.run(_enter(manager))
    try:
        yield Tasks(call, job, runner)
    finally:
        runner.run(_leave(manager))


async def _enter(manager: AbstractAsyncContextManager[AsyncCall]) -> AsyncCall:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[AsyncCall]) -> None:
    await manager.__aexit__(None, None, None)
