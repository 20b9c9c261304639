"""Processes: killed between two steps, forked from a parent that guards, ended with a heartbeat in flight."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from desk import Calls

import idemstore
from idemstore import AsyncGuard, Guard, Policy, State, async_operation, operation
from idemstore.errors import OperationInFlight, StoreTimeout
from idemstore.keepalive import keepalive
from idemstore.testing.families.sqlite import SqliteSubject

CHILDREN = Path(__file__).with_name("children.py")


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start a child."""
    return subprocess.Popen([sys.executable, str(CHILDREN), *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("what", ["two_steps", "two_async_steps"])
def test_killed_between_two_steps(tmp_path: Path, what: str):
    """A job is killed behind its first step: whoever comes next finds the checkpoint and does the second only."""
    url, journal = f"sqlite:///{tmp_path}/keys.db", tmp_path / "journal"
    idemstore.open(url).migrate()
    child = start(what, url, "job", str(journal))
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    guard = Guard(idemstore.open(url), Policy(lease=30))
    with pytest.raises(OperationInFlight):
        guard.call("job", Calls("must not run"))
    child.kill()
    child.wait()
    child.stdout.close()

    def job() -> list[object]:
        """What the next execution sees."""
        running = operation()
        assert running.resumed_from is not None
        with journal.open("a") as file:
            file.write("second\n")
        return [running.attempt, running.resumed_from.decode()]

    SqliteSubject(tmp_path / "keys.db").age("job", 31)
    waiting = Guard(guard.store, Policy(lease=30, wait=30))
    assert waiting.call("job", job) == [2, "first done"]
    assert journal.read_text() == "first\nsecond\n"
    assert waiting.call("job", Calls("must not run")) == [2, "first done"]


@pytest.mark.parametrize("what", ["leave", "leave_async"])
def test_heartbeat_does_not_keep_the_process_alive(what: str):
    """The interpreter ends although leases are being kept."""
    child = subprocess.run(
        [sys.executable, str(CHILDREN), what, "memory://"], timeout=30, check=False, capture_output=True, text=True
    )
    assert (child.returncode, child.stderr) == (0, "")


def test_call_while_the_interpreter_ends():
    """A guarded call in an exit handler works."""
    child = subprocess.run(
        [sys.executable, str(CHILDREN), "last_words", "memory://"],
        timeout=30,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (child.returncode, child.stdout) == (0, "said\n"), child.stderr


# -- fork -------------------------------------------------------------------------------------------------------------

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_child(work: Callable[[], object]) -> object:
    """Run ``work`` in a forked child; what it returned, as JSON carries it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        signal.alarm(60)  # a child that hangs ends, and its parent is told
        try:
            os.close(reading)
            answer = json.dumps(work())
            os.write(writing, answer.encode())
            code = 0
        except BaseException:  # noqa: BLE001 - the parent tells of it
            import traceback

            os.write(writing, json.dumps(traceback.format_exc()).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading) as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, answer
    return json.loads(answer)


def outlasting(store: idemstore.Store, key: str) -> Callable[[], str]:
    """A function that ends when its lease has been renewed beyond what it was."""

    def work() -> str:
        """Wait for renewals."""
        first = store.get(key).record.lease_until
        deadline = time.monotonic() + 20
        while store.get(key).record.lease_until < first + 400_000:
            if time.monotonic() > deadline:
                return "never renewed"
            time.sleep(0.005)
        return "renewed"

    return work


@pytest.fixture
def store(tmp_path: Path) -> idemstore.Store:
    """A store that processes share."""
    made = idemstore.open(f"sqlite:///{tmp_path}/keys.db")
    made.migrate()
    return made


POLICY = Policy(lease=0.3)


@forks
def test_fork_before_use(store: idemstore.Store):
    """Preloaded, as by a web server: the guard was made in the parent and is first used in the child."""
    guard = Guard(store, POLICY)
    assert in_child(lambda: guard.call("key", outlasting(store, "key"))) == "renewed"
    assert guard.call("key", Calls("other")) == "renewed"


@forks
def test_fork_after_use(store: idemstore.Store):
    """As by a task queue's pool: the parent has used the guard, and its heartbeat thread is not in the child."""
    guard = Guard(store, POLICY)
    guard.call("first", Calls(1))
    assert keepalive(store)._thread is not None
    assert in_child(lambda: guard.call("key", outlasting(store, "key"))) == "renewed"
    assert guard.call("again", outlasting(store, "again")) == "renewed"


@forks
def test_fork_while_the_parent_beats(store: idemstore.Store):
    """Leases of the parent are the parent's: the child renews its own, and both are kept."""
    guard = Guard(store, POLICY)
    running, go, ended = threading.Event(), threading.Event(), []

    def work() -> str:
        """Run through the fork."""
        running.set()
        assert go.wait(30)
        return "parent"

    patient = Guard(store, Policy(lease=6))  # on the same heartbeat: long enough for a machine that stands still
    thread = threading.Thread(target=lambda: ended.append(patient.call("parent", work)))
    thread.start()
    running.wait()

    def child() -> list[object]:
        """A call of its own."""
        return [len(guard.heartbeat._beats), guard.call("child", outlasting(store, "child"))]

    for _ in range(3):
        answer = in_child(child)
        store.forget("child")
    assert answer == [0, "renewed"]
    start = store.get("parent").record.lease_until
    deadline = time.monotonic() + 20
    while store.get("parent").record.lease_until == start:
        assert time.monotonic() < deadline, "never renewed"
        time.sleep(0.005)
    with pytest.raises(OperationInFlight):
        guard.call("parent", Calls("other"))
    go.set()
    thread.join()
    assert ended == ["parent"]


@forks
def test_fork_inside_a_guarded_function(store: idemstore.Store):
    """A child that is forked half-way may save checkpoints of the operation, and guard others."""
    guard = Guard(store, POLICY)

    def work() -> object:
        """Fork."""

        def child() -> str:
            """In the child."""
            operation().checkpoint(b"from the child")
            return guard.call("other", outlasting(store, "other"))

        return in_child(child)

    assert guard.call("key", work) == "renewed"


@forks
def test_remembered_claims_are_the_parents(store: idemstore.Store):
    """A token that parent and child both remember is used by one of them."""
    refusing: list[bool] = [True]

    class Deaf:
        """A driver that loses replies."""

        def __init__(self, driver) -> None:
            self.driver = driver

        def execute(self, request, timeout):
            """Apply, and lose."""
            reply = self.driver.execute(request, timeout)
            if refusing[0]:
                raise StoreTimeout("lost")
            return reply

        def close(self):
            """Pass on."""
            self.driver.close()

    guard = Guard(store.wrapped(Deaf))
    with pytest.raises(StoreTimeout):
        guard.call("key", Calls("ran"))
    refusing[0] = False

    def child() -> str:
        """The child's try."""
        try:
            return guard.call("key", Calls("ran"))
        except OperationInFlight:
            return "in flight"

    assert in_child(child) == "in flight"
    assert guard.call("key", Calls("ran")) == "ran"


@forks
def test_fork_with_an_async_guard(store: idemstore.Store):
    """A child may use the guard on a loop of its own, even where the parent has used it on one that runs no more."""
    guard = AsyncGuard(idemstore.open_async(store.name), POLICY)

    async def call(key: str) -> str:
        """A call with a heartbeat."""

        async def work() -> str:
            first = store.get(key).record.lease_until
            async with asyncio.timeout(20):
                while store.get(key).record.lease_until < first + 400_000:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.005)
            await async_operation().checkpoint(b"x")
            return "renewed"

        return await guard.call(key, work)

    assert asyncio.run(call("parent")) == "renewed"
    assert in_child(lambda: asyncio.run(call("child"))) == "renewed"
    assert store.get("child").state is State.COMPLETED
