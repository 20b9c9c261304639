"""How the tests run ``idemstore bench``: in this process, where only its workers cost the time to start one."""

import contextlib
import io
import json
import os
from pathlib import Path

import pytest
from benchhelp import Bench, Done, Report, Results

from idemstore.commands import run as run_commands

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def bench() -> Bench:
    """Run the command to its end."""

    def run(*arguments: str, plugin: str = "") -> Done:
        plugins = ["--plugin", plugin] if plugin else []
        with (
            contextlib.redirect_stdout(io.StringIO()) as printed,
            contextlib.redirect_stderr(io.StringIO()) as errors,
        ):
            code = run_commands([*plugins, "bench", *arguments])
        return Done(code, printed.getvalue(), errors.getvalue())

    return run


@pytest.fixture(scope="session")
def report(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Run with ``--report``; what was printed, the JSON, and the page."""

    def run(*arguments: str, plugin: str = "") -> Results:
        directory = tmp_path_factory.mktemp("report") / "made" / "here"
        done = bench(*arguments, "--report", str(directory), plugin=plugin)
        assert (directory / "results.json").is_file(), done
        assert sorted(path.name for path in directory.iterdir()) == ["index.html", "results.json"]
        return Results(
            done, json.loads((directory / "results.json").read_text()), (directory / "index.html").read_text()
        )

    return run


@pytest.fixture(scope="session")
def usual(report: Report) -> Results:
    """The usual two targets in both modes, every scenario, briefly."""
    return report("--seconds", "0.02", "--rounds", "2", "--concurrency", "4")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process of its own: a temporary directory, and no colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IDEMSTORE_")}
    return {**kept, "TMPDIR": str(tmp_path), "NO_COLOR": "1"}
