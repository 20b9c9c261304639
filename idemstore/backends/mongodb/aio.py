"""The async driver: PyMongo's own asyncio client. Carries commands, and decides nothing.

``AsyncMongoDriver`` is Motor's, too: what differs is who sends.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import pymongo
from bson.errors import BSONError
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError, PyMongoError

from idemstore.backends.mongodb.clock import HeartbeatClock
from idemstore.backends.mongodb.connecting import Connecting
from idemstore.backends.mongodb.dialect import Command, Reply
from idemstore.backends.mongodb.options import Settings
from idemstore.backends.mongodb.wire import CLOSING, CODEC, Line, late
from idemstore.errors import IdemstoreError, InvalidInput, StoreTimeout
from idemstore.flows import AsyncSleepWatch

TASKS: Final = 32
"""Commands of one batch that are under way at once."""
GRACE: Final = 0.25
"""Seconds after which a call is cancelled that PyMongo's own time-out has not ended, such as a look-up in DNS."""
TICK: Final = 0.005
TICKS: Final = 50
"""How long closing waits for a heartbeat, at most: a quarter of a second."""

Send = Callable[[dict[str, object]], Awaitable[Mapping[str, object]]]
"""Carries one command there and its reply back; raises PyMongo's errors."""


class AsyncMongoDriver:
    """One client, or the caller's session; bound to the loop it was made on."""

    def __init__(
        self,
        send: Send,
        line: Line,
        close: Callable[[], Awaitable[None]] | None = None,
        connecting: Connecting | None = None,
    ) -> None:
        self._send = send
        self._line = line
        self._close = close
        self._connecting = connecting or Connecting()

    @property
    def in_transaction(self) -> bool:
        """As ``Joined``."""
        return self._line.transaction

    async def execute(self, request: Command, timeout: float) -> Reply:
        """As ``SyncDriver.execute``; in a task of its own, see ``connecting``."""
        call = asyncio.create_task(self._execute(request, timeout))
        try:
            ended, _ = await asyncio.wait((call,), timeout=timeout + GRACE)
        except asyncio.CancelledError:
            self._connecting.leave(call)
            raise
        if ended:
            return call.result()
        self._connecting.leave(call)
        raise StoreTimeout(f"MongoDB did not answer within {timeout:g} s: repeat the call, which is safe")

    async def _execute(self, request: Command, timeout: float) -> Reply:
        """Within PyMongo's own time-out."""
        line, transaction = self._line, self._line.transaction
        try:
            with pymongo.timeout(timeout):
                try:
                    return await self._carry(request)
                except PyMongoError as error:
                    if not line.again(error, transaction):
                        raise
                return await self._carry(request)
        except (PyMongoError, BSONError) as error:
            line.fail(error, timeout, transaction)

    async def _carry(self, request: Command) -> Reply:
        """There and back."""
        try:
            body = await self._send(self._line.command(request))
        except DuplicateKeyError as error:
            return self._line.lost(error)
        return self._line.reply(body)

    async def execute_many(self, requests: Sequence[Command], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """As ``SyncDriver.execute_many``, up to ``TASKS`` at once."""
        deadline = time.monotonic() + timeout
        room = asyncio.Semaphore(TASKS if self._line.session is None else 1)

        async def one(request: Command) -> Reply | IdemstoreError:
            async with room:
                left = deadline - time.monotonic()
                try:
                    if left <= 0:
                        raise late(timeout)
                    return await self.execute(request, left)
                except IdemstoreError as error:
                    return error

        return await asyncio.gather(*map(one, requests))

    def watch(self, key: str) -> AsyncSleepWatch:
        """Polls."""
        return AsyncSleepWatch()

    async def close(self) -> None:
        """Close the client, unless it is the caller's."""
        await self._connecting.close(CLOSING)
        await self._calm()
        if self._close is not None:
            with pymongo.timeout(self._line.farewell()):
                await self._close()

    async def _calm(self) -> None:
        """Wait a moment for a heartbeat to end: closing cancels it, and PyMongo leaves its socket if it connects."""
        for _ in range(TICKS):
            if self._line.clock is None or not self._line.clock.asking:
                return
            await asyncio.sleep(TICK)


def connect(settings: Settings, database: str, collection: str) -> AsyncMongoDriver:
    """A driver with a client of its own; nothing is sent yet. Called on the loop that will use it."""
    clock, connecting = HeartbeatClock(), Connecting()
    host, options = settings
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(
        host, None, dict, False, False, None, event_listeners=[clock, connecting], **options
    )
    send = partial(client[database].command, codec_options=CODEC)
    line = Line(f"{database}.{collection}", clock, lambda: client.topology_description)
    return AsyncMongoDriver(send, line, client.close, connecting)


def join(session: object, database: str, collection: str) -> AsyncMongoDriver:
    """A driver over a caller's session."""
    if not isinstance(session, AsyncClientSession):
        raise InvalidInput(f"store.on() takes a pymongo AsyncClientSession, not {type(session).__name__}")
    client: AsyncMongoClient[dict[str, object]] = session.client
    send = partial(client[database].command, codec_options=CODEC, session=session)
    return AsyncMongoDriver(send, Line(f"{database}.{collection}", session=session))
