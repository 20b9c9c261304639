"""Who may use a connection of the async Redis pool: nobody is forgotten, and no permit is lost or doubled."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("redis")

from idemstore.backends.redis.aio_pool import Permits


def run(scenario: Callable[[Permits], Awaitable[None]], count: int = 1) -> None:
    """On a loop of its own; afterwards every permit is there."""

    async def bounded() -> None:
        permits = Permits(count)
        async with asyncio.timeout(10):
            await scenario(permits)
        assert permits._free == count
        assert not permits._waiters

    asyncio.run(bounded())


async def turns(count: int = 5) -> None:
    """Let others go on."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_in_the_order_in_which_they_came():
    """One after the other, and nobody who comes later is before them."""

    async def scenario(permits: Permits) -> None:
        order: list[int] = []

        async def caller(number: int) -> None:
            await permits.take()
            order.append(number)
            await asyncio.sleep(0)
            permits.give()

        await permits.take()
        tasks = [asyncio.create_task(caller(number)) for number in range(5)]
        await turns()
        assert not permits.free
        permits.give()
        assert not permits.free
        late = asyncio.create_task(caller(5))
        await asyncio.gather(*tasks, late)
        assert order == [0, 1, 2, 3, 4, 5]

    run(scenario)


def test_whoever_is_cancelled_leaves():
    """The permit goes to the next one."""

    async def scenario(permits: Permits) -> None:
        await permits.take()
        first, second = (asyncio.create_task(permits.take()) for _ in range(2))
        await turns()
        first.cancel()
        await turns()
        permits.give()
        await second
        assert first.cancelled()
        permits.give()

    run(scenario)


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_cancelled_in_the_moment_of_the_grant(cancelled_first: bool):
    """Before it or behind it, in the same turn of the loop: the next one gets the permit."""

    async def scenario(permits: Permits) -> None:
        await permits.take()
        first, second = (asyncio.create_task(permits.take()) for _ in range(2))
        await turns()
        if cancelled_first:
            first.cancel()
        permits.give()
        if not cancelled_first:
            first.cancel()
        (told,) = await asyncio.gather(first, return_exceptions=True)
        assert isinstance(told, asyncio.CancelledError)
        await second
        permits.give()

    run(scenario)


def test_a_storm():
    """Cancellations at random: never more users than permits, and all of them are back in the end."""

    async def scenario(permits: Permits) -> None:
        using = 0

        async def caller(number: int) -> None:
            nonlocal using
            await permits.take()
            try:
                using += 1
                assert using <= 3
                for _ in range(number % 4):
                    await asyncio.sleep(0)
            finally:
                using -= 1
                permits.give()

        tasks = [asyncio.create_task(caller(number)) for number in range(200)]
        for number, task in enumerate(tasks):
            await turns(number % 3)
            if number % 2:
                task.cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in told)
        assert sum(one is None for one in told) >= 100

    run(scenario, 3)
