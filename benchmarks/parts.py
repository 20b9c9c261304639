"""What ``python -m benchmarks`` runs: each part a program of its own, in a process of its own, with a time limit."""

import sys
from importlib.util import find_spec
from typing import Final, NamedTuple


class Part(NamedTuple):
    """One program. ``{url}`` in its arguments is that of the server it asks for."""

    name: str
    module: str
    what: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    server: str | None = None
    limit: float = 300
    quick_limit: float = 60
    full_limit: float | None = None
    plain: bool = False
    """Whether it only prints: its text is what is recorded."""

    def command(self, target: str, url: str, speed: str) -> list[str]:
        """How it is called."""
        extra = {"quick": self.quick, "full": self.full}.get(speed, ())
        given = [word.replace("{url}", url) for word in (*self.arguments, *extra)]
        return [sys.executable, "-m", self.module, *given, *(() if self.plain else ("--json", target))]

    def seconds(self, speed: str) -> float:
        """How long it may take."""
        if speed == "full" and self.full_limit is not None:
            return self.full_limit
        return self.quick_limit if speed == "quick" else self.limit

    def missing(self) -> bool:
        """Whether the program is not there."""
        return find_spec(self.module) is None


PARTS: Final = (
    Part("memory", "benchmarks.memory", "the core alone", quick=("--cycles", "5000", "--rounds", "5")),
    Part("micro", "benchmarks.micro", "the pure parts, each by itself", quick_limit=40, limit=60),
    Part("guard", "benchmarks.guard", "what the guard adds", quick=("--rounds", "3"), quick_limit=90),
    Part("http", "benchmarks.http", "what the HTTP middlewares add", quick=("--rounds", "2")),
    Part(
        "sqlite_floor",
        "benchmarks.sqlite_floor",
        "SQLite, against bare writes",
        quick=("--cycles", "1000", "--rounds", "2"),
    ),
    Part(
        "redis_floor",
        "benchmarks.redis_floor",
        "Redis, against bare script calls",
        ("{url}",),
        ("--rounds", "800"),
        server="redis",
    ),
    Part(
        "postgresql_floor",
        "benchmarks.postgresql_floor",
        "PostgreSQL, against bare statements",
        quick=("--servers", "postgresql", "--rounds", "400"),
    ),
    Part(
        "mongodb_floor",
        "benchmarks.mongodb_floor",
        "MongoDB, against bare commands",
        ("{url}",),
        ("--rounds", "40"),
        server="mongodb",
    ),
    Part("dynamodb_floor", "benchmarks.dynamodb_floor", "DynamoDB, against bare calls", quick=("--rounds", "60")),
    Part(
        "coalesce",
        "benchmarks.coalesce",
        "many callers, against as many bare writes",
        ("--replays",),
        ("--rounds", "1", "--cycles", "1000", "--callers", "1", "64"),
        limit=500,
        quick_limit=90,
        plain=True,
    ),
    Part(
        "peers",
        "benchmarks.peers",
        "other libraries on the same servers",
        quick=("--quick",),
        limit=420,
        quick_limit=150,
    ),
    Part(
        "scale",
        "benchmarks.scale",
        "claims with many records present, and purge",
        quick=("--quick",),
        full=("--full",),
        limit=700,
        quick_limit=150,
        full_limit=2400,
    ),
)
"""In the order in which they run: short ones first."""
