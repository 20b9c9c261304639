"""The payment provider of the demo: a book of charges that knows fences, and nothing of idempotency.

It charges whenever it is asked to, the same key as often as one likes. The one thing that it refuses is a fence lower
than one it has seen for the key: an owner who was replaced, whether it knows that or not. Real counterparts are a
provider's search by reference, and a conditional write on a version column.
"""

import secrets
from pathlib import Path

from idemstore.demo.journal import Charge, Tail, append_durably, locked


class StaleFence(Exception):
    """A newer owner has been here: nothing was charged."""


class Ledger:
    """The book, in one file that all workers share."""

    def __init__(self, path: Path) -> None:
        self._path, self._tail = path, Tail(path)
        self._fences: dict[str, int] = {}
        self._receipts: dict[str, str] = {}

    def find(self, key: str, fence: int, worker: int) -> str | None:
        """The receipt of a charge that was made for ``key``; from now on no older fence can make one."""
        with locked(self._path) as file:
            self._admit(key, fence)
            append_durably(file, [key, fence, worker, ""])
            return self._receipts.get(key)

    def charge(self, key: str, fence: int, worker: int) -> str:
        """Charge, whatever was charged before, and give the receipt. One append: it happens, or it does not."""
        receipt = f"charge-{secrets.token_hex(8)}"
        with locked(self._path) as file:
            self._admit(key, fence)
            append_durably(file, [key, fence, worker, receipt])
        return receipt

    def _admit(self, key: str, fence: int) -> None:
        """Read what others wrote; refuse a fence that is older than the newest."""
        for row in self._tail.charges():
            self._fences[row.key] = max(row.fence, self._fences.get(row.key, 0))
            if row.receipt:
                self._receipts.setdefault(row.key, row.receipt)
        if fence < self._fences.get(key, 0):
            raise StaleFence


def charges(path: Path) -> list[Charge]:
    """Every charge in the book, in order."""
    return [row for row in Tail(path).charges() if row.receipt]
