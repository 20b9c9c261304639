"""Each test of the contract begins with an empty table where the family's subject can see to it."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has stored is gone after it: DynamoDB Local takes seconds to scan the large results of a run."""
    subject = request.getfixturevalue("subject") if "subject" in request.fixturenames else None
    yield
    empty = getattr(subject, "empty", None)
    if empty is not None:
        empty()
