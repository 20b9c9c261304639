"""Operations on an SQLite file as values. Pure: what a request does in its transaction stands in ``session.py``."""

from collections.abc import Callable
from typing import Final, NamedTuple, cast

from idemstore.exchange import Exchange, Limits, Snapshot
from idemstore.machine import Claim, Complete, Event, Fail, Release, Renew
from idemstore.outcomes import ClaimOutcome, SettleOutcome

PURGED_AT_ONCE: Final = 1000
"""Records deleted in one transaction: between two, other writers get their turn."""


class Apply(NamedTuple):
    """One step of the machine."""

    key: str
    event: Event


class Look(NamedTuple):
    """Read a record."""

    key: str


class Forget(NamedTuple):
    """Delete a record."""

    key: str


class Purge(NamedTuple):
    """Delete at most so many expired records."""

    limit: int


class Ping(NamedTuple):
    """Show that calls would be answered."""


class Migrate(NamedTuple):
    """Make or check the tables."""


Request = Apply | Look | Forget | Purge | Ping | Migrate
Reply = ClaimOutcome | SettleOutcome | Snapshot | bool | int | None


def key_of(request: Request) -> str | None:
    """The record that a request is about, if it is about one."""
    return request.key if isinstance(request, Apply | Look | Forget) else None


class SqliteDialect:
    """The operations; the reply to each is its answer."""

    def __init__(self, value_bytes: int) -> None:
        self.limits = Limits(key_bytes=65536, value_bytes=value_bytes)

    def claim(self, key: str, event: Claim) -> Exchange[Request, Reply, ClaimOutcome]:
        """A step."""
        return Exchange(Apply(key, event), _CLAIMED)

    def complete(self, key: str, event: Complete) -> Exchange[Request, Reply, SettleOutcome]:
        """A step."""
        return Exchange(Apply(key, event), _SETTLED)

    def fail(self, key: str, event: Fail) -> Exchange[Request, Reply, SettleOutcome]:
        """A step."""
        return Exchange(Apply(key, event), _SETTLED)

    def renew(self, key: str, event: Renew) -> Exchange[Request, Reply, SettleOutcome]:
        """A step."""
        return Exchange(Apply(key, event), _SETTLED)

    def release(self, key: str, event: Release) -> Exchange[Request, Reply, SettleOutcome]:
        """A step."""
        return Exchange(Apply(key, event), _SETTLED)

    def get(self, key: str) -> Exchange[Request, Reply, Snapshot | None]:
        """A look."""
        return Exchange(Look(key), lambda reply: cast("Snapshot | None", reply))

    def forget(self, key: str) -> Exchange[Request, Reply, bool]:
        """A deletion."""
        return Exchange(Forget(key), lambda reply: cast("bool", reply))

    def purge(self, limit: int) -> Exchange[Request, Reply, int]:
        """Deletions, in transactions of a bounded size."""
        return _purge(limit, 0)

    def ping(self) -> Exchange[Request, Reply, int]:
        """The clock, and proof that the file can be written."""
        return Exchange(Ping(), lambda reply: cast("int", reply))

    def migrate(self) -> Exchange[Request, Reply, None]:
        """Make the tables (which every first call does, too), or check them."""
        return Exchange(Migrate(), lambda reply: None)


def _purge(limit: int, before: int) -> Exchange[Request, Reply, int]:
    """Delete up to ``limit`` records beyond the ``before`` that went in earlier transactions."""
    size = min(limit, PURGED_AT_ONCE)

    def parse(reply: Reply) -> int | Exchange[Request, Reply, int]:
        gone = cast("int", reply)
        if gone < size or gone == limit:
            return before + gone
        return _purge(limit - gone, before + gone)

    return Exchange(Purge(size), parse)


def _same(reply: Reply) -> Reply:
    """The reply is the answer."""
    return reply


_CLAIMED: Final = cast("Callable[[Reply], ClaimOutcome]", _same)
_SETTLED: Final = cast("Callable[[Reply], SettleOutcome]", _same)
