"""``Deadlines``: what ``asyncio.timeout`` promises, with one timer for many calls."""

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from idemstore.async_deadlines import Deadlines

Scenario = Callable[[Deadlines], Awaitable[None]]


def run(scenario: Scenario) -> None:
    """On a loop of its own; it fails rather than hang."""

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario(Deadlines())

    asyncio.run(bounded())


async def stay(deadlines: Deadlines, seconds: float) -> None:
    """A call that nobody answers."""
    with deadlines.bound(time.monotonic() + seconds):
        await asyncio.get_running_loop().create_future()


def timers() -> int:
    """How many timers the loop has that are still to ring, beside that of the test."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not timer.cancelled() for timer in scheduled) - 1


def test_a_late_call_is_timed_out() -> None:
    """``TimeoutError``, and the task is not left cancelled."""

    async def scenario(deadlines: Deadlines) -> None:
        with pytest.raises(TimeoutError):
            await stay(deadlines, 0.01)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    run(scenario)


def test_a_deadline_in_the_past() -> None:
    """It comes at once."""

    async def scenario(deadlines: Deadlines) -> None:
        with pytest.raises(TimeoutError):
            await stay(deadlines, -5)

    run(scenario)


def test_each_call_has_its_own_deadline() -> None:
    """One timer: it rings for the earliest, in whatever order they came, and goes on to the next."""

    async def scenario(deadlines: Deadlines) -> None:
        ended: list[str] = []

        async def call(name: str, seconds: float) -> None:
            try:
                await stay(deadlines, seconds)
            except TimeoutError:
                ended.append(name)

        calls = [asyncio.create_task(call(name, seconds)) for name, seconds in (("b", 0.04), ("a", 0.02), ("c", 0.06))]
        await asyncio.sleep(0)
        assert timers() == 1
        await asyncio.gather(*calls)
        assert ended == ["a", "b", "c"]
        assert timers() == 0

    run(scenario)


def test_a_call_that_is_answered_in_time() -> None:
    """Nothing befalls it, nor whatever its task does after the deadline."""

    async def scenario(deadlines: Deadlines) -> None:
        with deadlines.bound(time.monotonic() + 0.5):
            await asyncio.sleep(0)
        await asyncio.sleep(0.6)
        assert not deadlines.open

    run(scenario)


def test_a_deadline_before_one_that_is_waited_for() -> None:
    """The timer of a long call is set anew for a shorter one."""

    async def scenario(deadlines: Deadlines) -> None:
        long = asyncio.create_task(stay(deadlines, 60))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await stay(deadlines, 0.01)
        assert not long.done()
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long

    run(scenario)


def test_a_cancellation_by_somebody_else() -> None:
    """It stays a cancellation, though the deadline comes in the same moment."""

    async def scenario(deadlines: Deadlines) -> None:
        before = asyncio.create_task(stay(deadlines, 60))
        await asyncio.sleep(0)
        before.cancel()
        with pytest.raises(asyncio.CancelledError):
            await before
        both = asyncio.create_task(stay(deadlines, 60))
        await asyncio.sleep(0)
        (bound,) = deadlines.open
        both.cancel()
        bound.expire()
        with pytest.raises(asyncio.CancelledError):
            await both

    run(scenario)


def test_one_within_another() -> None:
    """The outer one's deadline is not taken for the inner one's."""

    async def scenario(deadlines: Deadlines) -> None:
        with pytest.raises(TimeoutError), deadlines.bound(time.monotonic() + 0.01):
            await stay(deadlines, 60)

    run(scenario)


def test_closing() -> None:
    """No timer is left."""

    async def scenario(deadlines: Deadlines) -> None:
        with deadlines.bound(time.monotonic() + 60):
            pass
        assert timers() == 1
        deadlines.close()
        assert timers() == 0
        with pytest.raises(TimeoutError):
            await stay(deadlines, 0.01)

    run(scenario)


def test_closing_under_a_call() -> None:
    """Its deadline still comes: nothing waits for ever."""

    async def scenario(deadlines: Deadlines) -> None:
        calls = [asyncio.create_task(stay(deadlines, seconds)) for seconds in (0.01, 0.03)]
        await asyncio.sleep(0)
        deadlines.close()
        await asyncio.wait(calls, timeout=1)
        assert all(call.done() and isinstance(call.exception(), TimeoutError) for call in calls)
        await asyncio.sleep(0)
        assert timers() == 0

    run(scenario)


def test_the_timer_keeps_nothing_of_its_caller() -> None:
    """It outlives the call that started it: what that had in its context must not live as long."""

    async def scenario(deadlines: Deadlines) -> None:
        alive = await asyncio.create_task(call(deadlines))
        await asyncio.sleep(0)  # the loop has let go of the task
        gc.collect()
        assert timers() == 1
        assert alive() is None

    class Payload:
        """What a request carries along."""

    variable = ContextVar[Payload]("variable")

    async def call(deadlines: Deadlines) -> "weakref.ref[Payload]":
        payload = Payload()
        variable.set(payload)
        with deadlines.bound(time.monotonic() + 60):
            await asyncio.sleep(0)
        return weakref.ref(payload)

    run(scenario)
