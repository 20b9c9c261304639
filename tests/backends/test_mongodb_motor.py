"""The contract through Motor, which has one mode; PyMongo's two run with all other families in ``tests/contract``."""

from collections.abc import Iterator

import pytest

pytest.importorskip("pymongo")
pytest.importorskip("motor")

from idemstore.testing.contract import StoreContract
from idemstore.testing.contract_lab import Mode
from idemstore.testing.families.mongodb import make
from idemstore.testing.subject import Subject


class TestMotor(StoreContract):
    """All of it."""

    @pytest.fixture(scope="class")
    def subject(self, server_pool, tmp_path_factory) -> Iterator[Subject]:
        """A collection of its own, reached through Motor."""
        subject = make("mongodb-motor", server_pool.get("mongodb"), tmp_path_factory.mktemp("motor"))
        yield subject
        subject.close()

    @pytest.fixture
    def mode(self) -> Mode:
        """Motor is async."""
        return "async"
