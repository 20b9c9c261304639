"""Memory: a dict under a lock."""

import threading
from typing import Final


class MemoryBare:
    """Sync."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def insert(self, key: str) -> None:
        """Set an item."""
        with self._lock:
            self._rows[key] = b""

    def update(self, key: str, result: bytes) -> None:
        """Set it again."""
        with self._lock:
            self._rows[key] = result

    seed = update

    def read(self, key: str) -> bytes:
        """Get an item."""
        with self._lock:
            return self._rows[key]

    def close(self) -> None:
        """Nothing is open."""


class AsyncMemoryBare:
    """The same as coroutines."""

    def __init__(self) -> None:
        self._bare = MemoryBare()

    async def insert(self, key: str) -> None:
        """As ``MemoryBare``."""
        self._bare.insert(key)

    async def update(self, key: str, result: bytes) -> None:
        """As ``MemoryBare``."""
        self._bare.update(key, result)

    seed = update

    async def read(self, key: str) -> bytes:
        """As ``MemoryBare``."""
        return self._bare.read(key)

    async def close(self) -> None:
        """As ``MemoryBare``."""


class MemoryFloor:
    """See the module."""

    packages: tuple[str, ...] = ()
    failures: tuple[type[Exception], ...] = (KeyError,)

    def prepare(self, url: str, run: str) -> str:
        """Nothing to make."""
        return ""

    def drop(self, url: str, run: str) -> None:
        """Nothing to remove."""

    def open(self, url: str, run: str) -> MemoryBare:
        """Sync."""
        return MemoryBare()

    async def open_async(self, url: str, run: str) -> AsyncMemoryBare:
        """Async."""
        return AsyncMemoryBare()


floor: Final = MemoryFloor()
