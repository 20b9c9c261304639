"""idemkit, as its README shows it for function calls: ``@idempotent(backend=..., config=MethodConfig(...))``.

Backends by ``from_url`` and as async context managers, PostgreSQL's table by what ``idemkit init-pg`` runs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from idemkit import DynamoBackend, MethodConfig, MongoBackend, PostgresBackend, RedisBackend, idempotent
from idemkit.backends.base import IdempotencyBackend
from idemkit.backends.postgres import init_pg

from benchmarks.peers.contender import AMOUNT, AsyncCall, Job, Result
from idemstore.testing.families.dynamodb import ACCESS, SECRET
from idemstore.url import parse_url


def guarded(backend: IdempotencyBackend, job: Job) -> AsyncCall:
    """The README's ``refund``."""

    @idempotent(backend=backend, config=MethodConfig(key_fields=["order_id", "amount"]))
    async def refund(*, order_id: str, amount: int) -> Result:
        return await job.run_async(order_id)

    return lambda key: refund(order_id=key, amount=AMOUNT)


@asynccontextmanager
async def redis(url: str, job: Job) -> AsyncIterator[AsyncCall]:
    """On Redis."""
    async with RedisBackend.from_url(url) as backend:
        yield guarded(backend, job)


@asynccontextmanager
async def postgresql(url: str, job: Job) -> AsyncIterator[AsyncCall]:
    """On PostgreSQL."""
    await init_pg(url)
    async with PostgresBackend.from_url(url) as backend:
        yield guarded(backend, job)


@asynccontextmanager
async def mongodb(url: str, job: Job) -> AsyncIterator[AsyncCall]:
    """On MongoDB."""
    async with MongoBackend.from_url(url) as backend:
        yield guarded(backend, job)


@asynccontextmanager
async def dynamodb(url: str, job: Job) -> AsyncIterator[AsyncCall]:
    """On DynamoDB. (The README's ``DynamoBackend("idempotency_keys")`` is a TypeError: it takes keywords only.)"""
    import aioboto3  # noqa: F401 - what is not installed is told of here, not inside the first call

    parsed = parse_url(url)
    backend = DynamoBackend.from_url(
        f"http://{parsed.hosts[0].name}:{parsed.hosts[0].port}",
        region_name=dict(parsed.query)["region"],
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
    )
    async with backend:
        yield guarded(backend, job)
