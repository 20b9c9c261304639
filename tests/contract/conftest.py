"""Leaves out what a run does not take of the contract: see ``Family.part``."""

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
