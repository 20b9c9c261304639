"""The contract of a store behind a network that fails, on every family whose server has one endpoint."""

from collections.abc import Callable

import pytest

from idemstore.testing.contract_lab import Lab
from idemstore.testing.contract_network import NetworkContract
from idemstore.testing.families import FAMILIES, names
from idemstore.testing.subject import Subject


class TestNetwork(NetworkContract):
    """All of it."""

    def resends(self, lab: Lab) -> bool:
        """As the family says."""
        return FAMILIES[lab.subject.name].resends

    @pytest.fixture(params=[name for name in names() if FAMILIES[name].proxied])
    def subject(self, request: pytest.FixtureRequest, make_subject: Callable[[str], Subject]) -> Subject:
        """Each such family."""
        return make_subject(request.param)
