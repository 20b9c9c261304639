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

import importlib
from typing import TYPE_CHECKING, Final

from idemstore.errors import IdemstoreError
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

if TYPE_CHECKING:
    from idemstore.async_store import AsyncStore
    from idemstore.exchange import Limits, Snapshot
    from idemstore.store import Completion, Store

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


_LATE: Final = {
    "AsyncStore": "idemstore.async_store",
    "Completion": "idemstore.store",
    "Limits": "idemstore.exchange",
    "Snapshot": "idemstore.exchange",
    "Store": "idemstore.store",
}
"""Names that are imported when they are asked for: a sync program never pays for asyncio, nor a type for its module."""


def __getattr__(name: str) -> object:
    """The late names (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
