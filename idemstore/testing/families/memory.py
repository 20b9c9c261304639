"""The memory family under test."""

import itertools
import threading
from pathlib import Path
from typing import Final, cast

import idemstore
from idemstore.backends.memory import Engine, MemoryDriver
from idemstore.exchange import Driver
from idemstore.machine import MICROSECONDS, Record
from idemstore.testing.servers import Server

_names: Final = itertools.count(1)
_naming: Final = threading.Lock()


def make(name: str, server: Server | None, directory: Path) -> "MemorySubject":
    """A named memory store that no other test uses."""
    with _naming:
        return MemorySubject(f"memory://contract-{next(_names)}")


class MemorySubject:
    """A named engine; the subject keeps it alive between stores."""

    name = "memory"
    shared = False

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = idemstore.open(url).wrapped(self._capture)
        self._store.ping()

    def _capture(self, driver: Driver[object, object]) -> Driver[object, object]:
        """Take hold of the engine behind the stores of this name."""
        self.engine: Engine = cast("MemoryDriver", driver).engine
        return driver

    def age(self, key: str, seconds: float) -> None:
        """Move the record's times; its end is scheduled anew."""
        with self.engine.lock:
            record = self.engine.records.get(key)
            if record is not None:
                self.engine.put(key, shifted(record, round(seconds * MICROSECONDS)))

    def damage(self, key: str) -> None:
        """No other program can reach these records, and none is ever encoded."""
        raise NotImplementedError("memory records cannot be damaged")

    def exists(self, key: str) -> bool:
        """Whether the engine holds it."""
        return key in self.engine.records

    def close(self) -> None:
        """Let go of the engine."""
        self._store.close()


def shifted(record: Record, by: int) -> Record:
    """The same record, ``by`` microseconds older."""

    def back(moment: int | None) -> int | None:
        return None if moment is None else moment - by

    return record._replace(
        lease_until=back(record.lease_until), expires_at=back(record.expires_at), retry_at=back(record.retry_at)
    )
