"""What tests of the contract leave behind does not slow down the next ones."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import pytest


@runtime_checkable
class Clearable(Protocol):
    """A subject that slows down as records accumulate."""

    def clear(self) -> None:
        """Delete them all."""
        ...


@pytest.fixture(autouse=True)
def cleared(request: pytest.FixtureRequest) -> Iterator[None]:
    """Records of one test are gone before the next, where the subject asks for that."""
    yield
    subject = request.node.funcargs.get("subject") if isinstance(request.node, pytest.Function) else None
    if isinstance(subject, Clearable):
        subject.clear()
