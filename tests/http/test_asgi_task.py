"""The task of a request takes its first step at once, on every version of Python."""

import asyncio
import contextvars
import sys
from collections.abc import Callable

import pytest
from asgi_lab import loop_of_its_own

from idemstore.http.asgi_task import start

seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="outside")
ours = pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on asyncio itself does it")


def test_it_has_ended_where_it_waits_for_nothing():
    """No turn of the loop is needed; the task that started it is the current one again, and has its own context."""

    async def main() -> None:
        loop, outer = asyncio.get_running_loop(), asyncio.current_task()
        steps: list[object] = []

        async def work() -> None:
            steps.append(asyncio.current_task())
            seen.set("inside")

        task = start(loop, work())
        assert task.done()
        assert task.exception() is None
        assert steps == [task]
        assert task is not outer
        assert asyncio.current_task() is outer
        assert seen.get() == "outside"
        assert asyncio.all_tasks() == {outer}

    asyncio.run(main())


def test_it_goes_on_after_it_has_waited():
    """It is one task, in one context, before and after it waits; and it can be cancelled like any other."""

    async def main() -> None:
        loop, gate, reached = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        steps: list[object] = []

        async def work() -> None:
            seen.set("inside")
            steps.append(asyncio.current_task())
            async with asyncio.timeout(20):
                await gate.wait()
            steps.extend((asyncio.current_task(), seen.get()))
            reached.set()
            await asyncio.sleep(20)

        task = start(loop, work())
        assert steps == [task]
        assert task in asyncio.all_tasks()
        gate.set()
        await asyncio.wait_for(reached.wait(), 20)
        assert steps == [task, task, "inside"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_timeout_that_is_over_at_once_is_its_own():
    """What cancels the task in its first step cancels this task, and not the one that started it."""

    async def main() -> None:
        ended: list[type[BaseException]] = []

        async def work() -> None:
            try:
                async with asyncio.timeout(0):
                    await asyncio.sleep(20)
            except TimeoutError as error:
                ended.append(type(error))

        await start(asyncio.get_running_loop(), work())
        assert ended == [TimeoutError]

    asyncio.run(main())


def test_one_starts_within_another():
    """A request may be made from within a request, in one and the same step."""

    async def main() -> None:
        loop, ended = asyncio.get_running_loop(), list[str]()

        async def inner() -> None:
            ended.append("inner")

        async def work() -> None:
            start(loop, inner())
            ended.append("outer")

        assert start(loop, work()).done()
        assert ended == ["inner", "outer"]

    asyncio.run(main())


def test_an_error_stays_in_the_task():
    """Whoever starts it hears of an error from the task."""

    async def main() -> None:
        outer = asyncio.current_task()

        async def work() -> None:
            raise ValueError("no")

        task = start(asyncio.get_running_loop(), work())
        assert isinstance(task.exception(), ValueError)
        assert asyncio.current_task() is outer

    asyncio.run(main())


@ours
def test_others_that_call_soon_just_then_are_not_caught():
    """A signal handler may run while the task is made: what it asks of the loop is done, in its turn."""

    async def main() -> None:
        from idemstore.http import asgi_eager

        loop, called = asyncio.get_running_loop(), list[str]()

        class Interrupting(str):
            """A name: asyncio asks for its text in the middle of making the task."""

            def __str__(self) -> str:
                loop.call_soon(called.append, "handler")
                return "name"

        async def work() -> None:
            called.append("work")

        asgi_eager.start(loop, work(), Interrupting())
        await asyncio.sleep(0)
        assert called == ["work", "handler"]

    asyncio.run(main())


@ours
def test_a_signal_handler_that_raises_between_two_tasks(monkeypatch: pytest.MonkeyPatch):
    """The interruption reaches the loop, and the task that did not begin is there to be cancelled."""
    from idemstore.http import asgi_eager

    leave = asgi_eager._leave_task

    def interrupted(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[object]") -> None:
        leave(loop, task)
        raise KeyboardInterrupt

    monkeypatch.setattr(asgi_eager, "_leave_task", interrupted)

    async def main() -> None:
        start(asyncio.get_running_loop(), _nothing())

    with loop_of_its_own() as loop:
        loop.call_later(5, loop.stop)  # nobody hears of it otherwise
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        left = asyncio.all_tasks(loop)
        loop.run_until_complete(asyncio.sleep(0.01))
        assert all(task.done() for task in left)


@ours
def test_another_watcher_of_the_loop_stays():
    """A program that replaced ``call_soon`` of this loop finds its own there afterwards."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        theirs: Callable[..., object] = lambda *args, **kinds: None  # noqa: E731
        plain = loop.call_soon
        loop.call_soon = theirs  # type: ignore[method-assign,assignment]
        try:
            assert start(loop, _nothing()).done()
            assert loop.call_soon is theirs
        finally:
            del loop.call_soon
        assert start(loop, _nothing()).done()
        assert loop.call_soon == plain
        assert "call_soon" not in vars(loop)

    asyncio.run(main())


class Closed(asyncio.SelectorEventLoop):
    """A loop that lets nobody replace its methods."""

    def __setattr__(self, name: str, value: object) -> None:
        """All but that."""
        if name == "call_soon":
            raise AttributeError(name)
        super().__setattr__(name, value)


@ours
def test_a_loop_that_cannot_be_watched_starts_it_with_its_next_turn():
    """And in a context of its own, all the same."""

    async def main() -> None:
        task = start(asyncio.get_running_loop(), _inside())
        assert not task.done()
        await task
        assert seen.get() == "outside"

    with loop_of_its_own(Closed()) as loop:
        loop.run_until_complete(main())


@ours
def test_outside_of_any_task_it_starts_with_the_next_turn():
    """A callback of the loop is no task."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[asyncio.Task[None]] = loop.create_future()
        loop.call_soon(lambda: made.set_result(start(loop, _inside())))
        task = await asyncio.wait_for(made, 20)
        await asyncio.wait_for(task, 20)

    asyncio.run(main())


async def _nothing() -> None:
    """Waits for nothing."""


async def _inside() -> None:
    """Sets its own context."""
    seen.set("inside")
