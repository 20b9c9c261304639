"""What ``idemstore bench`` refuses at the door, before anything runs: one line, exit code 2 (3: the store's fault)."""

from pathlib import Path

import pytest
from benchhelp import Bench


def refused(bench: Bench, *arguments: str, code: int = 2) -> str:
    """The one line of a refusal; nothing was run."""
    done = bench(*arguments)
    assert done.returncode == code, done
    assert "samples of" not in done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--scenario", "uniqe"), "there are unique, replay, hot, mixed, wait, big"),
        (("--concurrency", "1,x"), "numbers from 1 to 4096"),
        (("--concurrency", "0"), "numbers from 1 to 4096"),
        (("--mode", "fast"), "sync, async or both"),
        (("--seconds", "1", "--operations", "5"), "keep one"),
        (("redis://10.1.2.3:6379/0",), "--yes"),
        (("dynamodb:///table?region=eu-central-1",), "--yes"),
        (("--added-latency", "10"), "memory and SQLite have no network"),
        (("sqlite:///x.db", "--added-latency", "10"), "has no network"),
        (("redis://localhost/0", "--added-latency", "10", "--concurrency", "1,600"), "500 callers at most"),
        (("rediss://localhost/0", "--added-latency", "10"), "TLS"),
        (("redis+cluster://localhost", "--added-latency", "10"), "past a proxy"),
        (("memory://", "--processes", "2"), "inside one process"),
        (("postgresql+asyncpg://localhost/db", "--mode", "sync"), "asyncpg has no sync form"),
        (("nosuch://localhost",), "no backend serves nosuch://"),
        (("redis://localhost:6379/0?colesce=1",), "no option 'colesce'"),
    ],
)
def test_what_cannot_be_done_is_refused(bench: Bench, arguments: tuple[str, ...], words: str):
    """And the message says what can."""
    assert words in refused(bench, *arguments)


def test_a_server_that_is_not_there_is_told_at_once(bench: Bench):
    """Exit code 3."""
    assert "cannot be reached" in refused(bench, "redis://127.0.0.1:1/0?timeout=1", code=3)


def test_a_report_that_cannot_be_written(bench: Bench, tmp_path: Path):
    """A file stands where the directory should be; it is left alone."""
    place = tmp_path / "taken"
    place.write_text("mine")
    assert "cannot be written" in refused(bench, "memory://", "--report", str(place))
    assert place.read_text() == "mine"


def test_a_report_without_matplotlib(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The missing package is named with the command that installs it."""
    monkeypatch.setattr("idemstore.bench.report.find_spec", lambda name: None)
    assert "pip install 'idemstore[bench]'" in refused(bench, "memory://", "--report", str(tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_passwords_are_not_shown(bench: Bench):
    """Neither in errors nor in labels."""
    assert "s3cret" not in refused(bench, "redis://user:s3cret@10.1.2.3:6379/0?prefix=s3cret")
