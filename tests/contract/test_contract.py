"""The contract on every family and mode."""

from idemstore.testing.contract import StoreContract


class TestContract(StoreContract):
    """All of it."""
