"""Names that the tests of the benchmark share."""

import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

Bench = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs ``idemstore bench`` with arguments to its end; keywords are environment variables."""


class Results(NamedTuple):
    """A run with a report."""

    done: "subprocess.CompletedProcess[str]"
    json: dict[str, Any]
    html: str


Report = Callable[..., Results]
"""Runs it with ``--report``."""
