"""This library: ``guard.call``, and claim + complete by hand with the same job between them."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import idemstore
from benchmarks.peers.contender import AsyncCall, Call, Entry, Job
from idemstore import AsyncGuard, Claimed, Completed, Guard


class Busy(Exception):
    """Somebody else is running it."""


@contextmanager
def guard(url: str, job: Job) -> Iterator[Call]:
    """As the README shows it, sync."""
    with idemstore.open(url) as store, Guard(store) as guarding:
        yield lambda key: guarding.call(key, lambda: job.run(key))


@asynccontextmanager
async def async_guard(url: str, job: Job) -> AsyncIterator[AsyncCall]:
    """As the README shows it, async."""
    async with idemstore.open_async(url) as store, AsyncGuard(store) as guarding:
        yield lambda key: guarding.call(key, lambda: job.run_async(key))


@contextmanager
def by_hand(url: str, job: Job) -> Iterator[Call]:
    """Claim, run, complete, sync."""
    with idemstore.open(url) as store:

        def call(key: str) -> object:
            match store.claim(key):
                case Claimed(token=token):
                    result = job.run(key)
                    store.complete(key, token, json.dumps(result).encode())
                    return result
                case Completed(result=stored):
                    return json.loads(stored)
                case other:
                    raise Busy(other)

        yield call


@asynccontextmanager
async def async_by_hand(url: str, job: Job) -> AsyncIterator[AsyncCall]:
    """Claim, run, complete, async."""
    async with idemstore.open_async(url) as store:

        async def call(key: str) -> object:
            match await store.claim(key):
                case Claimed(token=token):
                    result = await job.run_async(key)
                    await store.complete(key, token, json.dumps(result).encode())
                    return result
                case Completed(result=stored):
                    return json.loads(stored)
                case other:
                    raise Busy(other)

        yield call


SYNC = [
    Entry("idemstore guard", guard, "sync"),
    Entry("idemstore claim+complete", by_hand, "sync"),
    Entry("idemstore async guard", async_guard),
]
ASYNC = [Entry("idemstore guard", async_guard), Entry("idemstore claim+complete", async_by_hand)]
