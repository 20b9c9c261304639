"""Connections of redis-py, asyncio, and a pool of them for one server.

Connections have no time-outs of their own here: the driver bounds the whole call (``async_deadlines``), which cancels
whatever the call is waiting for. A connection that was cancelled between a command and its reply is closed,
always.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol, cast

import redis.asyncio
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from idemstore.backends.redis.connect import TLS, UNIX, arguments, kind_of
from idemstore.backends.redis.dialect import Reply
from idemstore.backends.redis.errors import CLIENT_ERRORS, fault
from idemstore.backends.redis.faults import Failed
from idemstore.backends.redis.options import Address, Target
from idemstore.backends.redis.resp import LARGE, NotResp, Parsed, Refused, pack, replies_in


class AsyncLine(Protocol):
    """What we use of a connection of redis-py, and what ours adds."""

    generation: int
    """Of its pool, when it was opened."""

    async def connect(self) -> None:
        """Connect and authenticate."""

    async def disconnect(self, nowait: bool = False) -> None:
        """Close the socket."""

    async def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """Write."""

    async def read_response(self) -> Reply:
        """Read one reply; raise it where it is an error."""

    async def read_reply(self) -> Reply:
        """The same, in less time."""
        ...

    async def read_replies(self, count: int) -> list[Reply | ResponseError]:
        """Read the replies of a pipeline; those that are errors are given, not raised."""
        ...


class _Closing(Protocol):
    """What a connection class of redis-py lets its subclasses replace."""

    async def disconnect(self, nowait: bool = False, **why: object) -> None: ...


class _Parser(Protocol):
    """What we use of a parser of redis-py."""

    def parse_error(self, response: str) -> RedisError:
        """An error reply, of the class that redis-py has for it."""
        ...


class _Prompt:
    """Mixed in front of a connection class of redis-py: closed is closed.

    A transport that is asked to close first sends what it still holds, and one of TLS then waits for the server's
    farewell. From a server that is silent neither comes: the socket would stay open, a command that was given up might
    still arrive, and the event loop might end before. So the farewell is sent if it can be at once, no more.
    """

    generation = 0
    _reader: asyncio.StreamReader | None
    _writer: asyncio.StreamWriter | None
    _parser: "_Parser"

    async def read_reply(self) -> Reply:
        """As ``read_replies``, of which there is one."""
        (reply,) = await self.read_replies(1)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def read_replies(self, count: int) -> list[Reply | ResponseError]:
        """Straight from the stream: between two commands redis-py's parser holds nothing back."""
        reader, data, replies, missing = self._reader, b"", list[Parsed](), 1
        if reader is None:
            raise Disconnected("the connection is closed")
        while missing:
            try:
                data += await (reader.readexactly(missing) if missing > 1 else _some(reader))
                at, missing = replies_in(data, count, replies)
            except asyncio.IncompleteReadError:
                raise Disconnected("the server closed the connection") from None
            except NotResp:
                raise InvalidResponse("what came is no reply") from None
            data = data[at:]
        if data:
            raise InvalidResponse("more replies came than were asked for")
        return [self._refusal(reply) if isinstance(reply, Refused) else cast("Reply", reply) for reply in replies]

    def _refusal(self, reply: Refused) -> ResponseError:
        """An error reply. What means the connection (the server is loading, or full) is raised, as redis-py does."""
        error = self._parser.parse_error(reply.text)
        if isinstance(error, ResponseError):
            return error
        raise error

    async def disconnect(self, nowait: bool = False, **why: object) -> None:
        """Close the socket; redis-py itself calls this, too, where a read or a write failed or was cancelled."""
        writer = self._writer
        try:
            await cast("_Closing", super()).disconnect(nowait=True, **why)
        finally:
            if writer is not None:
                writer.transport.abort()


async def _some(reader: asyncio.StreamReader) -> bytes:
    """What has come, or comes next."""
    piece = await reader.read(LARGE)
    if not piece:
        raise asyncio.IncompleteReadError(b"", None)
    return piece


class _TcpLine(_Prompt, redis.asyncio.Connection):  # type: ignore[misc]
    """Over TCP."""


class _TlsLine(_Prompt, redis.asyncio.SSLConnection):  # type: ignore[misc]
    """Over TLS."""


class _UnixLine(_Prompt, redis.asyncio.UnixDomainSocketConnection):  # type: ignore[misc]
    """Over a Unix socket."""


_LINES: Final = {TLS: _TlsLine, UNIX: _UnixLine}


async def open_line(target: Target, address: Address, sentinel: bool = False) -> AsyncLine:
    """A connection, connected and authenticated, or ``Failed``."""
    make = cast("Callable[..., AsyncLine]", _LINES.get(kind_of(target, address), _TcpLine))
    line = make(**arguments(target, address, sentinel), socket_timeout=None, socket_connect_timeout=None)
    try:
        await line.connect()
    except CLIENT_ERRORS as error:
        await line.disconnect(nowait=True)
        raise Failed(fault(error, address)) from error
    except BaseException:
        await line.disconnect(nowait=True)
        raise
    return line


async def ask(line: AsyncLine, *words: bytes) -> Reply:
    """One small command and its reply."""
    await line.send_packed_command((pack(*words),), False)
    return await line.read_response()


class Permits:
    """Who may use a connection: as ``asyncio.Semaphore``, in a fraction of the steps where nobody has to wait. A permit
    that comes back goes to whoever has waited longest.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> bool:
        """Whether there is one that nobody has."""
        return self._free > 0

    def take_free(self) -> bool:
        """Take one of those; False where there is none."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take(self) -> None:
        """Take one, as soon as there is one. Whoever is cancelled in the moment when it comes passes it on."""
        if self.take_free():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self.give()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def give(self) -> None:
        """Give one back."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


class AsyncPool:
    """As ``sync_pool.Pool``, for tasks of one event loop."""

    def __init__(self, address: Address, size: int, connect: Callable[[float], Awaitable[AsyncLine]]) -> None:
        """``connect`` opens a connection; the deadline tells it how to share out the time between several servers."""
        self.address = address
        self.size = size
        self._connect = connect
        self._idle: list[AsyncLine] = []
        self._permits = Permits(size)
        self._generation = 0
        self._closed = False

    @property
    def generation(self) -> int:
        """Of the connections that are opened now."""
        return self._generation

    @property
    def full(self) -> bool:
        """Whether every connection is in use."""
        return not self._permits.free

    def idle(self) -> AsyncLine | None:
        """As ``take``, where there is one that nobody has to wait for."""
        return self._idle.pop() if self._idle and self._permits.take_free() else None

    async def take(self, deadline: float) -> AsyncLine:
        """A connection, for the caller alone until ``give`` or ``drop``."""
        await self._permits.take()
        if self._idle:
            return self._idle.pop()
        generation = self._generation
        try:
            line = await self._connect(deadline)
        except BaseException:
            self._permits.give()
            raise
        line.generation = generation
        return line

    async def separate(self, deadline: float) -> AsyncLine:
        """A connection beside the pool."""
        return await self._connect(deadline)

    async def give(self, line: AsyncLine) -> None:
        """Back, with no reply outstanding."""
        if not self.keep(line):
            await self.drop(line)

    def keep(self, line: AsyncLine) -> bool:
        """As ``give``; False where the connection is to be dropped."""
        if line.generation != self._generation or self._closed:
            return False
        self._idle.append(line)
        self._permits.give()
        return True

    async def drop(self, line: AsyncLine) -> None:
        """Close a connection that something went wrong on. Nothing here waits, so nothing here can be cancelled."""
        self._permits.give()
        await line.disconnect(nowait=True)

    async def renew(self, generation: int) -> None:
        """As ``sync_pool.Pool.renew``."""
        if generation == self._generation:
            await self._clear()

    async def close(self) -> None:
        """As ``sync_pool.Pool.close``."""
        self._closed = True
        await self._clear()

    async def _clear(self) -> None:
        """End a generation."""
        self._generation += 1
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
