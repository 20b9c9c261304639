"""Connections of redis-py, asyncio, and a pool of them for one server.

Connections have no time-outs of their own here: the driver bounds the whole call with one ``asyncio.timeout``, which
cancels whatever the call is waiting for. A connection that was cancelled between a command and its reply is closed,
always.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol, cast

import redis.asyncio

from idemstore.backends.redis.connect import TLS, UNIX, arguments, kind_of
from idemstore.backends.redis.dialect import Reply
from idemstore.backends.redis.errors import CLIENT_ERRORS, fault
from idemstore.backends.redis.faults import Failed
from idemstore.backends.redis.options import Address, Target
from idemstore.backends.redis.resp import pack


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


class _TcpLine(redis.asyncio.Connection):
    """Over TCP."""

    generation = 0


class _TlsLine(redis.asyncio.SSLConnection):
    """Over TLS."""

    generation = 0


class _UnixLine(redis.asyncio.UnixDomainSocketConnection):
    """Over a Unix socket."""

    generation = 0


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


class AsyncPool:
    """As ``sync_pool.Pool``, for tasks of one event loop."""

    def __init__(self, address: Address, size: int, connect: Callable[[float], Awaitable[AsyncLine]]) -> None:
        """``connect`` opens a connection; the deadline tells it how to share out the time between several servers."""
        self.address = address
        self.size = size
        self._connect = connect
        self._idle: list[AsyncLine] = []
        self._permits = asyncio.Semaphore(size)
        self._generation = 0

    @property
    def generation(self) -> int:
        """Of the connections that are opened now."""
        return self._generation

    @property
    def full(self) -> bool:
        """Whether every connection is in use."""
        return self._permits.locked()

    async def take(self, deadline: float) -> AsyncLine:
        """A connection, for the caller alone until ``give`` or ``drop``."""
        await self._permits.acquire()
        if self._idle:
            return self._idle.pop()
        generation = self._generation
        try:
            line = await self._connect(deadline)
        except BaseException:
            self._permits.release()
            raise
        line.generation = generation
        return line

    async def separate(self, deadline: float) -> AsyncLine:
        """A connection beside the pool."""
        return await self._connect(deadline)

    async def give(self, line: AsyncLine) -> None:
        """Back, with no reply outstanding."""
        if line.generation == self._generation:
            self._idle.append(line)
            self._permits.release()
        else:
            await self.drop(line)

    async def drop(self, line: AsyncLine) -> None:
        """Close a connection that something went wrong on. Nothing here waits, so nothing here can be cancelled."""
        self._permits.release()
        await line.disconnect(nowait=True)

    async def renew(self, generation: int) -> None:
        """As ``sync_pool.Pool.renew``."""
        if generation == self._generation:
            await self.close()

    async def close(self) -> None:
        """Close every connection, those in use when they come back."""
        self._generation += 1
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
