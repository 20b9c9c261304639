"""Tasks that outlive the call that happens to start them."""

import asyncio
import contextvars

import pytest

from idemstore.aside import aside

carried: contextvars.ContextVar[str] = contextvars.ContextVar("carried", default="nothing")


@pytest.mark.parametrize("factory", [False, True])
def test_a_task_aside_carries_nothing(factory: bool):
    """Also where the program makes tasks by a factory that takes a coroutine alone."""

    async def work() -> str:
        return carried.get()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if factory:
            loop.set_task_factory(lambda loop, work: asyncio.Task(work, loop=loop))  # type: ignore[arg-type]
        carried.set("the operation")
        task = aside(loop, work(), "a name")
        assert await task == "nothing"
        assert task.get_name() == "a name"
        assert carried.get() == "the operation"

    asyncio.run(main())
