"""The operators' commands: what they print, and that every error is one line and an exit code."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from clihelp import Cli

import idemstore
from idemstore.testing.families import make


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A SQLite store."""
    return f"sqlite:///{tmp_path}/store.db"


def test_ping_shows_the_clock_of_the_server(cli: Cli, url: str):
    """The URL, the time it took, and the clock."""
    done = cli("ping", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sqlite:///")
    assert " answers in " in done.stdout
    assert done.stdout.endswith(" UTC\n")


def test_the_url_may_come_from_the_environment(cli: Cli, url: str):
    """So that a password need not stand in a list of processes."""
    done = cli("ping", IDEMSTORE_URL=url)
    assert done.returncode == 0, done.stderr


def test_get_shows_a_record_without_its_secrets(cli: Cli, url: str):
    """State and times for people and as JSON, the result only when asked for, scopes joined as the store does."""
    with idemstore.open(url) as store:
        claim = store.claim(("tenant-7", "orders", "order-1"))
        assert isinstance(claim, idemstore.Claimed)
        store.renew(("tenant-7", "orders", "order-1"), claim.token, checkpoint=b"secret!")
        held = cli("get", url, "order-1", "--scope", "tenant-7", "-s", "orders")
        store.complete(("tenant-7", "orders", "order-1"), claim.token, b"\x00secret")
    done = cli("get", url, "order-1", "--scope", "tenant-7", "-s", "orders", "--json")
    plain = cli("get", url, "order-1", "--scope", "tenant-7", "-s", "orders")
    assert held.returncode == done.returncode == plain.returncode == 0, held.stderr
    assert "in-flight" in held.stdout
    record = json.loads(done.stdout)
    assert (record["state"], record["attempt"], record["fence"]) == ("completed", 1, claim.fence)
    assert (record["result_bytes"], record["checkpoint_bytes"], record["lease_left_s"]) == (7, None, None)
    assert 86000 < record["expires_in_s"] <= 86400
    shown = held.stdout + done.stdout + plain.stdout
    assert "secret" not in shown
    assert claim.token not in shown
    whole = cli("get", url, "order-1", "--scope", "tenant-7", "-s", "orders", "--result")
    assert whole.stdout == "\x00secret"


def test_get_and_forget_say_no_where_nothing_is_stored(cli: Cli, url: str):
    """Exit code 1, and a word on standard output."""
    for command, words in (("get", "absent"), ("forget", "nothing was stored")):
        done = cli(command, url, "order-1")
        assert (done.returncode, done.stdout.strip(), done.stderr) == (1, words, "")


def test_forget_deletes_a_record(cli: Cli, url: str):
    """The next claim runs again."""
    with idemstore.open(url) as store:
        store.claim(("tenant-7", "order-1"))
        done = cli("forget", url, "order-1", "--scope", "tenant-7")
        assert (done.returncode, done.stdout) == (0, "forgotten\n")
        assert isinstance(store.claim(("tenant-7", "order-1")), idemstore.Claimed)


def test_purge_deletes_what_expired_and_nothing_else(cli: Cli, tmp_path: Path):
    """A batch, or everything; live records stay."""
    with closing(make("sqlite", None, tmp_path)) as subject, idemstore.open(subject.url) as store:
        keys = [f"old-{number}" for number in range(5)]
        store.claim_many(["live", *keys])
        for key in keys:
            subject.age(key, 2 * 86400)
        some = cli("purge", subject.url, "--limit", "2")
        assert (some.returncode, some.stdout) == (0, "2 expired records deleted\n"), some.stderr
        rest = cli("purge", subject.url, "--limit", "2", "--all")
        assert (rest.returncode, rest.stdout) == (0, "3 expired records deleted\n"), rest.stderr
        assert [key for key in ("live", *keys) if subject.exists(key)] == ["live"]
        assert store.get("live") is not None


def test_migrate_may_be_repeated(cli: Cli, url: str):
    """It says that the store is ready."""
    for _ in range(2):
        done = cli("migrate", url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("is ready\n")


def test_schemes_lists_all_that_can_be_opened(cli: Cli):
    """One line for each scheme, plugins included."""
    done = cli("--plugin", "broken_stores", "schemes")
    assert done.returncode == 0, done.stderr
    shown = {line.split("://")[0] for line in done.stdout.splitlines() if "://" in line.split()[0]}
    asked = [sys.executable, "-c", "import idemstore; print(*idemstore.schemes())"]  # where no test registers its own
    known = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert shown == {*known, "broken"}
    assert any(line.split() == ["sqlite://", "ready"] for line in done.stdout.splitlines())


def test_schemes_tells_what_has_to_be_installed(cli: Cli, tmp_path: Path):
    """The exact command, brackets and all, for a scheme whose client library is missing."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['redis'] = None")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = cli("schemes", PYTHONPATH=path, COLUMNS="160")
    assert "pip install 'idemstore[redis]'" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ping"], 2, "Missing argument 'URL'"),
        (["bogus"], 2, "No such command 'bogus'"),
        (["ping", "no-url"], 2, "scheme://"),
        (["ping", "sqllite:///x.db"], 2, "did you mean sqlite://"),
        (["ping", "memory://?bogus=1"], 2, "no option 'bogus'"),
        (["ping", "redis://:secret@127.0.0.1:1/0"], 3, "127.0.0.1"),
        (["ping", "redis://:secret@127.0.0.1:notaport/0"], 2, "port"),
        (["get", "memory://", "x" * 70000], 2, "limit"),
        (["purge", "memory://", "--limit", "0"], 2, "--limit"),
        (["demo", "--workers", "many"], 2, "--workers"),
        (["--plugin", "no_such_module", "schemes"], 2, "PYTHONPATH"),
    ],
)
def test_every_error_is_one_line(cli: Cli, arguments: list[str], code: int, words: str):
    """On standard error, with the right exit code, without a traceback or a password."""
    done = cli(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stdout + done.stderr


def test_a_bug_is_one_line_that_tells_where(cli: Cli):
    """No traceback, no text of the error, since that may hold a password; exit code 70, which means nothing else."""
    done = cli("--plugin", "broken_stores", "get", "broken://crashing", "key", PYTHONPATH="")
    assert done.returncode == 2, "without the path there is no plugin"
    code = "import idemstore.store as s; s.Store.ping = lambda self: 1 // 0\nfrom idemstore.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "ping", "memory://"], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr.startswith("idemstore: a bug, please report it: ZeroDivisionError at ")
    assert done.stderr.count("\n") == 1


def test_without_arguments_there_is_help(cli: Cli):
    """And not an error."""
    done = cli()
    assert done.returncode == 0
    for command in ("demo", "ping", "get", "forget", "purge", "migrate", "schemes"):
        assert command in done.stdout


def test_version(cli: Cli):
    """The version of the package."""
    assert cli("--version").stdout == f"idemstore {idemstore.__version__}\n"


def test_a_closed_pipe_is_no_error(environment: dict[str, str]):
    """``idemstore schemes | true`` shows no traceback."""
    command = f"{sys.executable} -m idemstore schemes | true"
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_how_to_install_it(missing: str, tmp_path: Path):
    """The exact line, and nothing else."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "idemstore", "schemes"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'idemstore[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1
