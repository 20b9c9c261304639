"""Names that the packaging tests share."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command that must succeed; what it printed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=240, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
