"""MongoDB: a write is ``insert_one``, then ``update_one`` by ``_id``, a read ``find_one``; majority writes.

Through PyMongo, its asyncio client, or Motor, whichever the store uses, with the store's settings, in a collection of
this run.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol, cast

from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from pymongo.errors import PyMongoError

from idemstore.backends.mongodb import options
from idemstore.backends.mongodb.options import MongoOptions, Settings
from idemstore.bench.bare import Bare
from idemstore.url import StoreUrl, parse_url, read_options

Document = dict[str, object]
TIMEOUT_MS: Final = 20_000
MAJORITY: Final = WriteConcern("majority")


class Collection(Protocol):
    """What is used of a collection, of any of the clients."""

    def insert_one(self, document: Document) -> object:
        """Insert."""
        ...

    def update_one(self, filter: Mapping[str, object], update: Mapping[str, object]) -> object:  # noqa: A002
        """Update."""
        ...

    def find_one(self, filter: Mapping[str, object]) -> object:  # noqa: A002
        """Find."""
        ...


class Closing(Protocol):
    """A client, to close it."""

    def close(self) -> object:
        """Close."""
        ...


def read(url: str) -> tuple[StoreUrl, Settings]:
    """What the store's client is made from."""
    parsed = parse_url(url)
    host, chosen = options.settings(parsed, read_options(parsed, MongoOptions))
    return parsed, Settings(host, {"socketTimeoutMS": TIMEOUT_MS, "serverSelectionTimeoutMS": TIMEOUT_MS, **chosen})


def name_of(run: str) -> str:
    """The collection of this run."""
    return f"idemstore_floor_{run}"


class MongoBare:
    """Any mode: the calls of an async client return awaitables."""

    def __init__(self, client: Closing, collection: Collection) -> None:
        self._client, self._collection = client, collection

    def insert(self, key: str) -> object:
        """``insert_one``."""
        return self._collection.insert_one({"_id": key, "state": "in-flight"})

    def update(self, key: str, result: bytes) -> object:
        """``update_one``."""
        return self._collection.update_one({"_id": key}, {"$set": {"state": "completed", "result": result}})

    def seed(self, key: str, result: bytes) -> object:
        """``insert_one`` of a finished document."""
        return self._collection.insert_one({"_id": key, "state": "completed", "result": result})

    def read(self, key: str) -> object:
        """``find_one``."""
        return self._collection.find_one({"_id": key})

    def close(self) -> object:
        """Close the client."""
        return self._client.close()


def client_of(settings: Settings) -> MongoClient[Document]:
    """A sync client."""
    make = cast("Callable[..., MongoClient[Document]]", MongoClient)
    return make(settings.host, **settings.options)


class MotorClosing:
    """Motor's client closes at once; here, as a coroutine."""

    def __init__(self, client: Closing) -> None:
        self._client = client

    async def close(self) -> None:
        """Close."""
        self._client.close()


class MongoFloor:
    """See the module."""

    packages: tuple[str, ...] = ("pymongo", "motor")
    failures: tuple[type[Exception], ...] = (PyMongoError, OSError, asyncio.TimeoutError)

    def prepare(self, url: str, run: str) -> str:
        """Ask for the version; the collection is made by its first document."""
        with client_of(read(url)[1]) as client:
            return f"MongoDB {client.server_info()['version']}"

    def drop(self, url: str, run: str) -> None:
        """Drop the collection."""
        parsed, settings = read(url)
        with client_of(settings) as client:
            client[options.database(parsed)].drop_collection(name_of(run))

    def open(self, url: str, run: str) -> Bare:
        """Sync."""
        parsed, settings = read(url)
        client = client_of(settings)
        found = client[options.database(parsed)].get_collection(name_of(run), write_concern=MAJORITY)
        return MongoBare(client, cast("Collection", found))

    async def open_async(self, url: str, run: str) -> Bare:
        """Async, by the client that the URL names."""
        parsed, (host, chosen) = read(url)
        if "motor" in (parsed.driver or ""):
            from motor.motor_asyncio import AsyncIOMotorClient

            make_motor = cast("Callable[..., AsyncIOMotorClient[Document]]", AsyncIOMotorClient)
            motor = make_motor(host, **chosen)
            found = motor[options.database(parsed)].get_collection(name_of(run), write_concern=MAJORITY)
            return MongoBare(MotorClosing(motor), cast("Collection", found))
        make = cast("Callable[..., AsyncMongoClient[Document]]", AsyncMongoClient)
        client = make(host, **chosen)
        place = client[options.database(parsed)].get_collection(name_of(run), write_concern=MAJORITY)
        return MongoBare(client, cast("Collection", place))


floor: Final = MongoFloor()
