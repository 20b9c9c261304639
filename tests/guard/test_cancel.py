"""Cancellation of async calls: of the claim, the function, the completion, at each point; and by a lost lease."""

import asyncio
import contextlib
import contextvars
import uuid
from collections.abc import Coroutine

import pytest
from desk import Desk

import idemstore
from idemstore import AsyncGuard, LeaseLoss, Policy, State, async_operation
from idemstore.errors import (
    CompletionUnknown,
    IdemstoreError,
    LeaseLostError,
    OperationEnded,
    OperationInFlight,
    StoreUnavailable,
)
from idemstore.testing.families.memory import MemorySubject


class Point:
    """A driver that stands still at chosen round trips until it is let go, or is cancelled there."""

    def __init__(self, driver):
        self.driver, self.stops, self.calls = driver, {}, 0
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def execute(self, request, timeout):
        """Pass on; stop before or after the server has the request."""
        return await self._stop(lambda: self.driver.execute(request, timeout))

    async def execute_many(self, requests, timeout):
        """As ``execute``."""
        return await self._stop(lambda: self.driver.execute_many(requests, timeout))

    async def _stop(self, send):
        self.calls += 1
        stop = self.stops.get(self.calls)
        if isinstance(stop, IdemstoreError):
            raise stop
        if stop == "before":
            await self._stand()
        reply = await send()
        if stop == "after":
            await self._stand()
        return reply

    async def _stand(self):
        self.reached.set()
        await self.go.wait()

    def watch(self, key):
        """The driver's own."""
        return self.driver.watch(key)

    async def close(self):
        """Pass on."""
        await self.driver.close()


class Table:
    """An async guard whose driver stops where it is told, and a look at its records."""

    def __init__(self, stops=None, **policy):
        self.subject = MemorySubject(f"memory://cancel-{uuid.uuid4().hex}")
        points = []

        def wrap(driver):
            points.append(Point(driver))
            return points[0]

        self.plain = idemstore.open_async(self.subject.url)
        self.store = self.plain.wrapped(wrap)
        self.store._live()
        self.point: Point = points[0]
        self.point.stops = stops or {}
        self.guard = AsyncGuard(self.store, Policy(**policy))

    async def state(self, key="key"):
        """The state of a record, or None."""
        snapshot = await self.plain.get(key)
        return None if snapshot is None else snapshot.state


async def value():
    """A quick function."""
    return "done"


async def cancelled_at(table: Table, call: Coroutine[object, object, object]) -> None:
    """Start a call, cancel it where the driver stands, and wait for its end."""
    task = asyncio.create_task(call)
    await asyncio.wait_for(table.point.reached.wait(), 20)
    task.cancel()
    table.point.stops.clear()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 20)
    assert task.cancelled()


@pytest.mark.parametrize("when", ["before", "after"])
def test_cancelled_claim_is_given_back(when):
    """Whether the claim had been applied or not, the key is free afterwards, and nothing ran."""

    async def main():
        table, ran = Table({1: when}), []

        async def work():
            ran.append(1)

        await cancelled_at(table, table.guard.call("key", work))
        assert ran == []
        assert await table.guard.call("key", value) == "done"

    asyncio.run(main())


def test_cancelled_waiter_leaves_the_owner_alone():
    """A waiter that is cancelled takes nothing with it."""

    async def main():
        table, go = Table(wait=60), asyncio.Event()

        async def work():
            await go.wait()
            return "mine"

        owner = asyncio.create_task(table.guard.call("key", work))
        await asyncio.sleep(0)
        waiter = asyncio.create_task(table.guard.call("key", value))
        await asyncio.sleep(0.01)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        go.set()
        assert await owner == "mine"

    asyncio.run(main())


def test_cancelled_claim_that_cannot_be_given_back(caplog):
    """Where the store is down then, the token is kept for the next try."""

    async def main():
        table = Table({1: "after", 2: StoreUnavailable("down")})
        task = asyncio.create_task(table.guard.call("key", value))
        await table.point.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "could not be given back" in caplog.text
        assert await table.state() is State.IN_FLIGHT
        assert await table.guard.call("key", value) == "done"

    asyncio.run(main())


def test_cancelled_function_may_run_again():
    """Recorded as a failure to retry at once, with its checkpoint, before the cancellation goes on."""

    async def main():
        table, running = Table(), asyncio.Event()

        async def work():
            await async_operation().checkpoint(b"half")
            running.set()
            await asyncio.sleep(3600)

        task = asyncio.create_task(table.guard.call("key", work))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await table.state() is State.FAILED

        async def again():
            return [async_operation().attempt, async_operation().resumed_from.decode()]

        assert await table.guard.call("key", again) == [2, "half"]

    asyncio.run(main())


def test_function_that_times_out():
    """``asyncio.timeout`` inside and around the call work as everywhere."""

    async def main():
        table = Table()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await table.guard.call("key", lambda: asyncio.sleep(3600))
        assert asyncio.current_task().cancelling() == 0
        with pytest.raises(TimeoutError):
            await table.guard.call("key", lambda: asyncio.wait_for(asyncio.sleep(3600), 0.02))
        assert await table.state() is State.FAILED

    asyncio.run(main())


def test_cancelled_while_the_failure_is_recorded():
    """The record is made, and the cancellation goes on."""

    async def main():
        table = Table({2: "before"})

        async def work():
            raise ValueError("x")

        await cancelled_at(table, table.guard.call("key", work))
        assert await table.state() is State.FAILED

    asyncio.run(main())


@pytest.mark.parametrize("when", ["before", "after"])
def test_cancelled_completion_is_carried_to_its_end(when):
    """The work is done: it is recorded, then the cancellation goes on."""

    async def main():
        table = Table({2: when})
        await cancelled_at(table, table.guard.call("key", value))
        assert await table.state() is State.COMPLETED

    asyncio.run(main())


def test_completion_that_is_cancelled_again_and_again():
    """Cancel scopes that repeat themselves at every step of the loop do not keep a completion from its end."""

    async def main():
        table = Table({2: "before", 3: "before"})
        task = asyncio.create_task(table.guard.call("key", value))
        await table.point.reached.wait()
        for _ in range(200):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        table.point.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await table.state() is State.COMPLETED

    asyncio.run(main())


def test_cancelled_completion_is_bounded():
    """With the store down the cancellation waits until the lease would be over, and no longer."""

    async def main():
        stops = {number: StoreUnavailable("down") for number in range(3, 1000)}
        table = Table({2: "before", **stops}, lease=0.3)
        task = asyncio.create_task(table.guard.call("key", value))
        await table.point.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        assert await table.state() is State.IN_FLIGHT

    asyncio.run(main())


def test_loop_that_shuts_down():
    """``asyncio.run`` cancels every task at its end: a completion under way is still recorded."""
    keep = {}

    async def main():
        keep["table"] = table = Table({2: "before"})
        keep["task"] = asyncio.create_task(table.guard.call("key", value))
        await table.point.reached.wait()
        table.point.stops.clear()

    asyncio.run(main())
    assert keep["task"].cancelled()
    with idemstore.open(keep["table"].subject.url) as store:
        assert store.get("key").state is State.COMPLETED


def test_loop_that_shuts_down_on_a_cancelled_completion():
    """Also where the completion had been cancelled before: its own task is cancelled then, too."""
    keep = {}

    async def main():
        keep["table"] = table = Table({2: "before", 3: "before"})
        keep["task"] = task = asyncio.create_task(table.guard.call("key", value))
        await table.point.reached.wait()
        table.point.reached.clear()
        task.cancel()
        await table.point.reached.wait()

    asyncio.run(main())
    with idemstore.open(keep["table"].subject.url) as store:
        assert store.get("key").state is State.COMPLETED


def test_closed_coroutine():
    """A coroutine that is closed from outside can tell the store nothing: its lease ends by itself."""

    async def main():
        table = Table(lease=30)

        class Forever:
            """Something to wait for."""

            def __await__(self):
                yield

        async def work():
            await Forever()

        for run in (lambda step: step(), contextvars.copy_context().run):
            call = table.guard.call("key", work)
            call.send(None)
            run(call.close)
            assert len(table.guard.heartbeat._beats) == 0
            assert await table.state() is State.IN_FLIGHT
            with pytest.raises(OperationInFlight):
                await table.guard.call("key", value)
            table.subject.age("key", 31)
        assert await table.guard.call("key", value) == "done"

    asyncio.run(main())


# -- cancelled because the lease is lost ------------------------------------------------------------------------------


def test_lost_lease_cancels_where_the_policy_says_so():
    """The function is cancelled half-way, the call raises ``LeaseLostError``, and the task goes on unharmed."""

    async def main():
        table, cancelled = Table(lease=0.3, lease_loss=LeaseLoss.CANCEL), []

        async def work():
            table.subject.age("key", 10)
            await table.plain.claim("key", lease=60)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        with pytest.raises(LeaseLostError) as lost:
            await table.guard.call("key", work)
        assert (lost.value.value, cancelled) == (None, [True])
        assert asyncio.current_task().cancelling() == 0
        async with asyncio.timeout(10):
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_function_that_resists():
    """A function that swallows the cancellation and returns: the call raises with its value."""

    async def main():
        table = Table(lease=0.3, lease_loss=LeaseLoss.CANCEL)

        async def work():
            table.subject.age("key", 10)
            await table.plain.claim("key", lease=60)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            return "mine"

        with pytest.raises(LeaseLostError) as lost:
            await table.guard.call("key", work)
        assert lost.value.value == "mine"
        assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_loss_and_cancellation_at_once():
    """Where somebody else cancelled the task, too, it is cancelled."""

    async def main():
        table = Table(lease=0.3, lease_loss=LeaseLoss.CANCEL)

        async def work():
            operation, task = async_operation(), asyncio.current_task()
            operation.beat.lose("test")
            task.cancel()
            await asyncio.sleep(3600)

        task = asyncio.create_task(table.guard.call("key", work))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())


def test_loss_finishes_by_default():
    """``LeaseLoss.FINISH``: nothing is cancelled; the call raises with the value."""

    async def main():
        table = Table(lease=0.3)

        async def work():
            table.subject.age("key", 10)
            await table.plain.claim("key", lease=60)
            while not async_operation().lease_lost:  # noqa: ASYNC110 - as a function would that can stop half-way
                await asyncio.sleep(0.01)
            return "mine"

        with pytest.raises(LeaseLostError) as lost:
            await table.guard.call("key", work)
        assert lost.value.value == "mine"

    asyncio.run(main())


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_task_that_outlives_its_operation():
    """It finds the operation ended: no checkpoint is saved, and its key can be called."""

    async def main():
        table, go, left = Table(), asyncio.Event(), []

        async def later(operation):
            await go.wait()
            for use in (operation.checkpoint(b"late"), asyncio.to_thread(async_operation)):
                with pytest.raises(OperationEnded):
                    await use
            return await table.guard.call("key", value)

        async def work():
            left.append(asyncio.create_task(later(async_operation())))
            return "first"

        assert await table.guard.call("key", work) == "first"
        go.set()
        assert await left[0] == "first"

    asyncio.run(main())


def test_operation_travels_into_tasks_and_threads():
    """What the function starts sees its operation."""

    async def main():
        table = Table()

        async def work():
            here = async_operation()
            task = asyncio.create_task(asyncio.to_thread(async_operation))
            assert await task is here
            return "done"

        assert await table.guard.call("key", work) == "done"

    asyncio.run(main())


def test_many_keys_at_once():
    """Tasks of one loop do not see one another's operations."""

    async def main():
        table = Table()

        async def work(number):
            await asyncio.sleep(0)
            assert async_operation().key == f"key-{number}"
            return number

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(table.guard.call(f"key-{n}", lambda n=n: work(n))) for n in range(100)]
        assert [task.result() for task in tasks] == list(range(100))

    asyncio.run(main())


def test_unknown_completion_has_the_value():
    """As in sync mode: after the lease, with the value."""

    async def main():
        table = Table({number: StoreUnavailable("down") for number in range(2, 1000)}, lease=0.2)
        with pytest.raises(CompletionUnknown) as unknown:
            await table.guard.call("key", value)
        assert unknown.value.value == "done"

    asyncio.run(main())


def test_sync_desk_is_not_an_async_one():
    """``operation`` and ``async_operation`` each belong to their guard."""
    from idemstore import operation
    from idemstore.errors import ConfigurationError

    with pytest.raises(ConfigurationError):
        operation()
    with Desk("sync") as desk, pytest.raises(ConfigurationError):
        desk.guard(final=(ConfigurationError,)).call("key", async_operation)
    with Desk("async") as desk, pytest.raises(ConfigurationError):
        desk.guard().call("key", operation)
