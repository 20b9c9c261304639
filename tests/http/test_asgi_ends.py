"""How a request under the ASGI middleware may end: errors of every kind, cancellation at every turn, odd messages."""

import asyncio
import contextlib
import gc
import logging
import warnings
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

import pytest
from asgi_lab import KEY, POLICY, at_turn, ended, loop_of_its_own, state, until

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.errors import IdemstoreError
from idemstore.exchange import AsyncDriver, AsyncWatch
from idemstore.http import Fate, HttpPolicy, keep_everything
from idemstore.http.asgi import IdempotencyMiddleware
from idemstore.http.asgi_types import AsgiApp, Message, Receive, Scope, Send
from idemstore.machine import State
from idemstore.testing.adapter_clients import AsgiServed, Got, Visit

TURNS = 12


class Slow:
    """A driver that waits a few turns of the loop before and after every round trip, as a network does."""

    def __init__(self, driver: AsyncDriver[object, object]) -> None:
        self._driver = driver

    async def execute(self, request: object, timeout: float) -> object:
        """Later."""
        for _ in range(2):
            await asyncio.sleep(0)
        reply = await self._driver.execute(request, timeout)
        for _ in range(2):
            await asyncio.sleep(0)
        return reply

    async def execute_many(self, requests: Sequence[object], timeout: float) -> Sequence[object | IdemstoreError]:
        """Later."""
        await asyncio.sleep(0)
        return await self._driver.execute_many(requests, timeout)

    def watch(self, key: str) -> AsyncWatch:
        """The driver's own."""
        return self._driver.watch(key)

    async def close(self) -> None:
        """Close the driver."""
        await self._driver.close()


class Stop(BaseException):
    """What no ``except Exception`` catches."""


def scope(key: str = "k") -> Scope:
    """A POST with a key."""
    return AsgiServed.scope("POST", "/orders", (("idempotency-key", key),), b"{}")


def start(status: int = 201, headers: object = ()) -> Message:
    """The first message of a response."""
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    """A part of a response."""
    return {"type": "http.response.body", "body": data, "more_body": more}


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers."""
    await send(start())
    await send(body(b"done"))


async def unhurried(scope: Scope, receive: Receive, send: Send) -> None:
    """As ``fine``, a turn of the loop later."""
    await asyncio.sleep(0)
    await fine(scope, receive, send)


def plain(loop: asyncio.AbstractEventLoop, work: object, **more: object) -> "asyncio.Task[object]":
    """A task factory: tasks begin with the next turn, on every version of Python."""
    return asyncio.Task(work, loop=loop, **more)  # type: ignore[arg-type, call-overload]


def run(test: Callable[[AsyncStore], Awaitable[None]], *, slow: bool = False, factory: bool = False) -> None:
    """Run a test with a store of its own."""

    async def main() -> None:
        if factory:
            asyncio.get_running_loop().set_task_factory(plain)  # type: ignore[arg-type]
        async with idemstore.open_async("memory://") as store, asyncio.timeout(10):
            await test(store.wrapped(Slow) if slow else store)

    asyncio.run(main())


def at_every_turn(test: Callable[[int, bool, bool], None]) -> Callable[[int, bool, bool], None]:
    """A test of what happens at a turn of the loop: with a store that waits or not, tasks that begin late or not."""
    for name, values in (("turns", range(TURNS)), ("slow", (False, True)), ("factory", (False, True))):
        test = pytest.mark.parametrize(name, values)(test)
    return test


async def twice(app: AsgiApp, store: AsyncStore, visit: type[Visit] = Visit) -> list[Got]:
    """The first answer of an application, and the one to a retry."""
    wrapped, visits = IdempotencyMiddleware(app, store, POLICY), (visit(b"{}"), visit(b"{}"))
    for visit in visits:
        await wrapped(scope(), visit.receive, visit.send)
    return [visit.got() for visit in visits]


@pytest.mark.parametrize("factory", [False, True])
@pytest.mark.parametrize("waits", [0, 1, 3])
@pytest.mark.parametrize("error", [Stop, GeneratorExit, lambda: BaseExceptionGroup("x", [Stop()])])
def test_an_error_that_is_no_exception_reaches_the_server(
    error: Callable[[], BaseException], waits: int, factory: bool
):
    """It does not leave its request waiting for ever, and the next one with the key runs at once."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for _ in range(waits):
                await asyncio.sleep(0)
            raise error()

        wrapped = IdempotencyMiddleware(app, store, POLICY)
        visit = Visit(b"{}")
        with pytest.raises(RuntimeError if error is GeneratorExit else type(error())):
            async with asyncio.timeout(1):
                await wrapped(scope(), visit.receive, visit.send)
        assert wrapped.tasks == set()
        assert not wrapped.heartbeat._beats
        if error is not GeneratorExit:  # for all that is known, nothing may be awaited any more
            await IdempotencyMiddleware(fine, store, POLICY)(scope(), Visit(b"{}").receive, visit.send)
            assert visit.got().status == 201

    run(test, factory=factory)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("waits", [0, 2])
def test_what_ends_the_loop_ends_it(error: type[BaseException], waits: int, slow: bool):
    """A request whose application says that the process is to end does not keep the loop; the key is given back."""
    stores = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise error

    async def main() -> None:
        store = idemstore.open_async("memory://")
        store = store.wrapped(Slow) if slow else store
        stores.append(store)
        visit = Visit(b"{}")
        await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)

    with loop_of_its_own() as loop:
        with pytest.raises(error):
            loop.run_until_complete(asyncio.wait_for(main(), 1))
        (store,) = stores
        found = loop.run_until_complete(store.claim(KEY, lease=30, retention=30, fingerprint=None))
        assert isinstance(found, idemstore.Claimed)


@pytest.mark.parametrize("waits", [0, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_loop_is_told_once(error: type[BaseException], waits: int):
    """The loop raises it; the server's task, and whoever waits for that, are cancelled and do not raise it again."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await fine(scope, receive, send)
        for _ in range(waits):
            await asyncio.sleep(0)
        raise error

    async def main() -> None:
        visit = Visit(b"{}")
        wrapped = IdempotencyMiddleware(app, idemstore.open_async("memory://"), POLICY)
        await asyncio.ensure_future(wrapped(scope(), visit.receive, visit.send))

    with loop_of_its_own() as loop:
        served = loop.create_task(main())
        with pytest.raises(error):
            loop.run_until_complete(asyncio.sleep(1))
        loop.run_until_complete(asyncio.sleep(0.01))
        assert served.cancelled()


def test_a_task_factory_may_take_a_coroutine_alone():
    """As many an older one does: the server is told of no error while the application goes on without it."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(lambda loop, work: asyncio.Task(work, loop=loop))  # type: ignore[arg-type]
        async with idemstore.open_async("memory://") as store:
            visit = Visit(b"{}")
            await IdempotencyMiddleware(unhurried, store, POLICY)(scope(), visit.receive, visit.send)
            assert visit.got().status == 201

    asyncio.run(main())


class Passing(asyncio.SelectorEventLoop):
    """A loop that hands every argument of ``create_task`` on to the task factory, as asyncio does from 3.14 on."""

    def create_task(self, work: object, **more: object) -> "asyncio.Task[object]":  # type: ignore[override]
        """By the factory."""
        factory = self.get_task_factory()
        return asyncio.Task(work, loop=self) if factory is None else factory(self, work, **more)  # type: ignore


def test_a_task_factory_is_given_nothing_that_it_may_not_take():
    """The heartbeat has a name and a context of its own, whatever the loop hands on."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(lambda loop, work: asyncio.Task(work, loop=loop))  # type: ignore[arg-type]
        store, visit = idemstore.open_async("memory://"), Visit(b"{}")
        wrapped = IdempotencyMiddleware(unhurried, store, POLICY)
        await wrapped(scope(), visit.receive, visit.send)
        assert visit.got().status == 201
        assert wrapped.tasks == set()
        assert "idemstore-keepalive" in {task.get_name() for task in asyncio.all_tasks()}
        await store.close()

    with loop_of_its_own(Passing()) as loop:
        loop.run_until_complete(main())


@at_every_turn
def test_everything_is_cancelled_at_any_turn(turns: int, slow: bool, factory: bool):
    """As a loop does that ends: nothing is waited for, and the key is free or its response is stored."""

    async def test(store: AsyncStore) -> None:
        visit, wrapped = Visit(b"{}"), IdempotencyMiddleware(unhurried, store, POLICY)
        before = asyncio.all_tasks()
        task = await at_turn(wrapped, scope(), visit, turns)
        cancelled = asyncio.all_tasks() - before
        for one in cancelled:
            one.cancel()
        await ended(wrapped, task)
        assert not wrapped.heartbeat._beats
        found = await store.get(KEY)
        if found is not None and found.record.state is not State.COMPLETED:
            assert found.record.state is State.FAILED

    run(test, slow=slow, factory=factory)


@at_every_turn
def test_only_the_tasks_of_requests_are_cancelled_at_any_turn(turns: int, slow: bool, factory: bool):
    """Somebody cancels every task but the server's: the server hears of it."""

    async def test(store: AsyncStore) -> None:
        visit, wrapped = Visit(b"{}"), IdempotencyMiddleware(unhurried, store, POLICY)
        task = await at_turn(wrapped, scope(), visit, turns)
        for one in list(wrapped.tasks):
            one.cancel()
        await ended(wrapped, task)
        assert await state(store) in (None, State.COMPLETED, State.FAILED)

    run(test, slow=slow, factory=factory)


def test_headers_may_be_any_iterable():
    """ASGI says so; the client gets them, and so does its retry."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            pairs = [(b"x-one", b"1"), (b"content-length", b"4")]
            await send(start(headers=(pair for pair in pairs)))
            await send(body(b"do", more=True))
            await send(body(b"ne", more=True))
            await send(body())

        for answer in await twice(app, store):
            assert ("x-one", "1") in answer.headers

    run(test)


def test_a_status_may_be_a_number_of_any_kind():
    """An enum of the application's own is stored as the number that it is."""

    class Status(int, Enum):
        CREATED = 201

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start(Status.CREATED))
            await send(body(b"done"))

        for answer in await twice(app, store):
            assert answer.status == 201

    run(test)


def test_a_response_that_cannot_be_recorded_is_a_failure():
    """The server is told of the error; the key does not stay in flight until its lease is over."""

    def fate(status: int) -> Fate:
        if status < 300:
            raise ValueError("no such status")
        return keep_everything(status)

    async def test(store: AsyncStore) -> None:
        wrapped = IdempotencyMiddleware(fine, store, HttpPolicy(scope=lambda request: "ann", fate=fate))
        visit = Visit(b"{}")
        with pytest.raises(ValueError, match="no such status"):
            await wrapped(scope(), visit.receive, visit.send)
        assert visit.sent == []
        assert await state(store) is State.FAILED

    run(test)


def test_send_is_known_as_a_coroutine_function():
    """asgiref, which Django and WSGI under ASGI call it with, warns of anything else."""
    sync = pytest.importorskip("asgiref.sync")

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                sync.async_to_sync(send)
                sync.async_to_sync(receive)
            await fine(scope, receive, send)

        visit = Visit(b"{}")
        await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)

    run(test)


def test_a_lost_claim_is_told_although_the_request_is_cancelled(caplog: pytest.LogCaptureFixture):
    """That an application may have run twice is in the log, whatever else happens at that moment."""

    async def test(store: AsyncStore) -> None:
        slow = store.wrapped(Slow)
        policy = HttpPolicy(scope=lambda request: "ann", lease=0.05)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            task = asyncio.current_task()
            assert task is not None
            await store.forget(KEY)
            await store.claim(KEY, lease=30, retention=30, fingerprint=None)
            await send(start())
            asyncio.get_running_loop().call_soon(task.cancel)
            try:
                await send(body(b"done"))
            finally:
                await send(body(b"this must not look like a success"))

        visit = Visit(b"{}")
        with contextlib.suppress(asyncio.CancelledError):
            await IdempotencyMiddleware(app, slow, policy)(scope(), visit.receive, visit.send)
        assert visit.sent == []

    with caplog.at_level(logging.ERROR, "idemstore.http"):
        run(test)
    assert "taken over while it ran" in caplog.text


def test_a_second_start_once_the_response_has_begun():
    """It is an error of the application; what it says after it is not recorded as a success."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start())
            await send(body(b"first", more=True))
            await send(start())
            await send(body(b"second"))

        visit = Visit(b"{}")
        with pytest.raises(RuntimeError, match="twice"):
            await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)
        assert len(visit.sent) == 2
        assert await state(store) is None

    run(test)


def test_a_disconnect_that_is_only_looked_at_is_not_lost():
    """Frameworks that ask whether the client is still there cancel the question; some servers say it only once."""

    async def test(store: AsyncStore) -> None:
        heard: list[str] = []

        class Once(Visit):
            """A server whose queue has the disconnect once, and which takes what is sent to nobody."""

            said = 0

            async def receive(self) -> Message:
                message = await super().receive()
                self.said += message["type"] == "http.disconnect"
                return message if self.said < 2 else await asyncio.Event().wait()  # type: ignore[return-value]

            async def send(self, message: Message) -> None:
                self.sent.append(message)

        visit = Once(b"{}")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            visit.leave()
            looking = asyncio.ensure_future(receive())
            await until(lambda: visit.said > 0)
            looking.cancel()
            await asyncio.wait({looking})
            await fine(scope, receive, send)
            heard.append((await receive())["type"])

        await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)
        assert heard == ["http.disconnect"]
        assert visit.sent == []
        assert await state(store) is State.COMPLETED

    run(test)


def test_a_server_that_fails_to_say_whether_the_client_is_there():
    """The application has stopped asking: nobody hears of it, and asyncio does not complain of that either."""

    async def test(store: AsyncStore) -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        asked = asyncio.Event()

        class Broken(Visit):
            async def receive(self) -> Message:
                if self._messages:
                    return await super().receive()
                asked.set()
                raise OSError("no connection")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            looking = asyncio.ensure_future(receive())
            await asked.wait()
            looking.cancel()
            await asyncio.wait({looking})
            await fine(scope, receive, send)

        visit = Broken(b"{}")
        await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)
        assert visit.got().status == 201
        gc.collect()
        assert complaints == []

    run(test)


def test_a_buffer_that_is_filled_anew_is_kept_as_it_was_sent():
    """Starlette streams views of memory, too: the retry gets what the client got."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            buffer = bytearray(2)
            await send(start())
            for part in (b"ab", b"cd"):
                buffer[:] = part
                await send({"type": "http.response.body", "body": memoryview(buffer), "more_body": True})
            await send(body())

        class Wire(Visit):
            """A server that writes at once."""

            async def send(self, message: Message) -> None:
                await super().send({**message, "body": bytes(message.get("body", b""))})

        assert [answer.body for answer in await twice(app, store, Wire)] == [b"abcd", b"abcd"]

    run(test)


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_that_is_closed_goes_on_without_its_server(fails: bool, caplog: pytest.LogCaptureFixture):
    """As one that is cancelled: its response is stored, what it raises is logged, and asyncio has nothing to say."""

    async def test(store: AsyncStore) -> None:
        go, complaints = asyncio.Event(), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            if fails:
                raise ValueError("broken")
            await fine(scope, receive, send)

        visit, wrapped = Visit(b"{}"), IdempotencyMiddleware(app, store, POLICY)
        served = wrapped(scope(), visit.receive, visit.send)
        served.send(None)
        served.close()
        go.set()
        await until(lambda: not wrapped.tasks)
        assert await state(store) is (None if fails else State.COMPLETED)
        assert visit.sent == []
        gc.collect()
        assert complaints == []

    with caplog.at_level(logging.ERROR, "idemstore.http"):
        run(test)
    assert ("client is gone" in caplog.text) == fails


def test_a_middleware_that_stands_twice_says_so(caplog: pytest.LogCaptureFixture):
    """Each request would find itself in flight, and to try again would never help."""

    async def test(store: AsyncStore) -> None:
        visit, once = Visit(b"{}"), IdempotencyMiddleware(fine, store, POLICY)
        await IdempotencyMiddleware(once, store, POLICY)(scope(), visit.receive, visit.send)
        assert (visit.got().status, visit.got().problem) == (500, "misconfigured")
        assert await state(store) is None

    run(test)
    assert "add it once" in caplog.text
