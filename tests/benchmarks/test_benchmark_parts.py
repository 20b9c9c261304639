"""The benchmark programs: that they run, and what they leave behind. What they measure is not judged here."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import common, plots, results
from benchmarks.parts import PARTS

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> str:
    """A program, as its user calls it."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_names_every_part(capsys):
    """``--list`` runs nothing and says what there is."""
    assert program.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == program.names()
    assert {"memory", "redis_floor", "peers", "scale", "micro", "bench"} <= set(listed)


def test_every_part_knows_quick_and_json():
    """A part that is here takes the arguments that ``python -m benchmarks --quick`` gives it."""
    for part in PARTS:
        if part.name in ("memory", "scale", "redis_floor", "sqlite_floor"):
            words = run(part.module, "--help")
            for word in part.command("FILE", "URL", "quick")[3:]:
                assert not word.startswith("--") or word in words, (part.name, word)


def test_an_unknown_part_is_named():
    """A wrong name is an error that lists the right ones."""
    with pytest.raises(SystemExit, match="no such part: nothing; there are memory, "):
        program.main(["--only", "nothing"])


def test_a_part_leaves_json_and_a_page(tmp_path):
    """One tiny run, from the command line to the page of tables."""
    report = tmp_path / "memory.json"
    run("benchmarks.memory", "--cycles", "200", "--rounds", "1", "--json", str(report))
    found = json.loads(report.read_text())
    assert found["part"] == "memory"
    assert shlex.split(found["command"]) == ["python", "-m", "benchmarks.memory", "--cycles", "200", "--rounds", "1"]
    assert {"date", "seconds", "load", "machine", "python", "versions", "notes", "rows", "title"} <= set(found)
    assert found["versions"]["idemstore"]
    assert [row["operation"] for row in found["rows"]] == ["claim + complete", "replay"]
    assert all(row["median_per_s"] > 0 for row in found["rows"])
    assert program.main(["--page", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "README.md").read_text()
    assert "| operation | median /s | best /s |" in page
    assert str(tmp_path) not in page


def test_a_failing_part_is_reported(tmp_path):
    """A program that fails or takes too long is told of, and the others go on."""
    assert program.run([sys.executable, "-c", "raise SystemExit(3)"], 20) == "exit status 3"
    assert program.run([sys.executable, "-c", "import threading; threading.Event().wait()"], 0.3) == "stopped after 0 s"


def test_tables_are_aligned_by_what_they_hold():
    """Text to the left, numbers to the right, units in the head, empty cells, no empty columns."""
    rows: list[common.Row] = [
        {"family": "redis", "claim_p99_us": 1234.5, "ratio": 1.25, "empty": None},
        {"family": "memory", "claim_p99_us": 0.0123, "ratio": None, "errors": "Busy | x2"},
    ]
    assert results.markdown(rows).splitlines() == [
        "| family | claim p99, µs | ratio | errors |",
        "|---|---:|---:|---|",
        "| redis | 1,234 | 1.25 |  |",
        "| memory | 0.0123 |  | Busy \\| x2 |",
    ]


def test_rows_of_different_kinds_have_tables_of_their_own():
    """What ``measured`` tells apart does not share columns."""
    rows: list[common.Row] = [{"measured": "claims", "p50_us": 1}, {"measured": "purge", "purged": 2}]
    assert [len(group) for group in results.groups(rows)] == [1, 1]
    assert "claims" not in results.markdown(rows[:1])


def test_percentiles_are_values_that_were_measured():
    """Nearest rank: the 99th of a hundred is the 99th, of few the largest."""
    assert common.percentile(range(1, 101), 0.99) == 99
    assert common.percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert common.percentile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_turns_let_another_one_go_first():
    """Every contender once in each round, and in each position as often."""
    assert [name for _, name in common.turns("abc", 3)] == list("abcbcacab")


def test_ratios_are_taken_within_rounds():
    """A round in which all was slow does not change them."""
    assert common.ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == 2.0


def test_commands_are_recorded_without_paths_and_ports(monkeypatch):
    """What was measured can be repeated elsewhere: no file name, no port of the moment."""
    given = ["program", "redis://127.0.0.1:4711/0", "--json", "/somewhere/x.json", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", given)
    recorded = common.Report("redis_floor", "Redis").as_json()
    assert recorded["command"] == "python -m benchmarks.redis_floor redis:URL --rounds 3"


def test_no_plot_without_matplotlib(tmp_path, monkeypatch, capsys):
    """Plots that were drawn before stay on the page."""
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    (tmp_path / "scale-claims.svg").touch()
    report = {"part": "scale", "rows": [{"measured": "claims"}]}
    assert plots.draw([report], tmp_path) == {"scale": ["scale-claims.svg"]}
    assert "matplotlib is not installed" in capsys.readouterr().out
