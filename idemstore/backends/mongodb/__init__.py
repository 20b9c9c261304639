"""MongoDB: one ``findAndModify`` with an update pipeline per operation; PyMongo (sync, asyncio) or Motor carries it."""

from idemstore.backends.mongodb.backend import backend

__all__ = ["backend"]
