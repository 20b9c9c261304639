"""The types that callers see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["usage.py", "guarded.py"])
def test_callers_are_typed(name: str) -> None:
    """mypy, strict, over a caller's file: outcomes narrow, a match over all of them is complete, decorated functions
    keep their signatures, mistakes are found.
    """
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(HERE / name)],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parent.parent,
        env={**os.environ, "MYPY_CACHE_DIR": str(HERE.parent.parent / ".mypy_cache")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
