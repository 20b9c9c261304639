"""The floors: bare calls of each family's own client library, on rows that only this run sees.

One module per family; the client is imported when its floor is asked for. What a floor does is said in its module and
in docs/benchmarks.md.
"""

import importlib
from typing import Final, Protocol, cast

from idemstore.bench.bare import Bare
from idemstore.url import parse_url

FLOORS: Final = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "valkeys": "redis",
    "unix": "redis",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mongodb": "mongodb",
    "dynamodb": "dynamodb",
}


class Floor(Protocol):
    """One family's."""

    packages: tuple[str, ...]
    """Its client libraries, as they are named where packages are published."""
    failures: tuple[type[Exception], ...]
    """What its calls may raise."""

    def prepare(self, url: str, run: str) -> str:
        """Make a place for its rows; the server's version, as far as it says one."""
        ...

    def drop(self, url: str, run: str) -> None:
        """Remove that place, with everything in it."""
        ...

    def open(self, url: str, run: str) -> Bare:
        """A client, for many threads."""
        ...

    async def open_async(self, url: str, run: str) -> Bare:
        """A client on this event loop."""
        ...


def floor_of(url: str) -> Floor | None:
    """The floor of a store URL; None for families of other packages."""
    name = FLOORS.get(parse_url(url).family)
    if name is None:
        return None
    return cast("Floor", importlib.import_module(f"{__name__}.{name}").floor)
