"""The async driver on psycopg 3 (its libpq wrapper). I/O only."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from psycopg.conninfo import make_conninfo

from idemstore.backends.postgresql import dialing
from idemstore.backends.postgresql.alarm import Alarm
from idemstore.backends.postgresql.async_driver import AsyncPooledDriver
from idemstore.backends.postgresql.dialect import Call, Reply
from idemstore.backends.postgresql.dialing import Host
from idemstore.backends.postgresql.pool import Place
from idemstore.backends.postgresql.refusals import Refusal
from idemstore.backends.postgresql.resolve import resolve_async
from idemstore.backends.postgresql.schema import Schema
from idemstore.backends.postgresql.wire import Line, Need, Talk, dial
from idemstore.errors import IdemstoreError


class AsyncLine:
    """A line on an event loop, which calls back whenever the socket can be read."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._talk: Talk | None = None
        self._reply: asyncio.Future[Reply | None] | None = None
        self.used = line.used
        self.place: Place | None = None
        self._writing = False
        self._alarm = Alarm(partial(self._settle, None))
        self._heard: Callable[[str], None] | None = None
        self._lost: Callable[[], None] | None = None
        self._watched = True
        self._loop.add_reader(line.fd, self._readable)

    async def say(self, call: Call, deadline: float) -> Reply | None:
        """Say a call and wait for its reply; None where the time is up. Whoever stops waiting must close the line."""
        self._talk = self._line.talk(call)
        reply: asyncio.Future[Reply | None] = self._loop.create_future()
        self._reply = reply
        self._alarm.set(deadline)
        try:
            self._go_on()
            return await reply
        finally:
            self._alarm.clear()
            self._talk = self._reply = None
            self._write(False)

    async def listen(
        self, schema: Schema, heard: Callable[[str], None], lost: Callable[[], None], deadline: float
    ) -> Reply | None:
        """Begin to listen."""
        self._heard, self._lost = heard, lost
        return await self.say(Call(schema.listen), deadline)

    def _go_on(self) -> None:
        """The next step of the conversation: called whenever the socket is ready for it."""
        if self._talk is None:
            return
        try:
            self._write(next(self._talk) is Need.WRITE)
        except StopIteration as stop:
            self._settle(stop.value)
        except IdemstoreError as error:
            self._settle(error)

    def _settle(self, reply: Reply | IdemstoreError | None) -> None:
        """Wake the caller, if it still waits."""
        self._talk = None
        if type(reply) is not list and self._line.broken:
            self._unwatch()
        if self._reply is None or self._reply.done():
            return
        if isinstance(reply, IdemstoreError):
            self._reply.set_exception(reply)
        else:
            self._reply.set_result(reply)

    def _readable(self) -> None:
        """There is something to read: a reply, or the end of an idle connection."""
        if self._talk is not None:
            self._go_on()
        elif not self._line.drain():
            self._unwatch()
            if self._lost is not None:
                self._lost()
            return
        if self._heard is not None:
            for said in self._line.said():
                self._heard(said)

    def _write(self, wanted: bool) -> None:
        """Whether to be called when there is room for more of a call."""
        if wanted and not self._writing:
            self._loop.add_writer(self._line.fd, self._go_on)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._line.fd)
        self._writing = wanted

    def _unwatch(self) -> None:
        """Take the socket off the loop, once, and in the moment in which libpq closes it (where the connection broke):
        the next socket that anybody opens gets its number.
        """
        if self._watched:
            self._watched = self._writing = False
            self._loop.remove_reader(self._line.fd)
            self._loop.remove_writer(self._line.fd)

    def close(self) -> None:
        """End the connection, without waiting for the server."""
        self._alarm.stop()
        self._unwatch()
        self._line.close()


class AsyncPsycopgDriver(AsyncPooledDriver[AsyncLine]):
    """A pool of lines."""

    async def _reach(self, host: Host, deadline: float, timeout: float) -> AsyncLine:
        """A connection to one host, at whichever of its addresses."""
        problem: IdemstoreError | None = None
        for address, until in dialing.shares(await resolve_async(host.name, deadline), deadline):
            words = dialing.conninfo(self._target, host, address, timeout)
            try:
                return AsyncLine(await self._dial(host, make_conninfo("", **words), until))
            except IdemstoreError as error:
                problem = dialing.telling(problem, error)
        assert problem is not None, "there is at least one address"
        raise problem

    async def _dial(self, host: Host, conninfo: str, until: float) -> Line:
        """A connection to one address."""
        steps = dial(conninfo.encode(), named=not self._target.options.pgbouncer)
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                while True:
                    fd, need = next(steps)
                    await _wait(fd, need)
        except TimeoutError:
            raise dialing.silent(self._target, host) from None
        except StopIteration as stop:
            line: Line | Refusal = stop.value
        finally:
            steps.close()
        if isinstance(line, Refusal):
            raise dialing.refused(self._target, line)
        return line


async def _wait(fd: int, need: Need) -> None:
    """Until the socket is ready."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (loop.add_reader, loop.remove_reader) if need is Need.READ else (loop.add_writer, loop.remove_writer)
    add(fd, settle)
    try:
        await ready
    finally:
        remove(fd)
