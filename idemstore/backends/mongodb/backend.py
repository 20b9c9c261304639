"""Serves ``mongodb://``, ``mongodb+srv://`` and, with Motor, ``mongodb+motor://``."""

from functools import partial
from typing import Final

from idemstore.async_store import AsyncStore
from idemstore.backends.mongodb import options
from idemstore.backends.mongodb.dialect import MongoDialect
from idemstore.backends.mongodb.options import SRV, MongoOptions, Settings
from idemstore.errors import InvalidUrl, UnsupportedMode
from idemstore.registry import need
from idemstore.store import Store
from idemstore.url import StoreUrl, read_options

MOTOR: Final = "motor"


class MongoBackend:
    """Opens stores; imports a client when a URL asks for it."""

    def open(self, url: StoreUrl) -> Store:
        """A sync store, on PyMongo."""
        if MOTOR in (url.driver or ""):
            raise UnsupportedMode(f"Motor has no sync form: open {url.scheme.replace('+motor', '')}:// instead")
        chosen, settings = self._read(url, "mongodb")
        from idemstore.backends.mongodb import sync

        place = {"database": options.database(url), "collection": chosen.collection}
        return Store(
            _dialect(chosen),
            partial(sync.connect, settings, **place),
            timeout=chosen.timeout,
            name=str(url),
            join=partial(sync.join, **place),
        )

    def open_async(self, url: StoreUrl) -> AsyncStore:
        """An async store, on PyMongo's asyncio client or on Motor."""
        if MOTOR in (url.driver or ""):
            need("motor.motor_asyncio", "motor")
            chosen, settings = self._read(url, "motor")
            from idemstore.backends.mongodb.motor import connect, join
        else:
            chosen, settings = self._read(url, "mongodb")
            from idemstore.backends.mongodb.aio import connect, join

        place = {"database": options.database(url), "collection": chosen.collection}
        return AsyncStore(
            _dialect(chosen),
            partial(connect, settings, **place),
            timeout=chosen.timeout,
            name=str(url),
            join=partial(join, **place),
        )

    def _read(self, url: StoreUrl, extra: str) -> tuple[MongoOptions, Settings]:
        """Everything in the URL that can be checked without a server, PyMongo's own checks included."""
        chosen = read_options(url, MongoOptions)
        options.check(url, chosen)
        need("pymongo.asynchronous", extra)
        from pymongo.errors import PyMongoError

        from idemstore.backends.mongodb import sync

        settings = options.settings(url, chosen)
        if SRV in (url.driver or ""):
            return chosen, settings  # some versions of PyMongo ask DNS as soon as a client is made
        try:
            sync.probe(settings)
        except (PyMongoError, OSError, ValueError) as error:
            raise InvalidUrl(f"PyMongo does not take the options of {url}: {error}") from None
        return chosen, settings


def _dialect(chosen: MongoOptions) -> MongoDialect:
    """The dialect that the options ask for."""
    return MongoDialect(chosen.collection, chosen.max_result, journal=chosen.journal)


backend: Final = MongoBackend()
