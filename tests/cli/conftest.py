"""How the tests run the command line: as a process of its own, as users do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clihelp import Cli

HERE = Path(__file__).parent


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with a temporary directory of its own, a width, and the broken stores to be found."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    path = os.pathsep.join(part for part in (str(HERE), os.environ.get("PYTHONPATH", "")) if part)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IDEMSTORE_")}
    return {**kept, "TMPDIR": str(scratch), "COLUMNS": "100", "PYTHONPATH": path, "NO_COLOR": "1"}


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    """Run the command line to its end."""

    def run(*arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "idemstore", *arguments],
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
