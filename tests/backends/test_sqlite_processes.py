"""SQLite under many threads and processes: storms, kills, and forks."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

import idemstore
from idemstore.backends.sqlite import forking
from idemstore.outcomes import Claimed, Completed, InFlight
from idemstore.testing.families.dynamodb import url_of
from idemstore.testing.families.sqlite import SqliteSubject

CHILDREN = Path(__file__).with_name("sqlite_children.py")


@pytest.fixture
def subject(tmp_path):
    """A file of its own."""
    return SqliteSubject(tmp_path / "idem.db")


@pytest.fixture
def child():
    """Start processes, each in a group of its own; at the end all are gone, and their children, too."""
    with ExitStack() as stack:

        def start(scenario, *arguments):
            command, pipe = [sys.executable, str(CHILDREN), scenario, *map(str, arguments)], subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, process_group=0)
            stack.enter_context(process)
            stack.callback(kill, process)
            return process

        yield start


def kill(process):
    """End a process and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def ended(process):
    """What a process printed; it must have ended well."""
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out


def whole(subject):
    """The file must be sound, with every record readable."""
    assert subject.execute("PRAGMA integrity_check") == [("ok",)]
    with idemstore.open(subject.url) as store:
        for (key,) in subject.execute("SELECT key FROM idemstore"):
            assert store.get(key) is not None


# -- storms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [1, 4])
def test_storm_of_threads(subject, pool):
    """32 threads on one store, 20 keys, all at the same moment: one claim for each key, and no error."""
    keys = [f"key-{number}" for number in range(20)]
    gate, won, errors = threading.Barrier(32), [], []

    def work(store):
        try:
            gate.wait(30)
            for key in keys:
                outcome = store.claim(key)
                assert isinstance(outcome, Claimed | InFlight)
                if isinstance(outcome, Claimed):
                    won.append(key)
        except BaseException as error:
            errors.append(error)
            raise

    with idemstore.open(f"{subject.url}?pool={pool}&timeout=30") as store:
        threads = [threading.Thread(target=work, args=(store,)) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not errors
    assert Counter(won) == dict.fromkeys(keys, 1)


def stormed(child, url, start, keys):
    """Let 8 processes loose on the keys, all at the same moment; what they claimed."""
    processes = [child("storm", f"{url}?timeout=30", start, *keys) for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return Counter(key for process in processes for key in ended(process).split())


def test_storm_of_processes(child, subject):
    """8 processes, 30 keys: one claim for each key, and no error."""
    keys = [f"key-{number}" for number in range(30)]
    assert stormed(child, subject.url, "warm", keys) == dict.fromkeys(keys, 1)
    whole(subject)


def test_storm_on_a_file_that_is_not_there(child, tmp_path):
    """8 processes whose first call makes the file: one of them makes the tables, each key is claimed once."""
    keys = ["key", "other"]
    assert stormed(child, f"sqlite:///{tmp_path}/idem.db", "cold", keys) == dict.fromkeys(keys, 1)
    whole(SqliteSubject(tmp_path / "idem.db"))


def test_killed_processes(child, subject):
    """Processes that are killed in the middle of claims: the others go on, and what was answered is stored."""
    processes = [child("hammer", f"{subject.url}?timeout=30", f"p{number}") for number in range(4)]
    for process in processes:
        assert process.stdout.readline(), process.stderr.read()
    done = []
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        lines = process.communicate(timeout=30)[0].splitlines()
        done.append([line for line in lines if line])
        with idemstore.open(f"{subject.url}?timeout=30") as store:
            assert isinstance(store.claim(f"after-{process.pid}"), Claimed)
    whole(subject)
    with idemstore.open(subject.url) as store:
        for lines in done:
            for key in lines[-3:-1]:
                assert store.claim(key) == Completed(key.encode())


# -- forks ------------------------------------------------------------------------------------------------------------

ENDS = ["os._exit", "sys.exit", "SIGKILL"]


@pytest.mark.parametrize("how", ENDS)
def test_forks(child, subject, how):
    """Parent and several children share the file, however the children end; none inherits an open connection."""
    ended(child("forks", subject.url, how, 4))
    whole(subject)
    assert subject.execute("SELECT count(*) FROM idemstore WHERE state = 'completed'") == [(4 * 20 + 6,)]


@pytest.mark.parametrize("how", ENDS)
def test_child_that_outlives_the_parents_store(child, subject, how):
    """The parent's last connection closes beneath the child: what the child commits afterwards is not lost."""
    ended(child("outlives", subject.url, how))
    whole(subject)


@pytest.mark.parametrize("scenario", ["under_fire", "grandchildren", "async_forks"])
def test_other_forks(child, subject, scenario):
    """Forks among working threads, forks of forks, forks under a running loop."""
    ended(child(scenario, f"{subject.url}?timeout=30"))
    whole(subject)


def test_fork_in_the_middle_of_a_call(child, subject):
    """A connection that cannot be closed before the fork: the child must not touch the file, and is told why."""
    ended(child("stuck", subject.url))
    whole(subject)


def test_fork_in_this_process(subject):
    """The same under pytest's own process, whose store goes on as if nothing had been."""
    with idemstore.open(subject.url) as store:
        first = store.claim("k")
        pid = os.fork()
        if pid == 0:
            os._exit(0 if isinstance(store.claim("k"), InFlight) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert store.complete("k", first.token, b"r") == idemstore.Done()


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_a_signal_handler_may_raise_anywhere(subject, child, kind):
    """A watchdog's exception, hundreds of times in the middle of calls: no lock stays taken, the store goes on."""
    ended(child("interrupted", subject.url if kind == "sqlite" else "memory://", 1500))


def test_a_signal_handler_may_raise_anywhere_on_postgresql(child, server_pool, tmp_path):
    """The same over psycopg and a pool of our own."""
    url = f"{server_pool.get('postgresql').url}?pool=2&migrate=1&table={tmp_path.name[:40].replace('-', '_')}"
    ended(child("interrupted", url, 1500))


def test_a_signal_handler_may_raise_anywhere_on_dynamodb(child, server_pool, tmp_path):
    """The same where HTTP connections are counted: no count stays locked, and none is lost."""
    table = "".join(letter if letter.isalnum() else "-" for letter in tmp_path.name)
    url = url_of(server_pool.get("dynamodb").url, table, "connections=2")
    with idemstore.open(url) as store:
        store.migrate()
    ended(child("interrupted", url, 2500, 0.0023))


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_a_signal_handler_may_call_the_store(subject, child, kind):
    """In the middle of a call of its own thread it is refused, since to wait would be for ever."""
    answers = set(ended(child("nested", subject.url if kind == "sqlite" else "memory://")).split())
    assert "StoreUnavailable" in answers or kind == "memory"  # there the handler seldom meets the middle of a call
    assert answers <= {"StoreUnavailable", "int"}


class Grave:
    """A connection that takes its time to close."""

    def __init__(self):
        self.closing, self.go, self.closed = threading.Event(), threading.Event(), False

    def close(self):
        self.closing.set()
        assert self.go.wait(30)
        self.closed = True


def test_a_fork_waits_for_a_connection_that_is_being_closed():
    """A session is collected in another thread: the child must not inherit SQLite's locks in the middle of that."""
    grave, children = Grave(), []

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0)
        children.append(child)

    digger, forker = threading.Thread(target=forking.bury, args=("a", grave)), threading.Thread(target=fork)
    digger.start()
    assert grave.closing.wait(30)
    forker.start()
    forker.join(0.2)
    assert children == []
    grave.go.set()
    forker.join(30)
    digger.join(30)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert grave.closed


def test_a_session_that_ends_during_a_fork_is_closed_behind_it():
    """Finalizers never wait: not for a fork that is being made either."""
    grave = Grave()
    grave.go.set()
    forking._before()
    digger = threading.Thread(target=forking.bury, args=("a", grave))
    digger.start()
    digger.join(30)
    assert not grave.closed
    forking._after()
    assert grave.closed


def test_a_collected_session_closes_its_connection_through_the_grave(subject, monkeypatch):
    """Whoever forgets to close a store, and in whatever thread it is collected."""
    buried = []
    monkeypatch.setattr(forking, "bury", lambda path, connection: buried.append((path, connection)))
    store = idemstore.open(subject.url)
    store.ping()
    del store
    gc.collect()
    assert [path for path, _ in buried] == [str(subject.path)]
    buried[0][1].close()
