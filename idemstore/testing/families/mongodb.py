"""The MongoDB family under test: a collection of its own, aged and damaged as another program would.

``mongodb-motor`` is the same through Motor, and has no sync mode.
"""

import uuid
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import idemstore
from idemstore.backends.mongodb.record import NEVER, RELEASED
from idemstore.registry import need
from idemstore.testing.servers import Server


def make(name: str, server: Server | None, directory: Path) -> "MongoSubject":
    """A new collection."""
    assert server is not None, f"the subject {name} needs a server"
    return MongoSubject(name, server.url, f"contract_{uuid.uuid4().hex[:12]}")


def _aged(seconds: float) -> list[dict[str, object]]:
    """An update pipeline that lets so much time pass."""
    by: Final = round(seconds * 1000)

    def back(field: str) -> dict[str, object]:
        never: dict[str, object] = {"$in": [field, [None, NEVER]]}
        return {"$cond": [never, field, {"$subtract": [field, by]}]}

    return [{"$set": {name: back(f"${name}") for name in ("changed_at", "until", "expires_at", "reclaim")}}]


class MongoSubject:
    """One collection."""

    shared = True

    def __init__(self, name: str, server: str, collection: str) -> None:
        need("pymongo", "mongodb")
        from pymongo import MongoClient, WriteConcern

        self.name = name
        if "directConnection" not in server:  # or PyMongo would go past a proxy, to where the server says it is
            server += "&directConnection=true"
        motor = "mongodb+motor" if name.endswith("motor") else "mongodb"
        # The emulation may take five seconds for a batch of hundreds.
        self.url = f"{server.replace('mongodb', motor, 1)}&collection={collection}&timeout=20"
        with idemstore.open(self.url.replace("+motor", "")) as store:
            store.migrate()
        self._client: MongoClient[dict[str, object]] = MongoClient(server)
        database = self._client[urlsplit(server).path.removeprefix("/")]
        self.records = database.get_collection(collection, write_concern=WriteConcern("majority"))

    def age(self, key: str, seconds: float) -> None:
        """Move the record's times; a tombstone is as good as absent."""
        self.records.update_one({"_id": key, "state": {"$ne": RELEASED}}, _aged(seconds))

    def damage(self, key: str) -> None:
        """A document of somebody else's."""
        self.records.replace_one({"_id": key}, {"_id": key, "note": "not a record"}, upsert=True)

    def exists(self, key: str) -> bool:
        """Whether there is a document."""
        return self.records.find_one({"_id": key}) is not None

    def clear(self) -> None:
        """Delete all records: the emulation reads all there are whenever it modifies one."""
        self.records.delete_many({})

    def close(self) -> None:
        """Drop the collection."""
        self.records.drop()
        self._client.close()
