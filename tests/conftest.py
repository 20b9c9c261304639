"""The subjects that the contract runs on: every family that is there, or those that IDEMSTORE_SUBJECTS names."""

import os
import re
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("idemstore.testing")

from idemstore.testing import families  # noqa: E402 - assertions are rewritten at import
from idemstore.testing.subject import Subject  # noqa: E402

pytest_plugins = ["idemstore.testing.pytest_plugin"]

SUBJECTS = re.findall(r"[^\s,]+", os.environ.get("IDEMSTORE_SUBJECTS", "")) or families.names()


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A subject of each family."""
    name: str = request.param
    wanted = families.FAMILIES[name].server
    server = None if wanted is None else request.getfixturevalue("server_pool").get(wanted)
    made = families.make(name, server, tmp_path_factory.mktemp(name))
    yield made
    made.close()
