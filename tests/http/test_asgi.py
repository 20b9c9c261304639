"""What is the ASGI middleware's alone: other kinds of connections, order of messages, cancellation, disconnects."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Awaitable, Callable

import pytest
from asgi_lab import KEY, POLICY, at_turn, ended, state, until

import idemstore
from idemstore import Claimed
from idemstore.async_store import AsyncStore
from idemstore.errors import ConfigurationError, LeaseLostError
from idemstore.http import HttpPolicy, LargeRequest, LeaseLoss, Response, keep_everything
from idemstore.http.asgi import IdempotencyMiddleware
from idemstore.http.asgi_types import AsgiApp, Message, Receive, Scope, Send
from idemstore.keys import encode_key
from idemstore.machine import State
from idemstore.testing.adapter_clients import AsgiServed, Visit
from idemstore.testing.families.memory import MemorySubject
from idemstore.testing.faults import AsyncFaultyDriver, Faults

HEADERS = (("idempotency-key", "k"),)


def scope(body: bytes = b"{}", **more: str) -> Scope:
    """A POST with a key."""
    return AsgiServed.scope("POST", "/orders", (*HEADERS, *more.items()), body)


def answer(*parts: bytes, **headers: str) -> AsgiApp:
    """An application that sends these parts."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 201, "headers": pairs})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    return app


def run(test: Callable[[AsyncStore], Awaitable[None]]) -> None:
    """Run a test with a store of its own."""

    async def main() -> None:
        async with idemstore.open_async("memory://") as store:
            await test(store)

    asyncio.run(main())


def test_it_takes_an_async_store_and_a_policy():
    """Said when it is made, not at the first request."""
    with idemstore.open("memory://") as store, pytest.raises(ConfigurationError, match="open_async"):
        IdempotencyMiddleware(answer(), store, POLICY)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="HttpPolicy"):
        IdempotencyMiddleware(answer(), idemstore.open_async("memory://"), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["lifespan", "websocket", "http.future"])
def test_other_connections_pass_through(kind: str):
    """With the very objects that the server gave."""

    async def test(store: AsyncStore) -> None:
        seen = []

        async def app(*given: object) -> None:
            seen.extend(given)

        async def never() -> Message:
            raise AssertionError

        connection = {"type": kind}
        await IdempotencyMiddleware(app, store, POLICY)(connection, never, print)  # type: ignore[arg-type]
        assert seen == [connection, never, print]

    run(test)


def test_the_record_is_completed_before_the_last_part_goes_out():
    """Declared or not: whoever has the whole response finds it stored."""

    async def test(store: AsyncStore) -> None:
        for headers, finished in (({"content_length": "4"}, b"cd"), ({}, b"")):
            states: list[tuple[bytes, State | None]] = []

            async def send(message: Message, states: list[tuple[bytes, State | None]] = states) -> None:
                if message["type"] == "http.response.body":
                    states.append((message.get("body", b""), await state(store)))

            visit = Visit(b"{}")
            await IdempotencyMiddleware(answer(b"ab", b"cd", **headers), store, POLICY)(scope(), visit.receive, send)
            first = [part for part, found in states if found is State.COMPLETED]
            assert first[0] == finished
            assert states[0] == (b"ab", State.IN_FLIGHT)
            await store.forget(KEY)

    run(test)


def test_an_infinite_response_ends_when_its_client_is_gone():
    """It is larger than what is kept, so there is nothing to wait for."""

    async def test(store: AsyncStore) -> None:
        visit = Visit(b"{}")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            part = {"type": "http.response.body", "body": b"x" * 1000, "more_body": True}
            with contextlib.suppress(OSError):
                while True:
                    await send(part)
                    visit.leave()
            await send({"type": "http.response.body"})

        policy = HttpPolicy(scope=lambda request: "ann", max_response=5000)
        await IdempotencyMiddleware(app, store, policy)(scope(), visit.receive, visit.send)
        assert len(visit.sent) == 2
        assert await state(store) is State.COMPLETED

    run(test)


def test_an_application_is_not_told_of_a_disconnect_before_it_is_done():
    """Frameworks stop a response half-way when they hear of it."""

    async def test(store: AsyncStore) -> None:
        visit, heard = Visit(b"{}"), []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            listening = asyncio.ensure_future(receive())
            visit.leave()
            await asyncio.sleep(0.02)
            assert not listening.done()
            await answer(b"done")(scope, receive, send)
            heard.append((await listening)["type"])
            heard.append((await receive())["type"])

        await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)
        assert heard == ["http.disconnect"] * 2
        assert visit.sent == []
        again = Visit(b"{}")
        await IdempotencyMiddleware(app, store, POLICY)(scope(), again.receive, again.send)
        assert again.got().body == b"done"

    run(test)


def test_a_cancelled_request_goes_on_without_its_server():
    """The server cancels; the application ends and is recorded; what it raises is logged."""

    async def test(store: AsyncStore) -> None:
        go, begun = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await go.wait()
            await answer(b"done")(scope, receive, send)

        visit = Visit(b"{}")
        wrapped = IdempotencyMiddleware(app, store, POLICY)
        task = asyncio.ensure_future(wrapped(scope(), visit.receive, visit.send))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await state(store) is State.IN_FLIGHT
        go.set()
        await until(lambda: not wrapped.tasks)
        assert await state(store) is State.COMPLETED
        assert visit.sent == []

    run(test)


def test_errors_of_a_detached_application_are_logged(caplog: pytest.LogCaptureFixture):
    """Nobody else is there to hear of them."""

    async def test(store: AsyncStore) -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await go.wait()
            raise ValueError("broken")

        visit = Visit(b"{}")
        wrapped = IdempotencyMiddleware(app, store, POLICY)
        task = asyncio.ensure_future(wrapped(scope(), visit.receive, visit.send))
        await begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        go.set()
        await until(lambda: not wrapped.tasks)
        assert await state(store) is None

    with caplog.at_level(logging.ERROR, "idemstore.http"):
        run(test)
    assert "client is gone" in caplog.text


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("turns", range(6))
def test_an_error_is_told_exactly_once(turns: int, waits: bool, caplog: pytest.LogCaptureFixture):
    """To the server, or to the log where that has cancelled the request, at whatever turn of the loop it did so."""
    begun: list[bool] = []

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.append(True)
            if waits:
                await asyncio.sleep(0)
            raise ValueError("broken")

        visit = Visit(b"{}")
        wrapped = IdempotencyMiddleware(app, store, POLICY)
        task = await at_turn(wrapped, scope(), visit, turns)
        task.cancel()
        error = await ended(wrapped, task)
        assert isinstance(error, ValueError | asyncio.CancelledError)
        logged = "client is gone" in caplog.text
        assert logged == (isinstance(error, asyncio.CancelledError) and bool(begun))
        assert await state(store) is None
        assert visit.sent == []

    with caplog.at_level(logging.ERROR, "idemstore.http"):
        run(test)


@pytest.mark.parametrize("turns", range(6))
def test_a_cancellation_at_any_turn_of_the_loop(turns: int):
    """The application runs to its end or not at all, and what it answers is sent whole or not at all."""

    async def test(store: AsyncStore) -> None:
        ran: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            ran.append("begun")
            await asyncio.sleep(0)
            await answer(b"done")(scope, receive, send)
            ran.append("ended")

        visit = Visit(b"{}")
        wrapped = IdempotencyMiddleware(app, store, POLICY)
        task = await at_turn(wrapped, scope(), visit, turns)
        task.cancel()
        error = await ended(wrapped, task)
        assert ran in ([], ["begun", "ended"])
        assert await state(store) is (State.COMPLETED if ran else None)
        assert len(visit.sent) == 3 or (visit.sent == [] and isinstance(error, asyncio.CancelledError))

    run(test)


def test_a_body_before_its_start():
    """It is an error of the application, which the server is told; nothing is kept."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.body", "body": b"early"})

        visit = Visit(b"{}")
        with pytest.raises(RuntimeError, match=r"before http\.response\.start"):
            await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)
        assert await state(store) is None
        assert visit.sent == []

    run(test)


def test_a_loop_that_shuts_down_frees_the_key():
    """What runs is cancelled, and the next request with the key runs at once."""
    seen: list[State | None] = []

    async def test() -> None:
        store = idemstore.open_async("memory://")
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                seen.append(await state(store))

        wrapped = IdempotencyMiddleware(app, store, POLICY)
        visit = Visit(b"{}")
        outer = asyncio.ensure_future(wrapped(scope(), visit.receive, visit.send))
        await begun.wait()
        (inner,) = wrapped.tasks
        inner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        claim = await store.claim(KEY, fingerprint=None)
        assert isinstance(claim, Claimed)
        assert claim.attempt == 2
        await store.close()

    asyncio.run(test())
    assert seen == [State.IN_FLIGHT]


def test_a_claim_that_is_cancelled_is_given_back():
    """While it waits for another request."""

    async def test(store: AsyncStore) -> None:
        other = await store.claim(KEY)
        assert isinstance(other, Claimed)
        policy = HttpPolicy(scope=lambda request: "ann", wait=30)
        visit = Visit(b"{}")
        task = asyncio.ensure_future(
            IdempotencyMiddleware(answer(b"x"), store, policy)(scope(), visit.receive, visit.send)
        )
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store.release(KEY, other.token)
        assert isinstance(await store.claim(KEY), Claimed)

    run(test)


def test_a_claim_that_is_cancelled_after_it_was_applied_is_given_back():
    """Nobody is going to use it, so the next request runs at once."""

    async def test(store: AsyncStore) -> None:
        faults = Faults()
        stop = faults.stop_after()
        faulty = store.wrapped(lambda driver: AsyncFaultyDriver(driver, faults))
        visit = Visit(b"{}")
        wrapped = IdempotencyMiddleware(answer(b"x"), faulty, HttpPolicy(scope=lambda request: "ann", fingerprint=None))
        task = asyncio.ensure_future(wrapped(scope(), visit.receive, visit.send))
        await asyncio.to_thread(stop.reached)
        task.cancel()
        stop.go()
        with pytest.raises(asyncio.CancelledError):
            await task
        claim = await faulty.claim(KEY)
        assert isinstance(claim, Claimed)
        assert claim.attempt == 2
        await faulty.close()

    run(test)


def test_once_it_has_answered_an_application_hears_what_the_server_says():
    """A client that is still there has not gone away."""

    async def test(store: AsyncStore) -> None:
        visit, heard = Visit(b"{}"), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await answer(b"done")(scope, receive, send)
            assert (await receive())["type"] == "http.disconnect"
            heard.set()

        wrapped = IdempotencyMiddleware(app, store, POLICY)
        task = asyncio.ensure_future(wrapped(scope(), visit.receive, visit.send))
        await until(lambda: visit.got().whole)
        await asyncio.sleep(0.01)
        assert not heard.is_set()
        visit.leave()
        await task
        assert heard.is_set()

    run(test)


def test_a_client_that_leaves_before_its_request_is_whole_binds_nothing():
    """Read by the middleware, or by the application."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert (await receive())["more_body"]
            if (await receive())["type"] == "http.disconnect":
                await answer(b"half")(scope, receive, send)

        for policy in (POLICY, HttpPolicy(scope=lambda request: "ann", fingerprint=None, fate=keep_everything)):
            messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

            async def receive(messages: list[Message] = messages) -> Message:
                return messages.pop(0)

            await IdempotencyMiddleware(app, store, policy)(scope(), receive, Visit(b"").send)
            assert await state(store) is None

    run(test)


def test_a_body_in_parts_is_handed_on_whole():
    """Also where it is larger than what is compared."""

    async def test(store: AsyncStore) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message["more_body"]
            seen.append(body)
            await answer(b"ok")(scope, receive, send)

        policy = HttpPolicy(scope=lambda request: "ann", max_request=5, large_request=LargeRequest.PREFIX)
        for parts in ([b"ab", b"c"], [b"ab", b"cdef", b"gh"], [b"abcdefgh"], [b"", b""]):
            messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
            messages[-1]["more_body"] = False

            async def receive(messages: list[Message] = messages) -> Message:
                return messages.pop(0)

            await IdempotencyMiddleware(app, store, policy)(scope(), receive, Visit(b"").send)
            assert seen.pop() == b"".join(parts)
            await store.forget(KEY)

    run(test)


def test_a_lost_lease_can_cancel_the_application():
    """By the policy; the client is told 409."""

    async def test(store: AsyncStore) -> None:
        subject = MemorySubject("memory://lost-http")
        async with idemstore.open_async(subject.url) as shared:
            begun = asyncio.Event()

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                begun.set()
                await asyncio.sleep(60)

            policy = HttpPolicy(scope=lambda request: "ann", lease=0.3, lease_loss=LeaseLoss.CANCEL)
            visit = Visit(b"{}")
            task = asyncio.ensure_future(IdempotencyMiddleware(app, shared, policy)(scope(), visit.receive, visit.send))
            await begun.wait()
            subject.age(encode_key(KEY, 1000), 1)
            assert isinstance(await shared.claim(KEY), Claimed)
            async with asyncio.timeout(20):
                await task
            assert (visit.got().status, visit.got().problem) == (409, "lease-lost")
        subject.close()

    run(test)


def test_a_request_longer_than_its_lease_is_not_taken_over():
    """The heartbeat renews it."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(3.5)
            assert not idemstore.async_operation().lease_lost
            await answer(b"slow")(scope, receive, send)

        policy = HttpPolicy(scope=lambda request: "ann", lease=3, wait=30)
        one, two = Visit(b"{}"), Visit(b"{}")
        wrapped = IdempotencyMiddleware(app, store, policy)
        await asyncio.gather(*(wrapped(scope(), visit.receive, visit.send) for visit in (one, two)))
        assert one.got().body == two.got().body == b"slow"
        assert {one.got().header("idempotency-replayed"), two.got().header("idempotency-replayed")} == {None, "true"}

    run(test)


def test_a_stream_that_lost_its_lease_is_cut_off():
    """Its client must not take it for whole."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await store.forget(KEY)
            await send({"type": "http.response.body", "body": b"rest"})

        visit = Visit(b"{}")
        with pytest.raises(LeaseLostError):
            await IdempotencyMiddleware(app, store, POLICY)(scope(), visit.receive, visit.send)
        assert (visit.got().body, visit.got().whole) == (b"half", False)

    run(test)


def test_handlers_see_their_operation():
    """Attempt, fence, and the checkpoint of the attempt before."""

    async def test(store: AsyncStore) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            running = idemstore.async_operation()
            assert scope["idemstore.operation"] is running
            seen.append((running.attempt, running.resumed_from, running.protected))
            if running.attempt == 1:
                await running.checkpoint(b"half")
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(0)
            await answer(b"ok")(scope, receive, send)

        wrapped = IdempotencyMiddleware(app, store, POLICY)
        one, two = Visit(b"{}"), Visit(b"{}")
        with pytest.raises(asyncio.CancelledError):
            await wrapped(scope(), one.receive, one.send)
        await wrapped(scope(), two.receive, two.send)
        assert seen == [(1, None, True), (2, b"half", True)]

    run(test)


def test_what_stands_around_it_sees_what_the_application_says_in_its_scope():
    """Routers leave the route there, for metrics and traces."""

    async def test(store: AsyncStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["route"] = "/orders/{id}"
            await answer(b"ok")(scope, receive, send)

        visit, connection = Visit(b"{}"), scope()
        connection["extensions"] = {"tls": {}}
        await IdempotencyMiddleware(app, store, POLICY)(connection, visit.receive, visit.send)
        assert connection["route"] == "/orders/{id}"
        assert "idemstore.operation" not in connection

    run(test)


def test_ways_past_the_record_are_not_offered():
    """Applications send the body itself; other extensions stay."""

    async def test(store: AsyncStore) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(sorted(scope["extensions"]))
            await send({"type": "http.response.early_hint", "links": []})
            await answer(b"ok")(scope, receive, send)

        visit, connection = Visit(b"{}"), scope()
        connection["extensions"] = {"http.response.pathsend": {}, "http.response.trailers": {}, "tls": {}}
        await IdempotencyMiddleware(app, store, POLICY)(connection, visit.receive, visit.send)
        assert seen == [["tls"]]
        assert visit.sent[0]["type"] == "http.response.early_hint"

    run(test)


def test_a_rewrite_may_be_async():
    """It may ask a database for today's state."""

    async def test(store: AsyncStore) -> None:
        async def today(stored: Response, request: object) -> Response:
            await asyncio.sleep(0)
            return stored._replace(body=b"today")

        policy = HttpPolicy(scope=lambda request: "ann", rewrite=today, replay_status=507)
        wrapped = IdempotencyMiddleware(answer(b"then"), store, policy)
        got = []
        for _ in range(2):
            visit = Visit(b"{}")
            await wrapped(scope(), visit.receive, visit.send)
            got.append((visit.got().status, visit.got().body))
        assert got == [(201, b"then"), (507, b"today")]

    run(test)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("loss", LeaseLoss)
def test_a_request_leaves_no_cycles(loss: LeaseLoss, waits: bool):
    """What a request needed goes with it; the garbage collector has nothing to do."""

    async def test(store: AsyncStore) -> None:
        async def made(scope: Scope, receive: Receive, send: Send) -> None:
            if waits:
                await asyncio.sleep(0)
            await answer(b"made")(scope, receive, send)

        app = IdempotencyMiddleware(made, store, HttpPolicy(scope=lambda request: "ann", lease_loss=loss))

        async def post(key: str) -> None:
            served = AsgiServed.scope("POST", "/orders", (("idempotency-key", key),), b"{}")
            await app(served, Visit(b"{}").receive, Visit(b"{}").send)

        await post("first")  # starts the heartbeat
        await asyncio.sleep(0)
        gc.collect()
        gc.freeze()  # what other tests have left behind is not looked at
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for number in range(10):
                await post(f"key-{number}")
            await asyncio.sleep(0)
            gc.collect()
            assert [one for one in gc.garbage if type(one).__module__.startswith("idemstore")] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
            gc.unfreeze()

    run(test)


def test_an_error_of_an_application_that_does_not_wait_reaches_the_server():
    """Whether its task has waited for anything or not; and so does a cancellation that is its own."""

    async def test(store: AsyncStore) -> None:
        for error in (ValueError("broken"), asyncio.CancelledError()):
            for waits in (False, True):

                async def app(
                    scope: Scope, receive: Receive, send: Send, error: BaseException = error, waits: bool = waits
                ) -> None:
                    if waits:
                        await asyncio.sleep(0)
                    raise error

                wrapped = IdempotencyMiddleware(app, store, POLICY)
                visit = Visit(b"{}")
                with pytest.raises(type(error)):
                    await wrapped(scope(), visit.receive, visit.send)
                await asyncio.sleep(0)
                assert wrapped.tasks == set()

    run(test)
