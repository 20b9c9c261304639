"""``StoreContract``: what every backend must keep, in both modes. Subclass it and give it a ``subject`` fixture::

    @pytest.fixture(scope="module")
    def subject():
        subject = MySubject()
        yield subject
        subject.close()

    class TestMyBackend(StoreContract):
        pass

Each topic is a class in a module of its own; every test gets a ``Lab``.
"""

from collections.abc import Iterator
from typing import ClassVar

import pytest

from idemstore.testing.contract_admin import AdminContract, BatchContract, TripContract
from idemstore.testing.contract_cancel import CancelContract
from idemstore.testing.contract_claim import ClaimContract
from idemstore.testing.contract_fingerprint import FingerprintContract
from idemstore.testing.contract_input import KeyContract, ValueContract
from idemstore.testing.contract_lab import MODES, Lab, Mode
from idemstore.testing.contract_model import ModelContract
from idemstore.testing.contract_race import RaceContract
from idemstore.testing.contract_refusals import DamageContract, RefusalContract
from idemstore.testing.contract_resend import ResendContract
from idemstore.testing.contract_settle import SettleContract
from idemstore.testing.contract_storm import HistoryContract, StormContract
from idemstore.testing.contract_wait import WaitContract
from idemstore.testing.contract_zombie import ZombieContract
from idemstore.testing.subject import Subject


class StoreContract(
    ClaimContract,
    SettleContract,
    ZombieContract,
    FingerprintContract,
    KeyContract,
    ValueContract,
    RefusalContract,
    DamageContract,
    AdminContract,
    BatchContract,
    TripContract,
    WaitContract,
    RaceContract,
    ResendContract,
    CancelContract,
    StormContract,
    HistoryContract,
    ModelContract,
):
    """The whole contract."""

    modes: ClassVar[tuple[Mode, ...]] = MODES
    """The modes that the backend has."""

    @pytest.fixture(params=MODES)
    def mode(self, request: pytest.FixtureRequest) -> Mode:
        """Sync and async, through the same tests."""
        mode: Mode = request.param
        if mode not in self.modes:
            pytest.skip(f"the backend has no {mode} mode")
        return mode

    @pytest.fixture
    def lab(self, subject: Subject, mode: Mode) -> Iterator[Lab]:
        """A store in this mode over the subject."""
        with Lab(subject, mode) as lab:
            yield lab
