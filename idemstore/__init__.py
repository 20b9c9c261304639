"""idemstore: idempotency keys, stored. One caller runs, every other waits, is told so, or gets the stored result.

>>> import idemstore
>>> store = idemstore.open("memory://")
>>> match store.claim(("tenant-7", "order-4711")):
...     case idemstore.Claimed(token=token):
...         store.complete(("tenant-7", "order-4711"), token, b"charged")
Done()
>>> store.claim(("tenant-7", "order-4711")).result
b'charged'
"""

from typing import TYPE_CHECKING

from idemstore.errors import IdemstoreError
from idemstore.exchange import Limits, Snapshot
from idemstore.keys import fingerprint
from idemstore.machine import Record, State
from idemstore.outcomes import (
    Abandoned,
    Claimed,
    ClaimOutcome,
    Completed,
    Done,
    Failed,
    InFlight,
    LeaseLost,
    Mismatch,
    SettleOutcome,
)
from idemstore.registry import open, open_async, register, schemes  # noqa: A004
from idemstore.store import Completion, Store

if TYPE_CHECKING:
    from idemstore.async_store import AsyncStore

__version__ = "0.1.0"

__all__ = [
    "Abandoned",
    "AsyncStore",
    "ClaimOutcome",
    "Claimed",
    "Completed",
    "Completion",
    "Done",
    "Failed",
    "IdemstoreError",
    "InFlight",
    "LeaseLost",
    "Limits",
    "Mismatch",
    "Record",
    "SettleOutcome",
    "Snapshot",
    "State",
    "Store",
    "fingerprint",
    "open",
    "open_async",
    "register",
    "schemes",
]


def __getattr__(name: str) -> object:
    """``AsyncStore`` is imported when it is asked for: sync programs do not pay for asyncio."""
    if name == "AsyncStore":
        from idemstore.async_store import AsyncStore

        return AsyncStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
