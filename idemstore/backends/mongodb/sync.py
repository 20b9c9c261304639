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

from idemstore.backends.mongodb.clock import HeartbeatClock
from idemstore.backends.mongodb.dialect import Command, Reply
from idemstore.backends.mongodb.options import Settings
from idemstore.backends.mongodb.wire import CODEC, Line, late
from idemstore.errors import IdemstoreError, InvalidInput
from idemstore.flows import SleepWatch

WORKERS: Final = 16
"""Commands of one batch that are under way at once."""


Send = Callable[[dict[str, object]], Mapping[str, object]]
"""Carries one command there and its reply back; raises PyMongo's errors."""


class SyncDriver:
    """One client, or the caller's session."""

    def __init__(self, send: Send, line: Line, close: Callable[[], None] | None = None) -> None:
        self._send = send
        self._line = line
        self._close = close
        self._workers: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def in_transaction(self) -> bool:
        """As ``Joined``."""
        return self._line.transaction

    def execute(self, request: Command, timeout: float) -> Reply:
        """One command; once more at once where the connection broke and time is left, which is always safe."""
        line, transaction = self._line, self._line.transaction
        try:
            with pymongo.timeout(timeout):
                try:
                    return self._carry(request)
                except PyMongoError as error:
                    if not line.again(error, transaction):
                        raise
                return self._carry(request)
        except (PyMongoError, BSONError) as error:
            line.fail(error, timeout, transaction)

    def _carry(self, request: Command) -> Reply:
        """There and back."""
        try:
            body = self._send(self._line.command(request))
        except DuplicateKeyError as error:
            return self._line.lost(error)
        return self._line.reply(body)

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

        if self._line.session is not None or len(requests) < 2:
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
            with pymongo.timeout(self._line.farewell()):
                self._close()


def connect(settings: Settings, database: str, collection: str) -> SyncDriver:
    """A driver with a client of its own; nothing is sent yet."""
    clock = HeartbeatClock()
    client = _client(settings, [clock])
    send = partial(client[database].command, codec_options=CODEC)
    line = Line(f"{database}.{collection}", clock, lambda: client.topology_description)
    return SyncDriver(send, line, client.close)


def join(session: object, database: str, collection: str) -> SyncDriver:
    """A driver over a caller's session."""
    if not isinstance(session, ClientSession):
        raise InvalidInput(f"store.on() takes a pymongo ClientSession, not {type(session).__name__}")
    client: MongoClient[dict[str, object]] = session.client
    send = partial(client[database].command, codec_options=CODEC, session=session)
    return SyncDriver(send, Line(f"{database}.{collection}", session=session))


def probe(settings: Settings) -> None:
    """Let PyMongo check the settings; it connects to nothing. Raises PyMongo's own errors."""
    _client(settings, []).close()


def _client(settings: Settings, listeners: list[HeartbeatClock]) -> MongoClient[dict[str, object]]:
    """A client that connects when it is first used."""
    host, options = settings
    return MongoClient(host, None, dict, False, False, None, event_listeners=listeners, **options)
