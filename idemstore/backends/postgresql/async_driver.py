"""What both async drivers share: the pool, the hosts, and when a call is sent again. The client's lines do the rest."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from idemstore.aside import aside
from idemstore.backends.postgresql import dialing
from idemstore.backends.postgresql.carry import carry_many_async, carry_together
from idemstore.backends.postgresql.dialect import Call, Reply, busy
from idemstore.backends.postgresql.dialing import Host, Hosts
from idemstore.backends.postgresql.lobby import FIRST_PAUSE, LAST_PAUSE, AsyncLobby, AsyncLobbyWatch, Busy
from idemstore.backends.postgresql.options import Target
from idemstore.backends.postgresql.pool import AsyncPool, Line
from idemstore.backends.postgresql.refusals import ATTEMPTS, Refusal, Remedy, remedy
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import IdemstoreError
from idemstore.exchange import Alone


class TalkingLine(Line, Protocol):
    """A connection that carries calls, one at a time."""

    async def say(self, call: Call, deadline: float) -> Reply | None:
        """The reply; None where the time is up. Whoever stops waiting must close the line."""
        ...

    async def listen(
        self, schema: Schema, heard: Callable[[str], None], lost: Callable[[], None], deadline: float
    ) -> Reply | None:
        """Begin to listen: ``heard`` is called with every notification, ``lost`` when the connection ends."""
        ...


L = TypeVar("L", bound=TalkingLine)


class AsyncPooledDriver(Generic[L]):
    """Connections as they are needed, on the loop of the first call."""

    def __init__(self, target: Target, schema: Schema) -> None:
        self._target, self._schema = target, schema
        self._hosts = Hosts(target)
        self._pool: AsyncPool[L] = AsyncPool(target.options.pool, target.name, self._connect)
        self._lobby = AsyncLobby(self._busy)
        self._listener: asyncio.Task[None] | None = None

    async def _reach(self, host: Host, deadline: float, timeout: float) -> L:
        """A connection to one host, whose statements may take ``timeout`` seconds."""
        raise NotImplementedError

    def execute(self, request: Call, timeout: float) -> Coroutine[object, object, Reply]:
        """Carry one call."""
        carry = self._apart if request.statement.slow else self._carry
        return carry(time.monotonic() + timeout, timeout, request)

    async def execute_many(self, requests: Sequence[Call], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many; see ``batches``."""
        return await carry_many_async(requests, self._schema, partial(self._carry, time.monotonic() + timeout, timeout))

    async def execute_together(
        self, requests: Sequence[Call], timeout: float
    ) -> Sequence[Reply | IdemstoreError | Alone]:
        """Carry many of different callers; see ``batches``."""
        return await carry_together(requests, self._schema, partial(self._carry, time.monotonic() + timeout, timeout))

    async def _carry(self, deadline: float, timeout: float, call: Call, repeats: int = ATTEMPTS - 1) -> Reply:
        """On a connection of the pool. One whose reply nobody waits for any more is never used again."""
        line = self._pool.idle() or await self._pool.take(deadline)
        try:
            reply = await line.say(call, deadline)
        except BaseException:
            self._pool.drop(line)
            raise
        if type(reply) is list:
            self._pool.give(line)
            return reply
        if not isinstance(reply, Refusal):
            self._pool.drop(line)
            raise dialing.late(self._target, timeout)
        cure = remedy(reply)
        if cure is Remedy.RECONNECT:
            self._pool.drop(line, all_idle=True)
        else:
            self._pool.give(line)
        return await self._carry(deadline, timeout, call, repeats - 1) if repeats and cure is not Remedy.NONE else reply

    async def _apart(self, deadline: float, timeout: float, call: Call, repeats: int = ATTEMPTS - 1) -> Reply:
        """On a connection of its own, whose statements may take as long as this call."""
        line = await self._connect(deadline, timeout)
        try:
            reply = await line.say(call, deadline)
        finally:
            line.close()
        if reply is None:
            raise dialing.late(self._target, timeout)
        if repeats and isinstance(reply, Refusal) and remedy(reply) is not Remedy.NONE:
            return await self._apart(deadline, timeout, call, repeats - 1)
        return reply

    async def _connect(self, deadline: float, timeout: float | None = None) -> L:
        """A connection to the first host that takes it."""
        problem: IdemstoreError | None = None
        for host, until in self._hosts.shares(deadline):
            try:
                line = await self._reach(host, until, timeout or self._target.options.timeout)
            except IdemstoreError as error:
                problem = dialing.telling(problem, error)
            else:
                self._hosts.answered(host)
                return line
        assert problem is not None, "there is at least one host"
        raise problem

    def watch(self, key: str) -> AsyncLobbyWatch:
        """All waiters share one poll, and a listener where the URL asks for one."""
        if self._target.options.notify and self._listener is None:
            self._listener = aside(asyncio.get_running_loop(), self._listen(), "idemstore-listen")
        return AsyncLobbyWatch(self._lobby, key)

    async def _listen(self) -> None:
        """Listen; whenever that ends, listen anew. Until then waiters are served by the poll that they share."""
        pause = FIRST_PAUSE
        while True:
            lost = asyncio.Event()
            try:
                line = await self._connect(time.monotonic() + self._target.options.timeout)
            except IdemstoreError:
                pause = min(pause * 2, LAST_PAUSE)
            else:
                pause = FIRST_PAUSE
                try:
                    await self._hear(line, lost)
                finally:
                    self._lobby.listening = False
                    line.close()
            await asyncio.sleep(pause)

    async def _hear(self, line: L, lost: asyncio.Event) -> None:
        """Until the connection is lost. What was said before it listened is lost, too: wake everybody."""
        deadline = time.monotonic() + self._target.options.timeout
        reply = await line.listen(self._schema, self._lobby.poke, lost.set, deadline)
        if reply is None or isinstance(reply, Refusal):
            return
        self._lobby.listening = True
        self._lobby.poke(None)
        await lost.wait()

    async def _busy(self, keys: list[str], timeout: float) -> Busy:
        """Which of the keys are busy. Where the server refuses to say: none, so that all ask themselves."""
        call = Call(self._schema.busy, (keys,))
        return busy(await self.execute(call, min(timeout, self._target.options.timeout)))

    async def close(self) -> None:
        """Close every connection; what is in use is closed when its call ends."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        self._pool.close()
