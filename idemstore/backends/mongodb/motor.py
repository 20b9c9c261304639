"""Motor, PyMongo in a pool of threads: for those who still run it. It is past its end of life; use ``mongodb://``.

Motor passes ``pymongo.timeout`` on to its threads. Where all of them are busy, or one does not come back, the driver's
own time-out ends the call.
"""

import asyncio
from functools import partial

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorClientSession
from pymongo import MongoClient
from pymongo.synchronous.client_session import ClientSession

from idemstore.backends.mongodb.aio import AsyncMongoDriver
from idemstore.backends.mongodb.clock import HeartbeatClock
from idemstore.backends.mongodb.options import Settings
from idemstore.backends.mongodb.wire import CODEC, Line
from idemstore.errors import InvalidInput

Client = AsyncIOMotorClient[dict[str, object]]


def connect(settings: Settings, database: str, collection: str) -> AsyncMongoDriver:
    """A driver with a client of its own; nothing is sent yet. Called on the loop that will use it."""
    clock = HeartbeatClock()
    host, options = settings
    loop = asyncio.get_running_loop()
    client: Client = AsyncIOMotorClient(
        host=host,
        port=None,
        document_class=dict,
        tz_aware=False,
        connect=False,
        type_registry=None,
        io_loop=loop,
        event_listeners=[clock],
        **options,
    )

    async def close() -> None:
        client.close()

    inner: MongoClient[dict[str, object]] = client.delegate
    send = partial(client[database].command, codec_options=CODEC)
    line = Line(f"{database}.{collection}", clock, lambda: inner.topology_description)
    return AsyncMongoDriver(send, line, close)


def join(session: object, database: str, collection: str) -> AsyncMongoDriver:
    """A driver over a caller's session."""
    if not isinstance(session, AsyncIOMotorClientSession):
        raise InvalidInput(f"store.on() takes a Motor AsyncIOMotorClientSession, not {type(session).__name__}")
    client: Client = session.client
    send = partial(client[database].command, codec_options=CODEC, session=session)
    inner: ClientSession = session.delegate
    return AsyncMongoDriver(send, Line(f"{database}.{collection}", session=inner))
