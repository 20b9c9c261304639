"""Drivers that count round trips. A batch is one, however many requests are in it."""

import itertools
from collections.abc import Sequence

from idemstore.errors import IdemstoreError
from idemstore.exchange import AsyncDriver, AsyncWatch, Driver, Watch


class Count:
    """A number that many threads raise without a lock."""

    def __init__(self) -> None:
        self._count = itertools.count()
        self._looks = 0

    def add(self) -> None:
        """One more."""
        next(self._count)

    def look(self) -> int:
        """How many so far; for one thread alone."""
        self._looks += 1
        return next(self._count) + 1 - self._looks


class CountingDriver:
    """A sync driver, counted."""

    def __init__(self, driver: Driver[object, object], count: Count) -> None:
        self._driver, self._add = driver, count.add

    def execute(self, request: object, timeout: float) -> object:
        """One round trip."""
        self._add()
        return self._driver.execute(request, timeout)

    def execute_many(self, requests: Sequence[object], timeout: float) -> Sequence[object | IdemstoreError]:
        """One round trip."""
        self._add()
        return self._driver.execute_many(requests, timeout)

    def watch(self, key: str) -> Watch:
        """The driver's own."""
        return self._driver.watch(key)

    def close(self) -> None:
        """Close the driver."""
        self._driver.close()


class AsyncCountingDriver:
    """An async driver, counted."""

    def __init__(self, driver: AsyncDriver[object, object], count: Count) -> None:
        self._driver, self._add = driver, count.add

    async def execute(self, request: object, timeout: float) -> object:
        """As ``CountingDriver.execute``."""
        self._add()
        return await self._driver.execute(request, timeout)

    async def execute_many(self, requests: Sequence[object], timeout: float) -> Sequence[object | IdemstoreError]:
        """As ``CountingDriver.execute_many``."""
        self._add()
        return await self._driver.execute_many(requests, timeout)

    def watch(self, key: str) -> AsyncWatch:
        """The driver's own."""
        return self._driver.watch(key)

    async def close(self) -> None:
        """Close the driver."""
        await self._driver.close()
