"""One request whose application runs: what it has answered so far, and what its client has been sent."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Final, Protocol

from idemstore.async_guard import AsyncOperation
from idemstore.async_insist import async_insist, outlast
from idemstore.async_keepalive import AsyncKeepalive
from idemstore.async_store import AsyncStore
from idemstore.errors import IdemstoreError, StoreUnavailable
from idemstore.http.asgi_task import STOPS, as_told, start, stop_loop
from idemstore.http.asgi_types import (
    UNSEEN,
    AsgiApp,
    Incoming,
    Message,
    Scope,
    Send,
    declared_length,
    response_headers,
    send_response,
)
from idemstore.http.choices import COMPLETE, RELEASE
from idemstore.http.core import OPERATION, Ask, HttpCore, log
from idemstore.http.facts import Headers
from idemstore.http.plans import Settlement
from idemstore.http.policy import HttpPolicy
from idemstore.keepalive import Beat
from idemstore.keys import redact
from idemstore.outcomes import Claimed, LeaseLost, SettleOutcome
from idemstore.policy import LeaseLoss
from idemstore.running import current

GONE: Final[Message] = {"type": "http.disconnect"}
CANCEL: Final = LeaseLoss.CANCEL
NOT_READ: Final = -1
"""In place of a declared length: the headers have not been looked at. Nobody needs it of a response in one part."""


class Home(Protocol):
    """What a running request needs of its middleware."""

    core: HttpCore
    store: AsyncStore
    policy: HttpPolicy
    heartbeat: AsyncKeepalive
    tasks: "set[asyncio.Task[None]]"


class Running:
    """The application's ``receive`` and ``send``, between it and the server."""

    __slots__ = (
        "_answered",
        "_ask",
        "_begun",
        "_declared",
        "_ended",
        "_error",
        "_gone",
        "_home",
        "_incoming",
        "_kept",
        "_muted",
        "_over",
        "_pairs",
        "_parts",
        "_send",
        "_settled",
        "_size",
        "_start",
        "_started",
        "_status",
        "_task",
        "operation",
    )

    def __init__(self, home: Home, ask: Ask, claimed: Claimed, incoming: Incoming, send: Send) -> None:
        guarded, stored, _ = ask
        self._home, self._ask, self._incoming, self._send = home, ask, incoming, send
        self.operation = AsyncOperation(home.core.home, home.store, guarded.key, stored, claimed)
        self.operation.live = True
        self._task: asyncio.Task[None] | None = None
        self._begun = self._ended = False
        self._error: BaseException | None = None
        self._over: asyncio.Future[None] | None = None
        self._start: Message | None = None
        self._status = 0
        self._pairs: Sequence[tuple[bytes, bytes]] = ()
        self._declared: int | None = NOT_READ
        self._parts: list[bytes] | None = []
        self._size = 0
        self._started = self._settled = self._muted = self._gone = False
        self._answered: asyncio.Event | None = None
        self._kept: Beat | None = None

    async def serve(self, app: AsgiApp, scope: Scope) -> None:
        """Run the application in a task of its own, which goes on where this one is cancelled."""
        extensions = scope.get("extensions")
        if extensions and not UNSEEN.isdisjoint(extensions):
            scope = {**scope, "extensions": {name: extensions[name] for name in extensions if name not in UNSEEN}}
        scope[OPERATION] = self.operation  # no copy where none is needed: what stands around us reads the route there
        loop = asyncio.get_running_loop()
        try:
            self._task = start(loop, self._main(app, scope))
        except (KeyboardInterrupt, SystemExit) as stop:  # in its first step
            if not self._ended:
                raise
            loop.call_soon(stop_loop, stop)  # the loop is told, and not whoever waits for this task, too: ``as_told``
        if not self._ended and self._task is not None:
            self._home.tasks.add(self._task)  # until it has ended: the loop itself holds it weakly
            self._keep()
            try:
                await self._end(loop)
            except (asyncio.CancelledError, GeneratorExit):
                self._given_up(loop)
                raise
        scope.pop(OPERATION, None)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _keep(self) -> None:
        """Keep the lease from now on: the application waits for something. Before that no heartbeat could run."""
        beat = self.operation.beat
        if beat is not None and self.operation.live:
            self._kept = beat
            self._home.heartbeat.add(beat)

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the task. One that did not begin at once gets a turn of the loop: having ended by then, it need not
        say so, which takes another turn. One that was cancelled before that turn never begins.
        """
        if not self._begun:
            try:
                await asyncio.sleep(0)
            finally:
                if not self._begun and self._task is not None and self._task.cancelled():
                    self._quiet()
                    await outlast(self._give_back)
                    self._ends(asyncio.CancelledError())
        if not self._ended:
            self._over = loop.create_future()
            await self._over

    def _given_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """The server has given the request up, perhaps in the moment of its end: nothing is sent any more, and nobody
        hears what the application raises.
        """
        self._gone = True
        error, self._error = self._error, None
        if self._over is None:
            self._over = loop.create_future()
        if not self._over.cancel() and not self._over.cancelled():
            error = self._over.exception()
        self._unheard(error)

    async def _main(self, app: AsgiApp, scope: Scope) -> None:
        """The task of a request: run the application to its end; record what it answers, or that it failed.

        What the server waits for is ``_over``: it hears of the end from here, a step of the loop before the task itself
        has ended, and its cancellation does not reach the task.
        """
        self._begun = True
        current.set(self.operation)  # this task's context ends with it
        if self._home.policy.lease_loss is CANCEL:
            self.operation.cancel_on_loss()
        try:
            try:
                await app(scope, self.receive, self.send)
                if not self._settled:
                    await self._failed()  # it ended without an answer; the server says 500
            except Exception:
                await self._failed()
                raise
            except BaseException as error:
                if not await self._stopped(error):
                    raise
            finally:
                if self.operation.live:
                    self._quiet()
        except STOPS as error:
            self._ends(as_told(error))
            raise
        except BaseException as error:  # noqa: BLE001 - it goes on to the server, or to the log where that is gone
            self._ends(as_told(error))
        else:
            self._ends(None)

    def _ends(self, error: BaseException | None) -> None:
        """Say that the application has ended."""
        self._ended, over = True, self._over
        if self.operation.task is not None:
            self.operation.never_cancel()
        if self._task is not None:
            self._home.tasks.discard(self._task)
        if over is None:
            self._error = error
        elif error is None:
            if not over.done():
                over.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            over.cancel()
        elif over.done():
            self._unheard(error)
        elif over.get_loop().is_running():  # else the task was closed, and there is nobody to wait for it
            over.set_exception(error)

    def _unheard(self, error: BaseException | None) -> None:
        """Say what nobody has heard."""
        if error is not None and not isinstance(error, STOPS):
            log.error("%s failed, and its client is gone", redact(self._ask.stored), exc_info=error)

    def _quiet(self) -> None:
        """The operation has ended: no heartbeat, no checkpoints."""
        self.operation.live = False
        if self._kept is not None:
            self._home.heartbeat.drop(self._kept)
        if self._answered is not None:
            self._answered.set()

    # -- the request -------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The body; then nothing until the response is recorded, so that the application does not stop half-way because
        its client went away.
        """
        if not self._incoming.ended:
            return self._incoming.waiting() or await self._incoming.receive()
        if not self._settled:
            self._answered = self._answered or asyncio.Event()
            if not self._gone:
                await self._listen(self._answered)
            await self._answered.wait()
        return GONE if self._gone else await self._incoming.after()

    async def _listen(self, answered: asyncio.Event) -> None:
        """Hear from the server whether the client goes away, until the response is recorded."""
        heard = asyncio.ensure_future(self._incoming.after())
        waiting = asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait({heard, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # a framework that only looks (``is_disconnected``) cancels this, and the server may say it once
            waiting.cancel()
            if not heard.done():
                heard.cancel()
            elif not heard.cancelled() and heard.exception() is None:
                self._gone = self._gone or heard.result()["type"] == "http.disconnect"

    # -- the response ------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """A part of the response. It goes on as it comes, the last one once the record is completed."""
        kind = message["type"]
        if kind == "http.response.start":
            return self._begin(message)
        if kind != "http.response.body":
            return None if self._muted else await self._forward(message)
        if self._muted:
            return None
        given_up = self._add(message)
        if not self._settled and (given_up or not message.get("more_body", False) or self._whole()):
            owned = await self._settle(self._status, response_headers(self._pairs), self._parts)
            if not owned:
                return await self._lose()
        if not self._gone:
            try:
                if self._start is not None:
                    start, self._start, self._started = self._start, None, True
                    await self._send(start)
                await self._send(message)
            except OSError as error:
                self._left(error)
        if given_up:
            raise OSError("the client went away, and the response is larger than what is kept of it")
        return None

    def _begin(self, message: Message) -> None:
        """Status and headers; held back until there is a part of the body. ASGI takes any iterable of headers."""
        if self._started:
            raise RuntimeError("the application sent http.response.start twice")
        if not isinstance(message.get("headers", ()), (list, tuple)):
            message = {**message, "headers": list(message["headers"])}  # they are read twice
        if not self._muted:
            self._start, self._status, self._pairs = message, message["status"], message.get("headers", ())

    def _add(self, message: Message) -> bool:
        """Keep a part of the body, up to the limit. True where there is more to come that nobody is going to have."""
        if not self._status:
            raise RuntimeError("the application sent http.response.body before http.response.start")
        body = message.get("body", b"")
        self._size += len(body)
        if self._size > self._home.core.keeps:
            self._parts = None
            return self._gone and bool(message.get("more_body", False))
        if body and self._parts is not None:
            self._parts.append(bytes(body))  # no copy of bytes; a buffer may be filled anew once it is sent
        return False

    def _whole(self) -> bool:
        """Whether the declared length is there. Many an application sends an empty last part after that."""
        if self._declared == NOT_READ:
            self._declared = declared_length(response_headers(self._pairs))
        return self._declared is not None and self._size >= self._declared

    async def _forward(self, message: Message) -> None:
        """To the client, if it is there."""
        if self._gone:
            return
        try:
            await self._send(message)
        except OSError as error:
            self._left(error)

    def _left(self, error: OSError) -> None:
        """The client went away, says the server."""
        self._gone = True
        log.debug("the client of %s went away: %s", redact(self._ask.stored), error)

    # -- the record --------------------------------------------------------------------------------------------------

    async def _settle(self, status: int, headers: Headers, parts: Sequence[bytes] | None) -> bool:
        """Tell the store what became of the request; False where somebody else owns the key."""
        home, ask = self._home, self._ask
        if self._incoming.cut:  # what it answers to half a request is nothing to keep
            settlement = Settlement(RELEASE, b"", None)
        else:
            settlement = home.policy.settle(status, headers, parts, ask.guarded, home.core.limit)
        self._settled = True  # not before: where the policy raises, the request counts as failed
        began = time.monotonic()
        self._parts = None
        self._quiet()
        try:
            try:
                answer = await self._tell(settlement)
            except StoreUnavailable:
                answer = await self._insist(settlement, began)
        except asyncio.CancelledError:  # as ``to_the_end``
            await outlast(partial(self._late, settlement, began))
            raise
        except IdemstoreError as error:
            home.core.unrecorded(ask, error)
            return True
        return self._owned(settlement, answer)

    def _owned(self, settlement: Settlement, answer: SettleOutcome) -> bool:
        """Whether the key was still this request's; says so where it was not."""
        if isinstance(answer, LeaseLost) and settlement.fate is not RELEASE:
            self._home.core.lost(self._ask)
            return False
        return True

    async def _late(self, settlement: Settlement, began: float) -> None:
        """Tell the store, although the request is cancelled."""
        self._muted = not self._owned(settlement, await self._insist(settlement, began))

    def _tell(self, settlement: Settlement) -> Awaitable[SettleOutcome]:
        """One call of the store; it may be repeated."""
        store, (_, stored, token), (fate, result, retention) = self._home.store, self._ask, settlement
        if fate is COMPLETE:
            return store.complete(stored, token, result, retention=retention)
        if fate is RELEASE:
            return store.release(stored, token)
        return store.fail(stored, token, result, retention=retention)

    async def _insist(self, settlement: Settlement, began: float) -> SettleOutcome:
        """Call it until it answers, as long as the policy has patience and the lease stands."""
        beat = self.operation.beat
        until = min(began + self._home.core.patience, began if beat is None else beat.until)
        return await async_insist(lambda: self._tell(settlement), until)

    async def _lose(self) -> None:
        """Somebody else owns the key: its answer counts, so this one must not look like a success."""
        self._muted = True
        request = self._ask.guarded.request
        if self._started:
            raise self._home.core.cut_off()
        if not self._gone:
            await send_response(self._forward, self._home.policy.lost(request), request.method)

    async def _failed(self) -> None:
        """The application raised, or ended without an answer: that counts as 500."""
        if not self._settled:
            failure = self._home.policy.failure()
            await self._settle(failure.status, failure.headers, [failure.body or b""])

    async def _stopped(self, error: BaseException) -> bool:
        """The application was stopped half-way. True where that was because its claim was taken over: it is answered.
        Where it was closed from outside, nothing can be awaited any more: its lease ends by itself.
        """
        if isinstance(error, asyncio.CancelledError) and self.operation.obeyed():
            self._settled = True
            self._home.core.lost(self._ask)
            await self._lose()
            return True
        if not self._settled and not isinstance(error, GeneratorExit):
            self._settled = True
            if self._home.policy.takeover:
                await outlast(self._give_back)
            else:
                log.warning("%s was cancelled half-way: settle it", redact(self._ask.stored), exc_info=error)
        return False

    async def _give_back(self) -> None:
        """A server that shuts down cancels what runs: the next request with the key runs at once."""
        kept = self._home.policy.failure_retention
        try:
            await self._home.store.fail(self._ask.guarded.key, self._ask.token, b"", retention=kept, retry_after=0)
        except IdemstoreError as error:
            log.log(logging.WARNING, "cancelled %s could not be given back: %s", redact(self._ask.stored), error)
