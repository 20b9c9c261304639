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
    from idemstore.async_batch import AsyncBatch
    from idemstore.async_guard import AsyncGuard, AsyncOperation, async_operation
    from idemstore.async_store import AsyncStore
    from idemstore.batch import Batch
    from idemstore.batch_core import Item
    from idemstore.exchange import Limits, Snapshot
    from idemstore.face import Completion, Failure, Renewal
    from idemstore.guard import Guard
    from idemstore.policy import Keep, LeaseLoss, Policy, Release, Retry, StoreDown
    from idemstore.running import Operation, operation
    from idemstore.store import Store

__version__ = "0.1.0"

__all__ = [
    "Abandoned",
    "AsyncBatch",
    "AsyncGuard",
    "AsyncOperation",
    "AsyncStore",
    "Batch",
    "ClaimOutcome",
    "Claimed",
    "Completed",
    "Completion",
    "Done",
    "Failed",
    "Failure",
    "Guard",
    "IdemstoreError",
    "InFlight",
    "Item",
    "Keep",
    "LeaseLoss",
    "LeaseLost",
    "Limits",
    "Mismatch",
    "Operation",
    "Policy",
    "Record",
    "Release",
    "Renewal",
    "Retry",
    "SettleOutcome",
    "Snapshot",
    "State",
    "Store",
    "StoreDown",
    "async_operation",
    "fingerprint",
    "open",
    "open_async",
    "operation",
    "register",
    "schemes",
]


_LATE: Final = {
    "AsyncBatch": "idemstore.async_batch",
    "AsyncGuard": "idemstore.async_guard",
    "AsyncOperation": "idemstore.async_guard",
    "AsyncStore": "idemstore.async_store",
    "Batch": "idemstore.batch",
    "Completion": "idemstore.face",
    "Failure": "idemstore.face",
    "Guard": "idemstore.guard",
    "Item": "idemstore.batch_core",
    "Keep": "idemstore.policy",
    "LeaseLoss": "idemstore.policy",
    "Limits": "idemstore.exchange",
    "Operation": "idemstore.running",
    "Policy": "idemstore.policy",
    "Release": "idemstore.policy",
    "Renewal": "idemstore.face",
    "Retry": "idemstore.policy",
    "Snapshot": "idemstore.exchange",
    "Store": "idemstore.store",
    "StoreDown": "idemstore.policy",
    "async_operation": "idemstore.async_guard",
    "operation": "idemstore.running",
}
"""Names that are imported when they are asked for: a sync program never pays for asyncio, nor a type for its module."""


def __getattr__(name: str) -> object:
    """The late names (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
