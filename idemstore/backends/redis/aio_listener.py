"""The listener of an async store: as ``sync_listener``, with a task instead of a thread."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from idemstore.aside import aside
from idemstore.backends.redis.aio_pool import AsyncLine
from idemstore.backends.redis.channels import (
    CONNECT_TIMEOUT,
    FIRST_PAUSE,
    HEALTH,
    SEND_TIMEOUT,
    Channels,
    Refused,
    pause_after,
)
from idemstore.backends.redis.errors import CLIENT_ERRORS
from idemstore.backends.redis.faults import Failed


class AsyncRedisWatch:
    """A waiter in a task."""

    def __init__(self, listener: "AsyncListener", channel: bytes) -> None:
        self._listener, self._channel, self._changed = listener, channel, asyncio.Event()
        self._wake = self._changed.set
        listener.add(channel, self._wake)

    async def wait(self, poll: float, limit: float) -> None:
        """As ``RedisWatch.wait``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(limit, self._listener.channels.patience(self._channel, poll))):
                await self._changed.wait()
        self._changed.clear()

    def close(self) -> None:
        """End the watch."""
        self._listener.channels.remove(self._channel, self._wake)


class AsyncListener:
    """Serves all waiters of one store."""

    def __init__(self, connect: Callable[[float], Awaitable[AsyncLine]]) -> None:
        """``connect`` opens a connection; the deadline is a hint, the time-out is here."""
        self.channels = Channels()
        self._connect = connect
        self._bell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, channel: bytes, wake: Callable[[], None]) -> None:
        """One more waiter."""
        if self.channels.add(channel, wake):
            self._bell.set()
        if self._task is None or self._task.done():
            self._task = aside(asyncio.get_running_loop(), self._run(), "idemstore-redis-listener")

    async def close(self) -> None:
        """End, and close the connection."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Connect, listen, connect again."""
        pause = FIRST_PAUSE
        while self.channels:
            started = time.monotonic()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    line = await self._connect(started + CONNECT_TIMEOUT)
                await self._listen(line)
            except Failed as failed:
                why: Exception = failed.fault.error
            except (*CLIENT_ERRORS, Refused) as error:
                why = error
            else:
                continue
            pause = pause_after(why, pause, time.monotonic() - started)
            await asyncio.sleep(pause)

    async def _listen(self, line: AsyncLine) -> None:
        """Listen, until nobody waits any more."""
        reader = aside(asyncio.get_running_loop(), self._read(line))
        reader.add_done_callback(lambda _: self._bell.set())
        heard, silent = self._heard, 0
        try:
            while not reader.done():
                self._bell.clear()
                commands = self.channels.commands() or (self.channels.probe() if silent else [])
                if commands:
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await line.send_packed_command(commands, False)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEALTH):
                        await self._bell.wait()
                        continue
                if not self.channels:
                    return
                silent = 0 if self._heard > heard else silent + 1
                heard = self._heard
                if silent > 1:
                    raise TimeoutError(f"nothing was heard for {silent * HEALTH:.0f} s")
            reader.result()
        finally:
            if not reader.cancel() and not reader.cancelled():
                reader.exception()  # it has been looked at, or something else went wrong first
            self.channels.lost()
            await line.disconnect(nowait=True)

    _heard = 0
    """How many messages have arrived."""

    async def _read(self, line: AsyncLine) -> None:
        """Read for ever."""
        while True:
            self.channels.took(await line.read_response())
            self._heard += 1
