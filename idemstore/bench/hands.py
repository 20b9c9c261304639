"""The two ways to hold a store and its floor in a worker: threads, or tasks on one event loop. The rest is shared."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.bench import tasks, threads
from idemstore.bench.bare import Bare, Caller
from idemstore.bench.counting import AsyncCountingDriver, Count, CountingDriver
from idemstore.bench.floors import Floor
from idemstore.bench.scenarios import Keys
from idemstore.bench.waiting import Meeting
from idemstore.store import Store


class Hands(Protocol):
    """One mode."""

    @property
    def store(self) -> Keys:
        """The store, counted."""
        ...

    @property
    def largest(self) -> int:
        """The largest result that the store takes, bytes."""
        ...

    def bare(self, floor: Floor, url: str, run: str) -> Bare:
        """The floor's client."""
        ...

    def run(
        self, callers: Sequence[Caller], failures: tuple[type[Exception], ...], at: float, begin: Callable[[], None]
    ) -> float:
        """All callers from a moment on; when the last of them was done. ``begin`` is called as they set out."""
        ...

    def meeting(self, parties: int) -> Meeting:
        """A meeting point of callers."""
        ...

    def forget(self, key: str) -> object:
        """Delete a record (async: an awaitable)."""
        ...

    def close(self, bare: Bare | None) -> None:
        """Close everything."""
        ...


class SyncHands:
    """Threads."""

    def __init__(self, url: str, count: Count) -> None:
        self._store: Store = idemstore.open(url).wrapped(lambda driver: CountingDriver(driver, count))
        self.store: Keys = self._store
        self.largest = self._store.limits.value_bytes

    def bare(self, floor: Floor, url: str, run: str) -> Bare:
        """As ``Hands.bare``."""
        return floor.open(url, run)

    def run(
        self, callers: Sequence[Caller], failures: tuple[type[Exception], ...], at: float, begin: Callable[[], None]
    ) -> float:
        """As ``Hands.run``."""
        return threads.run_all(callers, at, begin)

    def meeting(self, parties: int) -> Meeting:
        """As ``Hands.meeting``."""
        return threads.ThreadMeeting(parties)

    def forget(self, key: str) -> object:
        """As ``Hands.forget``."""
        return self._store.forget(key)

    def close(self, bare: Bare | None) -> None:
        """As ``Hands.close``."""
        self._store.close()
        if bare is not None:
            bare.close()


class AsyncHands:
    """Tasks."""

    def __init__(self, url: str, count: Count) -> None:
        self._store: AsyncStore = idemstore.open_async(url).wrapped(lambda driver: AsyncCountingDriver(driver, count))
        self.store: Keys = self._store
        self.largest = self._store.limits.value_bytes
        self._runner = asyncio.Runner()

    def bare(self, floor: Floor, url: str, run: str) -> Bare:
        """As ``Hands.bare``."""
        return self._runner.run(floor.open_async(url, run))

    def run(
        self, callers: Sequence[Caller], failures: tuple[type[Exception], ...], at: float, begin: Callable[[], None]
    ) -> float:
        """As ``Hands.run``."""
        return self._runner.run(tasks.run_all(callers, failures, at, begin))

    def meeting(self, parties: int) -> Meeting:
        """As ``Hands.meeting``."""
        return tasks.TaskMeeting(parties)

    def forget(self, key: str) -> object:
        """As ``Hands.forget``."""
        return self._store.forget(key)

    def close(self, bare: Bare | None) -> None:
        """As ``Hands.close``."""

        async def end() -> None:
            await self._store.close()
            if bare is not None:
                await tasks.awaited(bare.close())

        with self._runner:
            self._runner.run(end())


HANDS: dict[str, Callable[[str, Count], Hands]] = {"sync": SyncHands, "async": AsyncHands}
