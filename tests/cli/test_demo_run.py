"""The demo as a user runs it: real processes, real kills; and stores that must not pass."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clihelp import Cli

SMALL = ("--keys", "8", "--workers", "3", "--attempts", "3", "--kills", "3", "--stalls", "1", "--lease", "0.5")
CALM = ("--keys", "4", "--workers", "3", "--attempts", "3", "--kills", "0", "--stalls", "0")


def number(output: str, name: str) -> int:
    """A number of the final table."""
    found = re.search(rf"^{name} +(\d+) ", output, re.MULTILINE)
    assert found, output
    return int(found[1])


def test_every_key_is_executed_once_through_kills(cli: Cli, tmp_path: Path):
    """On SQLite: the verdict, its numbers, and the exit code; nothing is left in the store or the file system."""
    url = f"sqlite:///{tmp_path}/demo.db"
    done = cli("demo", url, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nevery key executed once\n" in done.stdout
    assert number(done.stdout, "keys") == number(done.stdout, "executions") == 8
    assert number(done.stdout, "kills") == 3, done.stdout
    assert number(done.stdout, "takeovers") >= 2
    assert number(done.stdout, "replays") >= 8 * 3 - 8 - 3
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("server", ["redis", "valkey", "redis-cluster", "redis-sentinel"])
def test_every_key_is_executed_once_on_a_server(cli: Cli, server: str, server_pool):
    """The same on a server."""
    done = cli("demo", server_pool.get(server).url, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every key executed once" in done.stdout


def test_every_key_is_executed_once_although_the_server_stalls(environment: dict[str, str], server_pool):
    """Calls that time out on a server that stands still in the middle are made again; that shows, and harms nothing."""
    server = server_pool.get("redis")
    command = [sys.executable, "-m", "idemstore", "demo", f"{server.url}?timeout=0.3", *SMALL, "--keys", "30"]
    said: list[str] = []

    def read_to(words: str) -> None:
        for line in process.stdout:
            said.append(line)
            if words in line:
                return

    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        read_to("killed")
        server.pause()
        try:
            read_to("tries again: StoreTimeout")
        finally:
            server.resume()
        read_to("no such words: to the end")
    output = "".join(said)
    assert process.returncode == 0, output
    assert "tries again: StoreTimeout" in output
    assert "every key executed once" in output


def test_the_default_is_a_file_that_is_gone_afterwards(cli: Cli, tmp_path: Path):
    """Without a URL there is a temporary SQLite file, and no server is needed."""
    done = cli("demo", *CALM)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo on sqlite:///" in done.stdout
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_seed_repeats_the_kills(cli: Cli):
    """Two runs of one seed kill before and after the charges of the same keys."""
    runs = [cli("demo", *SMALL, "--kills", "2", "--seed", "11").stdout for _ in range(2)]
    kills = [sorted(re.findall(r"(?:killed|sleep) (?:before|after) the charge of (\S+)", run)) for run in runs]
    assert kills[0] == kills[1]
    assert len(kills[0]) == 3
    assert "seed 11" in runs[0]


def test_a_store_that_ignores_others_is_found_out(cli: Cli, tmp_path: Path):
    """Every worker is given every key: exit code 1, and the keys that ran more than once are named."""
    done = cli("--plugin", "broken_stores", "demo", "broken://forgetful", *CALM)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "every key executed once" not in done.stdout
    assert "NOT once: " in done.stdout
    named = re.search(r"executed more than once: (.*)", done.stdout)
    assert named
    assert re.search(r"key-\d \([23] times\)", named[1])


def test_a_store_that_is_not_atomic_is_found_out(cli: Cli, tmp_path: Path):
    """Claims that read and write without a lock: exit code 1, and a key that was handed out twice is named."""
    done = cli("--plugin", "broken_stores", "demo", f"broken://hasty{tmp_path}", *CALM, "--keys", "12")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"several workers: .*key-\d+ \(\d times\)", done.stdout), done.stdout


def test_a_run_that_cannot_end_is_cut_off(cli: Cli):
    """A store that keeps everybody waiting: the time-out bounds the run, and the verdict says what it is not."""
    began = time.monotonic()
    done = cli("--plugin", "broken_stores", "demo", "broken://stuck", *CALM, "--timeout", "2")
    assert time.monotonic() - began < 10
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT proven: the run ended with 12 of 12 callers unanswered" in done.stdout
    assert "cut off after 2 s" in done.stdout


@pytest.mark.parametrize(
    ("way", "said"),
    [("denying", "AccessDenied: the server refuses claims: grant the permission"), ("crashing", "ZeroDivisionError")],
)
def test_a_worker_that_cannot_go_on_ends_the_run(cli: Cli, way: str, said: str):
    """An error of the store in a worker is one line on standard error and exit code 3; so is a bug."""
    done = cli("--plugin", "broken_stores", "demo", f"broken://{way}", *CALM)
    assert done.returncode == 3, done.stdout + done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr + done.stdout


def test_memory_cannot_be_shared(cli: Cli):
    """It is refused before anything runs, with what to use instead."""
    for url in ("memory://", "memory://shared"):
        done = cli("demo", url)
        assert done.returncode == 2
        assert "sqlite:///" in done.stderr
        assert "redis://" in done.stderr


def test_an_unreachable_server_is_one_line(cli: Cli):
    """No worker is started; the password is not shown."""
    done = cli("demo", "redis://user:secret@127.0.0.1:1/0")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr + done.stdout


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process, at most half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@contextmanager
def under_way(environment: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """A demo that never ends by itself, with its workers at work."""
    command = [sys.executable, "-m", "idemstore", "--plugin", "broken_stores", "demo", "broken://stuck", *CALM]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until(lambda: len(children(process.pid)) == 3)
        yield process, children(process.pid)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 129)]
)
def test_ctrl_c_leaves_nothing_behind(environment: dict[str, str], tmp_path: Path, sent: signal.Signals, code: int):
    """Ctrl-C, a polite end and a closed terminal: no worker and no file stays, and no traceback is shown."""
    with under_way(environment) as (process, workers):
        process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code
        assert "Traceback" not in errors
        assert errors == ("idemstore: interrupted\n" if sent is signal.SIGINT else "")
        until(lambda: not any(map(alive, workers)))
        assert list((tmp_path / "tmp").iterdir()) == []


def test_workers_do_not_outlive_a_parent_that_is_killed(environment: dict[str, str]):
    """Even SIGKILL for the parent ends the workers: the pipe that they listen to ends."""
    with under_way(environment) as (process, workers):
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not any(map(alive, workers)))


@pytest.mark.parametrize(
    ("plugin", "faults"),
    [("careless_takeover", ("--kills", "2", "--stalls", "0")), ("fenceless_ledger", ("--kills", "0", "--stalls", "2"))],
)
def test_the_recipe_is_needed(cli: Cli, tmp_path: Path, plugin: str, faults: tuple[str, ...]):
    """Without the question to the ledger a kill after the charge, and without fences a stall, make a second charge."""
    url = f"sqlite:///{tmp_path}/demo.db"
    done = cli("--plugin", plugin, "demo", url, *SMALL, *faults)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"executed more than once: key-\d \(2 times\)", done.stdout), done.stdout


def test_files_of_the_current_directory_are_not_imported(environment: dict[str, str], tmp_path: Path):
    """The installed command and its workers take nothing from where they happen to be called."""
    (tmp_path / "random.py").write_text("raise SystemExit('imported from the current directory')")
    script = Path(sys.executable).with_name("idemstore")
    done = subprocess.run(
        [script, "demo", *CALM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
