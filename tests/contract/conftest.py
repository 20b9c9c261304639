"""Leaves out what a run does not take of the contract (see ``Family.part``), and clears what a test leaves behind."""

import gc
import warnings
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import pytest

from idemstore.testing import families


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect it, so that the run says how many tests it has left out."""
    left_out = {item for item in items if not _taken(item)}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _taken(item: pytest.Item) -> bool:
    """Whether the run takes this test."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return True
    params = item.callspec.params
    name, mode = params.get("subject"), params.get("mode")
    if name not in families.FAMILIES or mode is None:
        return True
    return families.takes(str(name), str(mode), item.function.__qualname__.partition(".")[0])


@runtime_checkable
class Clearable(Protocol):
    """A subject that slows down as records accumulate."""

    def clear(self) -> None:
        """Delete them all."""
        ...


@pytest.fixture(autouse=True)
def cleared(request: pytest.FixtureRequest) -> Iterator[None]:
    """What one test leaves behind is gone before the next: records, where the subject asks for that, and sockets."""
    yield
    subject = request.node.funcargs.get("subject") if isinstance(request.node, pytest.Function) else None
    if isinstance(subject, Clearable):
        subject.clear()
    if "test_network" in request.node.nodeid and "mongodb" in request.node.name:
        _collect_sockets()


def _collect_sockets() -> None:
    """PyMongo's monitors leave a socket behind when they are stopped while they connect (docs/mongodb.md, "Known
    trouble"): collected here, it is reported in no other test.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
