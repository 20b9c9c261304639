"""A desk for guard tests: guards in one mode over memory, whose driver follows orders and whose records can be aged."""

from collections.abc import Iterator

import pytest
from desk import Desk


@pytest.fixture(params=["sync", "async"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A desk in each mode."""
    with Desk(request.param) as made:
        yield made
