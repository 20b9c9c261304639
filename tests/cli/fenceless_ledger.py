"""A plugin that breaks the ledger of the demo: it takes a charge from an owner who was replaced."""

from idemstore.demo.ledger import Ledger

admit = Ledger._admit


def careless(self: Ledger, key: str, fence: int) -> None:
    """Read what others wrote, and let any fence pass."""
    admit(self, key, 2**62)


Ledger._admit = careless
