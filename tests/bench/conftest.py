"""How the tests run ``idemstore bench``: as a process of its own, as users do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchhelp import Bench, Report, Results

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def bench_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A temporary directory of its own, no terminal, and the lying stores to be found."""
    path = os.pathsep.join(part for part in (str(HERE), os.environ.get("PYTHONPATH", "")) if part)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IDEMSTORE_")}
    return {**kept, "TMPDIR": str(tmp_path_factory.mktemp("bench-tmp")), "PYTHONPATH": path, "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def bench(bench_environment: dict[str, str]) -> Bench:
    """Run the command to its end."""

    def run(*arguments: str, plugin: str = "", **extra: str) -> "subprocess.CompletedProcess[str]":
        plugins = ["--plugin", plugin] if plugin else []
        return subprocess.run(
            [sys.executable, "-m", "idemstore", *plugins, "bench", *arguments],
            env={**bench_environment, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def report(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Run with ``--report``; what was printed, the JSON, and the page."""

    def run(*arguments: str, plugin: str = "") -> Results:
        directory = tmp_path_factory.mktemp("report") / "made" / "here"
        done = bench(*arguments, "--report", str(directory), plugin=plugin)
        assert (directory / "results.json").is_file(), done.stderr + done.stdout
        assert sorted(path.name for path in directory.iterdir()) == ["index.html", "results.json"]
        return Results(
            done, json.loads((directory / "results.json").read_text()), (directory / "index.html").read_text()
        )

    return run


@pytest.fixture(scope="session")
def usual(report: Report) -> Results:
    """The usual two targets in both modes, every scenario, briefly."""
    return report("--seconds", "0.02", "--rounds", "2", "--concurrency", "1,5")
