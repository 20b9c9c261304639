"""Names that the tests of the benchmark share."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Done(NamedTuple):
    """A run of the command."""

    returncode: int
    stdout: str
    stderr: str


Bench = Callable[..., Done]
"""Runs ``idemstore bench`` with arguments to its end."""


class Results(NamedTuple):
    """A run with a report."""

    done: Done
    json: dict[str, Any]
    html: str


Report = Callable[..., Results]
"""Runs it with ``--report``."""
