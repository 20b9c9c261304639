"""A plugin that breaks the recipe of the demo's workers: who takes over does not ask the ledger."""

from idemstore.demo.ledger import Ledger


def find(self: Ledger, key: str, fence: int, worker: int) -> str | None:
    """Ask nobody."""
    return None


Ledger.find = find
