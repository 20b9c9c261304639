"""idempotency-kit, as its README's quick start shows it: ``@async_idempotent`` on a method of a use case.

The README leaves out how the coordinator is made; this is what the docstrings of its classes ask for.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
from idempotency_kit import (
    AsyncIdempotencyCoordinator,
    IdempotencyDomainService,
    PydanticResultAdapter,
    async_idempotent,
)
from idempotency_kit.infra.storage.redis.aio import RedisAsyncIdempotencyRepository
from pydantic import BaseModel

from benchmarks.peers.contender import AsyncCall, Job


class Order(BaseModel):
    """The result."""

    receipt: str
    amount: int
    text: str


class CreateOrder:
    """The README's use case."""

    def __init__(self, job: Job, coordinator: AsyncIdempotencyCoordinator) -> None:
        self._job = job
        self.coordinator = coordinator

    @async_idempotent(operation="order.create", adapter=PydanticResultAdapter(Order))
    async def execute(self, order: str, idempotency_key: str | None = None) -> Order:
        """Create an order."""
        return Order.model_validate(await self._job.run_async(order))


@asynccontextmanager
async def on_redis(url: str, job: Job) -> AsyncIterator[AsyncCall]:
    """On Redis, the only store it has."""
    async with redis.asyncio.Redis.from_url(url) as client:
        repository = RedisAsyncIdempotencyRepository(client)
        case = CreateOrder(job, AsyncIdempotencyCoordinator(repository, IdempotencyDomainService()))
        yield lambda key: case.execute(key, idempotency_key=key)
