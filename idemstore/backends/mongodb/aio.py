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
from pymongo.topology_description import TopologyDescription

from idemstore.backends.mongodb import errors
from idemstore.backends.mongodb.clock import HeartbeatClock
from idemstore.backends.mongodb.connecting import Connecting
from idemstore.backends.mongodb.dialect import Command, Reply
from idemstore.backends.mongodb.options import Settings
from idemstore.backends.mongodb.wire import CLOSING, CODEC, Session, farewell, late, prepared
from idemstore.errors import IdemstoreError, InvalidInput, StoreTimeout
from idemstore.flows import AsyncSleepWatch

TASKS: Final = 32
"""Commands of one batch that are under way at once."""
GRACE: Final = 0.25
"""Seconds after which a call is cancelled that PyMongo's own time-out has not ended, such as a look-up in DNS."""

Send = Callable[[dict[str, object]], Awaitable[Mapping[str, object]]]
"""Carries one command there and its reply back; raises PyMongo's errors."""


class AsyncMongoDriver:
    """One client, or the caller's session; bound to the loop it was made on."""

    def __init__(
        self,
        send: Send,
        where: str,
        *,
        close: Callable[[], Awaitable[None]] | None = None,
        clock: HeartbeatClock | None = None,
        connecting: Connecting | None = None,
        topology: Callable[[], TopologyDescription] | None = None,
        session: Session | None = None,
    ) -> None:
        self._send = send
        self._where = where
        self._close = close
        self._connecting = connecting or Connecting()
        self._clock = clock
        self._topology = topology
        self._session = session

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
        session = self._session
        transaction = session is not None and session.in_transaction
        try:
            with pymongo.timeout(timeout):
                try:
                    return await self._carry(request)
                except PyMongoError as error:
                    if transaction or not errors.worth_resending(error):
                        raise
                return await self._carry(request)
        except (PyMongoError, BSONError) as error:
            cause = errors.reason(error, self._topology)
            errors.translate(cause, self._where, timeout, joined=session is not None, transaction=transaction)

    async def _carry(self, request: Command) -> Reply:
        """There and back."""
        session = self._session
        try:
            body = await self._send(prepared(request, session))
        except DuplicateKeyError as error:
            if session is not None and session.in_transaction:
                raise
            return Reply(errors.lost_race(error, self._where))
        return Reply(errors.checked(body, self._where), None if self._clock is None else self._clock.now())

    async def execute_many(self, requests: Sequence[Command], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """As ``SyncDriver.execute_many``, up to ``TASKS`` at once."""
        deadline = time.monotonic() + timeout
        room = asyncio.Semaphore(TASKS if self._session is None else 1)

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
        if self._close is not None:
            with pymongo.timeout(farewell(self._topology)):
                await self._close()


def connect(settings: Settings, database: str, collection: str) -> AsyncMongoDriver:
    """A driver with a client of its own; nothing is sent yet. Called on the loop that will use it."""
    clock, connecting = HeartbeatClock(), Connecting()
    host, options = settings
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(
        host, None, dict, False, False, None, event_listeners=[clock, connecting], **options
    )
    return AsyncMongoDriver(
        partial(client[database].command, codec_options=CODEC),
        f"{database}.{collection}",
        close=client.close,
        clock=clock,
        connecting=connecting,
        topology=lambda: client.topology_description,
    )


def join(session: object, database: str, collection: str) -> AsyncMongoDriver:
    """A driver over a caller's session."""
    if not isinstance(session, AsyncClientSession):
        raise InvalidInput(f"store.on() takes a pymongo AsyncClientSession, not {type(session).__name__}")
    client: AsyncMongoClient[dict[str, object]] = session.client
    send = partial(client[database].command, codec_options=CODEC, session=session)
    return AsyncMongoDriver(send, f"{database}.{collection}", session=session)
