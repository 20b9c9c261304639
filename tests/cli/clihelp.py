"""Names that the tests of the command line share."""

import subprocess
from collections.abc import Callable

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs ``idemstore`` with arguments to its end; keywords are environment variables."""
