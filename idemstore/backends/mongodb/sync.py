"""The sync driver: PyMongo. Carries commands, and decides nothing.

One ``pymongo.timeout`` covers a call: choosing the server, waiting for a connection, connecting, sending, the server's
own work (``maxTimeMS``) and the reply.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import pymongo
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.synchronous.client_session import ClientSession
from pymongo.topology_description import TopologyDescription

from idemstore.backends.mongodb import errors
from idemstore.backends.mongodb.clock import HeartbeatClock
from idemstore.backends.mongodb.dialect import Command, Reply
from idemstore.backends.mongodb.options import Settings
from idemstore.backends.mongodb.wire import CODEC, Session, farewell, late, prepared
from idemstore.errors import IdemstoreError, InvalidInput
from idemstore.flows import SleepWatch

WORKERS: Final = 16
"""Commands of one batch that are under way at once."""


Send = Callable[[dict[str, object]], Mapping[str, object]]
"""Carries one command there and its reply back; raises PyMongo's errors."""


class SyncDriver:
    """One client, or the caller's session."""

    def __init__(
        self,
        send: Send,
        where: str,
        *,
        close: Callable[[], None] | None = None,
        clock: HeartbeatClock | None = None,
        topology: Callable[[], TopologyDescription] | None = None,
        session: Session | None = None,
    ) -> None:
        self._send = send
        self._where = where
        self._close = close
        self._clock = clock
        self._topology = topology
        self._session = session
        self._workers: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def execute(self, request: Command, timeout: float) -> Reply:
        """One command; once more at once where the connection broke and time is left, which is always safe."""
        session = self._session
        transaction = session is not None and session.in_transaction
        try:
            with pymongo.timeout(timeout):
                try:
                    return self._carry(request)
                except PyMongoError as error:
                    if transaction or not errors.worth_resending(error):
                        raise
                return self._carry(request)
        except (PyMongoError, BSONError) as error:
            cause = errors.reason(error, self._topology)
            errors.translate(cause, self._where, timeout, joined=session is not None, transaction=transaction)

    def _carry(self, request: Command) -> Reply:
        """There and back."""
        session = self._session
        try:
            body = self._send(prepared(request, session))
        except DuplicateKeyError as error:
            if session is not None and session.in_transaction:
                raise
            return Reply(errors.lost_race(error, self._where))
        return Reply(errors.checked(body, self._where), None if self._clock is None else self._clock.now())

    def execute_many(self, requests: Sequence[Command], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """MongoDB has no batch with an answer per item, so commands go out side by side, up to ``WORKERS`` at once; one
        after the other over a session, which takes no two at a time.
        """
        deadline = time.monotonic() + timeout

        def one(request: Command) -> Reply | IdemstoreError:
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise late(timeout)
                return self.execute(request, left)
            except IdemstoreError as error:
                return error

        if self._session is not None or len(requests) < 2:
            return [one(request) for request in requests]
        return list(self._pool().map(one, requests))

    def _pool(self) -> ThreadPoolExecutor:
        """The threads of batches, made for the first one."""
        with self._lock:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="idemstore-mongodb")
            return self._workers

    def watch(self, key: str) -> SleepWatch:
        """Polls."""
        return SleepWatch()

    def close(self) -> None:
        """Close the client, unless it is the caller's."""
        if self._workers is not None:
            self._workers.shutdown()
        if self._close is not None:
            with pymongo.timeout(farewell(self._topology)):
                self._close()


def connect(settings: Settings, database: str, collection: str) -> SyncDriver:
    """A driver with a client of its own; nothing is sent yet."""
    clock = HeartbeatClock()
    client = _client(settings, [clock])
    send = partial(client[database].command, codec_options=CODEC)
    return SyncDriver(
        send, f"{database}.{collection}", close=client.close, clock=clock, topology=lambda: client.topology_description
    )


def join(session: object, database: str, collection: str) -> SyncDriver:
    """A driver over a caller's session."""
    if not isinstance(session, ClientSession):
        raise InvalidInput(f"store.on() takes a pymongo ClientSession, not {type(session).__name__}")
    client: MongoClient[dict[str, object]] = session.client
    send = partial(client[database].command, codec_options=CODEC, session=session)
    return SyncDriver(send, f"{database}.{collection}", session=session)


def probe(settings: Settings) -> None:
    """Let PyMongo check the settings; it connects to nothing. Raises PyMongo's own errors."""
    _client(settings, []).close()


def _client(settings: Settings, listeners: list[HeartbeatClock]) -> MongoClient[dict[str, object]]:
    """A client that connects when it is first used."""
    host, options = settings
    return MongoClient(host, None, dict, False, False, None, event_listeners=listeners, **options)
