"""The contract on every family and mode."""

from idemstore.testing.contract import StoreContract
from idemstore.testing.contract_lab import Lab
from idemstore.testing.families import FAMILIES


class TestContract(StoreContract):
    """All of it."""

    def examples(self, lab: Lab) -> int:
        """Fewer where the server is slow."""
        return FAMILIES[lab.subject.name].examples

    def many(self, lab: Lab) -> int:
        """Fewer where the server is slow."""
        return FAMILIES[lab.subject.name].many
