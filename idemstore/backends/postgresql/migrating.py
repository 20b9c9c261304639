"""``?migrate=1``: a driver that prepares the database before its first call. Two faces of a few lines each."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from idemstore.backends.postgresql.dialect import Ask, Call, PostgresqlDialect, Reply
from idemstore.errors import IdemstoreError, StoreTimeout
from idemstore.exchange import Alone, AsyncDriver, AsyncWatch, Driver, Exchange, Together, Watch
from idemstore.turn import Taken, Turn


class MigratingDriver:
    """Sync. Callers that come while the migration runs wait for it."""

    def __init__(self, driver: Driver[Call, Reply], dialect: PostgresqlDialect) -> None:
        self._driver, self._dialect = driver, dialect
        self._turn = Turn()
        self._ready = False

    def _prepare(self, timeout: float) -> float:
        """Once; what is left of the time."""
        if self._ready:
            return timeout
        deadline = time.monotonic() + timeout
        try:
            self._turn.run(lambda: self._migrate(deadline), timeout)
        except Taken:
            raise _late() from None
        return _left(deadline)

    def _migrate(self, deadline: float) -> None:
        """Unless another call has done it."""
        answer: Ask[None] | None = None if self._ready else self._dialect.ensure()
        while isinstance(answer, Exchange):
            answer = answer.parse(self._driver.execute(answer.request, _left(deadline)))
        self._ready = True

    def execute(self, request: Call, timeout: float) -> Reply:
        """Carry one call."""
        return self._driver.execute(request, self._prepare(timeout))

    def execute_many(self, requests: Sequence[Call], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many."""
        return self._driver.execute_many(requests, self._prepare(timeout))

    def watch(self, key: str) -> Watch:
        """The driver's own."""
        return self._driver.watch(key)

    def close(self) -> None:
        """Close the driver."""
        self._driver.close()


class AsyncMigrated(AsyncDriver[Call, Reply], Together[Call, Reply], Protocol):
    """What is driven after the migration."""


class AsyncMigratingDriver:
    """Async."""

    def __init__(self, driver: AsyncMigrated, dialect: PostgresqlDialect) -> None:
        self._driver, self._dialect = driver, dialect
        self._lock = asyncio.Lock()
        self._ready = False

    async def _prepare(self, timeout: float) -> float:
        """Once; what is left of the time."""
        if self._ready:
            return timeout
        deadline = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._lock.acquire()
        except TimeoutError:
            raise _late() from None
        try:
            answer: Ask[None] | None = None if self._ready else self._dialect.ensure()
            while isinstance(answer, Exchange):
                answer = answer.parse(await self._driver.execute(answer.request, _left(deadline)))
            self._ready = True
        finally:
            self._lock.release()
        return _left(deadline)

    async def execute(self, request: Call, timeout: float) -> Reply:
        """Carry one call."""
        return await self._driver.execute(request, await self._prepare(timeout))

    async def execute_many(self, requests: Sequence[Call], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many."""
        return await self._driver.execute_many(requests, await self._prepare(timeout))

    async def execute_together(
        self, requests: Sequence[Call], timeout: float
    ) -> Sequence[Reply | IdemstoreError | Alone]:
        """Carry many of different callers."""
        return await self._driver.execute_together(requests, await self._prepare(timeout))

    def watch(self, key: str) -> AsyncWatch:
        """The driver's own."""
        return self._driver.watch(key)

    async def close(self) -> None:
        """Close the driver."""
        await self._driver.close()


def _late() -> StoreTimeout:
    """Another caller's migration takes that long."""
    return StoreTimeout("the migration that ?migrate=1 asks for has not ended in time: repeating the call is safe")


def _left(deadline: float) -> float:
    """What the driver is given."""
    return max(0.001, deadline - time.monotonic())
