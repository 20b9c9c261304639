"""Coalescing, on a wire whose trips stand until the test lets them land: who travels with whom, who is told what."""

import asyncio
import contextvars
import gc
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence

import pytest

import idemstore
from idemstore import coalesce
from idemstore.async_store import AsyncStore
from idemstore.backends.memory import AsyncMemoryDriver, Engine, MemoryDialect
from idemstore.coalesce import Coalescer, Coalescing
from idemstore.errors import StoreClosed, StoreMisbehaved, StoreTimeout, StoreUnavailable, UnknownOption
from idemstore.exchange import ALONE
from idemstore.outcomes import Claimed
from idemstore.testing.faults import AsyncFaultyDriver, Faults

LONG = 60.0


class Trip:
    """One call of the driver, under way until it is landed."""

    def __init__(self, requests: Sequence[str], timeout: float, single: bool) -> None:
        self.requests, self.timeout, self.single = list(requests), timeout, single
        self.task = asyncio.current_task()
        self.landing: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def land(self, replies: object = None) -> None:
        """With these replies; without any: each request with a ``!``."""
        usual = [f"{request}!" for request in self.requests]
        self.landing.set_result(replies if replies is not None else usual[0] if self.single else usual)

    def fail(self, error: Exception) -> None:
        """With an error for all."""
        self.landing.set_exception(error)


class Wire:
    """A driver that notes its trips. A request is a str whose first character is its key; ``-`` is none."""

    def __init__(self) -> None:
        self.trips: list[Trip] = []
        self.left = asyncio.Event()
        self.closed = 0

    async def execute(self, request, timeout):
        return await self._carry([request], timeout, single=True)

    async def execute_many(self, requests, timeout):
        return await self._carry(requests, timeout, single=False)

    async def _carry(self, requests, timeout, single):
        trip = Trip(requests, timeout, single)
        self.trips.append(trip)
        self.left.set()
        return await trip.landing

    def watch(self, key):
        return f"watch {key}"

    async def close(self):
        self.closed += 1

    @property
    def loads(self) -> list[list[str]]:
        """What has left so far, trip by trip."""
        return [trip.requests for trip in self.trips]


class Together(Wire):
    """A driver that tells strangers apart."""

    async def execute_together(self, requests, timeout):
        return await self._carry(requests, timeout, single=False)


def key_of(request: str) -> str | None:
    """As the wire says."""
    return None if request[0] == "-" else request[0]


class Lab:
    """A coalescer over a wire; by default one call or one batch at a time, whichever the family's order."""

    def __init__(self, wire: Wire | None = None, **how: object) -> None:
        self.wire = wire or Wire()
        self.coalescer = Coalescer(self.wire, Coalescing(key_of, **{"straight": 1, **how}))  # type: ignore[arg-type]

    def call(self, request: str, timeout: float = LONG) -> "asyncio.Task[object]":
        """Begin a call."""
        return asyncio.get_running_loop().create_task(self.coalescer.execute(request, timeout))

    async def calls(self, *requests: str) -> "list[asyncio.Task[object]]":
        """Begin calls, and let the loop turn until all stand where they must wait."""
        tasks = [self.call(request) for request in requests]
        await turns()
        return tasks


async def turns(count: int = 8) -> None:
    """Let everybody go on as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


def run(test: Callable[..., Coroutine[object, object, None]], *args: object) -> None:
    """Run a test on a loop."""

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test(*args)

    asyncio.run(bounded())


def test_a_lone_call_goes_straight_out():
    """Its own task carries it, with its own time-out; there is no future, no timer and no further task."""

    async def main() -> None:
        lab = Lab()
        task, *_ = await lab.calls("a1")
        (trip,) = lab.wire.trips
        assert trip.single
        assert trip.task is task
        assert trip.timeout == LONG
        assert asyncio.all_tasks() == {task, asyncio.current_task()}
        assert lab.coalescer._alarm is lab.coalescer._impatience is None
        trip.land()
        assert await task == "a1!"
        assert not lab.coalescer._leaving

    run(main)


def test_calls_meanwhile_leave_as_the_next_batch():
    """While one is on the wire the others queue up; they leave together when it lands, and each gets its own reply."""

    async def main() -> None:
        lab = Lab()
        first, *others = await lab.calls("a1", "b1", "c1", "d1")
        assert lab.wire.loads == [["a1"]]
        lab.wire.trips[0].land()
        await turns()
        assert lab.wire.loads == [["a1"], ["b1", "c1", "d1"]]
        lab.wire.trips[1].land()
        assert await asyncio.gather(first, *others) == ["a1!", "b1!", "c1!", "d1!"]

    run(main)


def test_whoever_a_batch_wakes_travels_together_again():
    """The next calls of those whom a batch has answered leave as one batch, not the first of them by itself."""

    async def main() -> None:
        lab = Lab()

        async def caller(name: str) -> None:
            for number in range(3):
                await lab.coalescer.execute(f"{name}{number}", LONG)

        callers = [asyncio.create_task(caller(name)) for name in "abcd"]
        for expected in (["a0"], ["b0", "c0", "d0", "a1"], ["b1", "c1", "d1", "a2"], ["b2", "c2", "d2"]):
            await turns()
            assert lab.wire.loads[-1] == expected
            lab.wire.trips[-1].land()
        await asyncio.gather(*callers)

    # The first lands before the others leave, so it comes along with them.
    run(main)


def test_several_calls_may_go_straight():
    """Up to the bound of the family calls travel side by side, as they would without coalescing."""

    async def main() -> None:
        lab = Lab(straight=3)
        tasks = await lab.calls("a1", "b1", "c1", "d1")
        assert lab.wire.loads == [["a1"], ["b1"], ["c1"]]
        for trip in lab.wire.trips:
            trip.land()
        await turns()
        assert lab.wire.loads[3:] == [["d1"]]
        lab.wire.trips[3].land()
        await asyncio.gather(*tasks)

    run(main)


def test_errors_stay_with_their_items():
    """One item fails, its neighbours do not; an error that the driver gives to several is each caller's own."""

    async def main() -> None:
        lab = Lab()
        tasks = await lab.calls("a1", "b1", "c1", "d1", "e1")
        lab.wire.trips[0].land()
        await turns()
        shared = StoreUnavailable("gone")
        lab.wire.trips[1].land(["b", shared, "d", shared])
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answers[place] for place in (0, 1, 3)] == ["a1!", "b", "d"]
        one, two = answers[2], answers[4]
        assert type(one) is type(two) is StoreUnavailable
        assert one is not two
        assert str(one) == str(two) == "gone"

    run(main)


def test_what_befalls_a_batch_befalls_each_of_its_calls():
    """Each gets an error of its own, so that the store may put its key there; so also for errors that are not ours."""

    async def main() -> None:
        for error in (StoreUnavailable("gone"), ZeroDivisionError("a bug")):
            lab = Lab()
            _, *others = await lab.calls("a1", "b1", "c1")
            lab.wire.trips[0].land()
            await turns()
            lab.wire.trips[1].fail(error)
            one, two = await asyncio.gather(*others, return_exceptions=True)
            assert type(one) is type(two) is type(error)
            assert isinstance(error, ZeroDivisionError) or one is not two

    run(main)


def test_too_few_replies_hang_nobody():
    """A driver that brings the wrong number of replies is a bug, and said to be one."""

    async def main() -> None:
        lab = Lab()
        _, *others = await lab.calls("a1", "b1", "c1")
        lab.wire.trips[0].land()
        await turns()
        lab.wire.trips[1].land(["b"])
        answers = await asyncio.gather(*others, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreMisbehaved] * 2

    run(main)


@pytest.mark.parametrize("doomed", ["a1", "b1", "c1"])
@pytest.mark.parametrize("sent", [False, True])
def test_a_cancelled_caller_disturbs_nobody(doomed: str, sent: bool):
    """Whoever is cancelled, the first of a batch or another, in the queue or on the wire: the others get their replies,
    and what comes after travels as ever.
    """

    async def main() -> None:
        lab = Lab()
        before, *tasks = await lab.calls("z1", "a1", "b1", "c1")
        if sent:
            lab.wire.trips[0].land()
            await turns()
        victim = tasks.pop(["a1", "b1", "c1"].index(doomed))
        victim.cancel()
        await turns()
        if not sent:
            lab.wire.trips[0].land()
            await turns()
            assert doomed not in lab.wire.loads[1]
        lab.wire.trips[1].land()
        others = [name for name in ("a1", "b1", "c1") if name != doomed]
        assert await asyncio.gather(before, *tasks) == ["z1!", *(f"{name}!" for name in others)]
        assert victim.cancelled()
        (again,) = await lab.calls(f"{doomed[0]}2")
        lab.wire.trips[2].land()
        assert await again == f"{doomed[0]}2!"

    run(main)


def test_a_straight_call_that_is_cancelled_lets_the_others_go():
    """It takes its trip with it; those who queued up behind it leave."""

    async def main() -> None:
        lab = Lab()
        first, second = await lab.calls("a1", "a2")
        first.cancel()
        await turns()
        assert lab.wire.trips[0].landing.cancelled()
        assert lab.wire.loads == [["a1"], ["a2"]]
        lab.wire.trips[1].land()
        assert await second == "a2!"

    run(main)


def test_calls_on_one_key_keep_their_order_in_one_batch():
    """Where the family applies a batch in order, they travel in it as they came."""

    async def main() -> None:
        lab = Lab()
        tasks = await lab.calls("z1", "a1", "b1", "a2", "a3")
        lab.wire.trips[0].land()
        await turns()
        assert lab.wire.loads[1] == ["a1", "b1", "a2", "a3"]
        lab.wire.trips[1].land()
        await asyncio.gather(*tasks)

    run(main)


def test_calls_on_one_key_wait_where_a_batch_has_no_order():
    """Then each travels in a batch of its own, in the order in which they came; others are not held up."""

    async def main() -> None:
        lab = Lab(ordered=False)
        tasks = await lab.calls("z1", "a1", "b1", "a2", "a3", "c1")
        for expected in (["z1"], ["a1", "b1", "c1"], ["a2"], ["a3"]):
            assert lab.wire.loads[-1] == expected
            lab.wire.trips[-1].land()
            await turns()
        await asyncio.gather(*tasks)
        assert not lab.coalescer._parked
        assert not lab.coalescer._wire

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_key_on_the_wire_waits_though_there_is_room(ordered: bool):
    """Two calls on one key are never on the wire side by side; the others go by, and nobody overtakes on the key."""

    async def main() -> None:
        lab = Lab(width=2, straight=4, ordered=ordered)
        first, second, third = await lab.calls("a1", "a2", "b1")
        assert sorted(lab.wire.loads) == [["a1"], ["b1"]]
        fourth, fifth = await lab.calls("a3", "c1")
        assert [load for load in lab.wire.loads if load[0][0] == "a"] == [["a1"]]
        lab.wire.trips[0].land()
        await turns()
        assert await first == "a1!"
        went = [name for load in lab.wire.loads for name in load if name[0] == "a"]
        assert went == (["a1", "a2", "a3"] if ordered else ["a1", "a2"])
        while not all(task.done() for task in (second, third, fourth, fifth)):
            for trip in lab.wire.trips:
                if not trip.landing.done():
                    trip.land()
            await turns()
        assert [name for load in lab.wire.loads for name in load if name[0] == "a"] == ["a1", "a2", "a3"]

    run(main)


def test_a_batch_is_bounded():
    """No more calls than the family's bound travel together."""

    async def main() -> None:
        lab = Lab(size=3)
        tasks = await lab.calls("z1", *(f"{chr(97 + number)}1" for number in range(7)))
        for expected in (1, 3, 3, 1):
            assert len(lab.wire.loads[-1]) == expected
            lab.wire.trips[-1].land()
            await turns()
        await asyncio.gather(*tasks)

    run(main)


def test_what_queues_up_is_divided_among_the_batches():
    """Where several batches at once win, what is there is shared out; a crumb waits for company."""

    async def main() -> None:
        lab = Lab(width=2, straight=1)
        names = [f"{chr(97 + number)}1" for number in range(20)]
        tasks = await lab.calls("Z1", *names)
        assert [len(load) for load in lab.wire.loads] == [1, 20]
        (crumb,) = await lab.calls("Y1")
        lab.wire.trips[0].land()
        await turns()
        assert [len(load) for load in lab.wire.loads] == [1, 20]
        more = await lab.calls(*(f"{chr(65 + number)}2" for number in range(15)))
        assert [len(load) for load in lab.wire.loads] == [1, 20, 16]
        last = await lab.calls(*(f"{chr(97 + number)}3" for number in range(20)))
        for trip in lab.wire.trips[1:3]:
            trip.land()
        await turns()
        assert [len(load) for load in lab.wire.loads] == [1, 20, 16, 10, 10]
        for trip in lab.wire.trips[3:]:
            trip.land()
        await asyncio.gather(*tasks, crumb, *more, *last)

    run(main)


def test_a_slow_batch_holds_nobody_up_for_long():
    """Calls that have queued up for a while leave beside a batch that does not land; not so for the key in it."""

    async def main() -> None:
        lab = Lab()
        stuck, same, other = await lab.calls("a1", "a2", "b1")
        lab.wire.left.clear()
        await lab.wire.left.wait()
        assert lab.wire.loads[1] == ["b1"]
        lab.wire.trips[1].land()
        assert await other == "b1!"
        assert not same.done()
        lab.wire.trips[0].land()
        await turns()
        lab.wire.trips[2].land()
        assert await asyncio.gather(stuck, same) == ["a1!", "a2!"]

    run(main)


def test_slow_batches_are_bounded(monkeypatch: pytest.MonkeyPatch):
    """A server that answers nobody gets no more than so many batches; the rest waits, and times out."""
    monkeypatch.setattr(coalesce, "MOST", 3)

    async def main() -> None:
        lab = Lab()
        for number in range(20):
            lab.call(f"{chr(97 + number)}1", timeout=30)
            await asyncio.sleep(0.006)
        assert len(lab.wire.trips) <= 4
        last = lab.call("z1", timeout=0.02)
        with pytest.raises(StoreTimeout, match="before the call left"):
            await last

    run(main)


def test_each_call_keeps_its_own_deadline():
    """A batch has the time of the most patient of its calls; the others are told when theirs is up, and their replies,
    which come too late, disturb nobody.
    """

    async def main() -> None:
        lab = Lab()
        (first,) = await lab.calls("z1")
        short, long = lab.call("a1", timeout=1), lab.call("b1", timeout=30)
        await turns()
        lab.wire.trips[0].land()
        await turns()
        assert lab.wire.loads[1] == ["a1", "b1"]
        assert 20 < lab.wire.trips[1].timeout <= 30
        began = time.monotonic()
        with pytest.raises(StoreTimeout, match="before the reply came"):
            await short
        assert time.monotonic() - began < 10
        lab.wire.trips[1].land()
        assert await asyncio.gather(first, long) == ["z1!", "b1!"]

    run(main)


def test_a_deadline_in_the_queue():
    """The time of a call that never leaves is up when it is up, and it never leaves."""

    async def main() -> None:
        lab = Lab()
        first, second, third = lab.call("a1"), lab.call("a2", timeout=0.03), lab.call("a3")
        with pytest.raises(StoreTimeout, match="before the call left"):
            await second
        lab.wire.trips[0].land()
        await turns()
        assert lab.wire.loads == [["a1"], ["a3"]]
        lab.wire.trips[1].land()
        assert await asyncio.gather(first, third) == ["a1!", "a3!"]

    run(main)


def test_a_full_queue_lets_in_as_many_as_leave(monkeypatch: pytest.MonkeyPatch):
    """Whoever finds no room waits for it: first come, first served, within the time of the call."""
    monkeypatch.setattr(coalesce, "QUEUED", 2)
    monkeypatch.setattr(coalesce, "PATIENCE", 60)

    async def main() -> None:
        lab = Lab(size=2)
        tasks = await lab.calls("z1", "a1", "b1", "c1", "d1", "e1")
        assert len(lab.coalescer._queue) == 2
        assert len(lab.coalescer._lobby) == 3
        with pytest.raises(StoreTimeout, match="more than 2"):
            await lab.call("f1", timeout=0.02)
        for expected in (["z1"], ["a1", "b1"], ["c1", "d1"], ["e1"]):
            assert lab.wire.loads[-1] == expected
            lab.wire.trips[-1].land()
            await turns()
        await asyncio.gather(*tasks)
        assert lab.coalescer._waiting == 0

    run(main)


def test_room_is_counted_through_everything(monkeypatch: pytest.MonkeyPatch):
    """Parked, cancelled, expired and lonely calls all give their room back: none is lost, none given twice."""
    monkeypatch.setattr(coalesce, "QUEUED", 50)

    async def main() -> None:
        lab = Lab(Together(), size=4, ordered=False)
        tasks = [
            lab.call(f"{'abc'[number % 3]}{number}", timeout=0.05 if number % 7 == 0 else LONG) for number in range(60)
        ]
        for number in range(0, 60, 5):
            tasks[number].cancel()
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            for trip in lab.wire.trips:
                if not trip.landing.done():
                    lonely = [ALONE if place % 2 else f"{request}!" for place, request in enumerate(trip.requests)]
                    trip.land(None if trip.single else lonely)
        await turns()
        assert lab.coalescer._waiting == 0
        assert lab.coalescer._aboard == lab.coalescer._batches == lab.coalescer._straight == 0
        assert not lab.coalescer._wire
        assert not lab.coalescer._parked
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(
            answer == f"{'abc'[number % 3]}{number}!" or isinstance(answer, StoreTimeout | asyncio.CancelledError)
            for number, answer in enumerate(answers)
        )

    run(main)


def test_a_call_that_would_hold_up_others_goes_alone():
    """Its neighbours are answered at once; it travels by itself, and the later calls on its key wait behind it."""

    async def main() -> None:
        lab = Lab(Together())
        tasks = await lab.calls("z1", "a1", "b1", "a2", "c1")
        lab.wire.trips[0].land()
        await turns()
        lab.wire.trips[1].land([ALONE, "b", ALONE, "c"])
        await turns()
        assert [task.done() for task in tasks] == [True, False, True, False, True]
        assert lab.wire.loads[2:] == [["a1"]]
        assert lab.wire.trips[2].single
        (third, other) = await lab.calls("a3", "d1")
        assert lab.wire.loads[3:] == [["d1"]]
        lab.wire.trips[2].land()
        lab.wire.trips[3].land()
        await turns()
        assert lab.wire.loads[4:] == [["a2", "a3"]]
        lab.wire.trips[4].land()
        assert await asyncio.gather(*tasks, third, other) == ["z1!", "a1!", "b", "a2!", "c", "a3!", "d1!"]

    run(main)


def test_closing_refuses_what_queues_up_and_lets_the_rest_land():
    """Nobody hangs: those in the queue are told, those on the wire get their replies, later ones are refused."""

    async def main() -> None:
        lab = Lab()
        first, *others = await lab.calls("a1", "b1", "c1")
        lab.wire.trips[0].land()
        await turns()
        (parked, queued) = await lab.calls("b2", "d1")
        await lab.coalescer.close()
        assert lab.wire.closed == 1
        for refused in (parked, queued):
            with pytest.raises(StoreClosed):
                await refused
        lab.wire.trips[1].land()
        assert await asyncio.gather(first, *others) == ["a1!", "b1!", "c1!"]
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_closing_gives_up_what_nobody_waits_for():
    """A batch whose callers are all gone is no reason for a task to stay behind."""

    async def main() -> None:
        lab = Lab()
        _, *others = await lab.calls("a1", "b1", "c1")
        lab.wire.trips[0].land()
        await turns()
        for task in others:
            task.cancel()
        await turns()
        await lab.coalescer.close()
        assert lab.wire.trips[1].landing.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_the_end_of_the_loop_is_told():
    """Somebody cancels every task, batches too: their callers get an error, not silence."""

    async def main() -> None:
        lab = Lab()
        tasks = await lab.calls("a1", "b1", "c1")
        lab.wire.trips[0].land()
        await turns()
        task = lab.wire.trips[1].task
        assert task is not None
        assert task not in tasks
        task.cancel()
        for caller in tasks[1:]:
            with pytest.raises(StoreUnavailable, match="event loop"):
                await caller

    run(main)


def test_a_batch_carries_nobodys_context():
    """What one caller has set for itself is not what the others' calls run in."""
    mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="nobody's")
    seen: list[str] = []

    class Looking(Wire):
        async def execute_many(self, requests, timeout):
            seen.append(mine.get())
            return await super().execute_many(requests, timeout)

    async def main() -> None:
        lab = Lab(Looking())
        mine.set("the caller's")
        tasks = await lab.calls("a1", "b1")
        lab.wire.trips[0].land()
        await turns()
        lab.wire.trips[1].land()
        await asyncio.gather(*tasks)
        assert seen == ["nobody's"]

    run(main)


def test_batch_after_batch_keeps_nothing_of_a_caller():
    """What a caller has set for itself goes with it, however long others keep the wire busy."""
    mine: contextvars.ContextVar[Lab] = contextvars.ContextVar("mine")

    async def request(lab: Lab) -> "weakref.ref[Lab]":
        payload = Lab()
        mine.set(payload)
        await asyncio.gather(lab.call("b1"), lab.call("c1"))
        return weakref.ref(payload)

    async def main() -> None:
        lab = Lab()
        others = [lab.call("a1")]
        await turns()
        gone = asyncio.create_task(request(lab))
        await turns()
        for number in range(3):
            others.append(lab.call(f"d{number}"))
            await turns()
            lab.wire.trips[number].land()
            await turns()
        alive = gone.result()
        del gone
        gc.collect()
        assert len(lab.wire.trips) == 4
        assert alive() is None
        lab.wire.trips[3].land()
        await asyncio.gather(*others)

    run(main)


def test_what_concerns_no_record_travels_by_itself():
    """However much is on the wire; and so does a batch that one caller makes, and a watch."""

    async def main() -> None:
        lab = Lab()
        await lab.calls("a1", "b1", "-ping")
        assert lab.wire.loads == [["a1"], ["-ping"]]
        many: Awaitable[object] = asyncio.ensure_future(lab.coalescer.execute_many(["a2", "b2"], LONG))
        await turns()
        assert lab.wire.loads[2] == ["a2", "b2"]
        lab.wire.trips[2].land()
        assert await many == ["a2!", "b2!"]
        assert lab.coalescer.watch("a") == "watch a"
        for trip in lab.wire.trips[:2]:
            trip.land()
        await turns()
        lab.wire.trips[3].land()

    run(main)


def over_memory(made: list[AsyncMemoryDriver], join: bool = False) -> AsyncStore:
    """A store that coalesces over a driver that stands still for a turn of the loop."""

    class Slow(AsyncMemoryDriver):
        trips: list[int]

        async def execute(self, request, timeout):
            self.trips.append(1)
            await turns(3)
            return await super().execute(request, timeout)

        async def execute_many(self, requests, timeout):
            self.trips.append(len(requests))
            await turns(3)
            return await super().execute_many(requests, timeout)

    def connect() -> AsyncMemoryDriver:
        driver = Slow(Engine())
        driver.trips = []
        made.append(driver)
        return driver

    serial = iter(range(10**6))
    return AsyncStore(
        MemoryDialect(100),
        connect,
        timeout=5,
        name="slow",
        join=(lambda connection: connect()) if join else None,
        coalesce=Coalescing(lambda request: next(serial), straight=1),
    )


def test_a_store_coalesces_but_for_what_joins_a_transaction():
    """The calls of a store travel together; those over a caller's connection one by one; errors name their own keys."""

    async def main() -> None:
        made: list[AsyncMemoryDriver] = []
        store = over_memory(made, join=True)
        claims = await asyncio.gather(*(store.claim(f"k{number}") for number in range(10)))
        assert {type(claim) for claim in claims} == {Claimed}
        joined = store.on(object())
        await asyncio.gather(*(joined.claim(f"k{number}") for number in range(10)))
        assert [driver.trips for driver in made] == [[1, 9], [1] * 10]  # type: ignore[attr-defined]
        await store.close()

    run(main)


def test_what_is_wrapped_is_what_carries():
    """A wrapped driver stands on the wire: it sees batches, and what befalls one befalls the calls in it."""

    async def main() -> None:
        made: list[AsyncMemoryDriver] = []
        faults = Faults()
        store = over_memory(made).wrapped(lambda driver: AsyncFaultyDriver(driver, faults))
        faults.passing()
        faults.lose_reply()
        answers = await asyncio.gather(*(store.claim(f"key-{number}") for number in range(4)), return_exceptions=True)
        assert faults.round_trips == 2
        assert [type(answer) for answer in answers] == [Claimed, StoreTimeout, StoreTimeout, StoreTimeout]
        assert len({str(answer) for answer in answers[1:]}) == 3
        await store.close()

    run(main)


def test_the_option():
    """One switch for all families: what has no form of it says so, sync stores take it and do nothing."""

    async def coalesces(url: str) -> bool:
        store = idemstore.open_async(url)
        driver = store._live()
        await store.close()
        return isinstance(driver, Coalescer)

    assert asyncio.run(coalesces("sqlite:///nowhere.db?coalesce=1"))
    assert not asyncio.run(coalesces("sqlite:///nowhere.db?coalesce=0"))
    assert asyncio.run(coalesces("sqlite:///nowhere.db"))
    idemstore.open("memory://?coalesce=1").close()
    assert not asyncio.run(coalesces("memory://?coalesce=0&local_cache=3"))
    with pytest.raises(UnknownOption, match="coalesce"):
        idemstore.open_async("memory://?coalesce=1")
    with pytest.raises(UnknownOption, match="switch: give 1 or 0"):
        idemstore.open_async("sqlite:///nowhere.db?coalesce=2")
