"""The async driver of SQLite: one worker thread, its queue, and callers that come, wait, leave and are gone."""

import asyncio
import gc
import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, closing

import pytest

import idemstore
from idemstore.backends.sqlite import async_driver
from idemstore.backends.sqlite.async_driver import QUEUED, Job, Worker
from idemstore.backends.sqlite.dialect import Ping
from idemstore.errors import StoreClosed, StoreTimeout
from idemstore.outcomes import Claimed, Completed, Done
from idemstore.testing.families.sqlite import SqliteSubject

THREAD = "idemstore-sqlite"


def workers():
    """The worker threads that run now."""
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def gone():
    """Wait until no worker runs any more."""
    deadline = time.monotonic() + 10
    while workers():
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.001)


@pytest.fixture
def subject(tmp_path):
    """A file of its own; afterwards no worker is left."""
    yield SqliteSubject(tmp_path / "idem.db")
    gone()


@asynccontextmanager
async def held(subject):
    """Another program holds the write lock."""
    with closing(sqlite3.connect(subject.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def test_worker_starts_late_and_ends_with_the_store(subject):
    """No thread before the first call, one after it however many call, none after ``close``."""

    async def main():
        store = idemstore.open_async(subject.url)
        assert not workers()
        await asyncio.gather(*(store.claim(f"key-{number}") for number in range(50)))
        (worker,) = workers()
        assert worker.daemon
        await store.close()
        assert not workers()
        await store.close()
        with pytest.raises(StoreClosed):
            await store.ping()

    asyncio.run(main())


def test_store_that_is_never_used_or_closed(subject):
    """Closing without a call is fine; a store that is dropped takes its worker along."""

    async def main():
        await idemstore.open_async(subject.url).close()
        await idemstore.open_async(subject.url).claim("k")

    asyncio.run(main())
    gc.collect()
    gone()


def test_answers_go_to_those_who_asked(subject):
    """A thousand calls at once, many of them cancelled at any moment: each of the others gets its own answer."""

    async def main():
        async with idemstore.open_async(subject.url) as store:
            keys = [f"key-{number}" for number in range(300)]
            claims = await asyncio.gather(*(store.claim(key) for key in keys))
            done = await asyncio.gather(
                *(store.complete(key, claim.token, key.encode()) for key, claim in zip(keys, claims, strict=True))
            )
            assert done == [Done()] * len(keys)
            tasks = [asyncio.create_task(store.claim(key)) for key in keys for _ in range(4)]
            chosen = random.Random(7)
            for _ in range(20):
                await asyncio.sleep(0.001)
                for task in chosen.sample(tasks, 40):
                    task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            expected = [key for key in keys for _ in range(4)]
            seen = {type(answer) for answer in answers}
            for key, answer in zip(expected, answers, strict=True):
                assert isinstance(answer, asyncio.CancelledError) or answer == Completed(key.encode())
            assert seen == {asyncio.CancelledError, Completed}

    asyncio.run(main())


def test_cancelled_before_its_turn_is_never_applied(subject, monkeypatch):
    """A claim that was cancelled while it stood in the queue leaves no record; the next caller is not disturbed."""
    inside, go, run = threading.Event(), threading.Event(), async_driver.Session.run

    def gated(session, requests, timeout):
        inside.set()
        go.wait(30)
        return run(session, requests, timeout)

    async def main():
        async with idemstore.open_async(subject.url) as store:
            monkeypatch.setattr(async_driver.Session, "run", gated)
            ping = asyncio.create_task(store.ping())
            await asyncio.to_thread(inside.wait, 30)
            claim, other = asyncio.create_task(store.claim("k")), asyncio.create_task(store.claim("other"))
            while store._driver.driver._worker.jobs.qsize() < 2:  # noqa: ASYNC110 - nobody else knows
                await asyncio.sleep(0)
            claim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await claim
            go.set()
            assert isinstance(await ping, int)
            assert isinstance(await other, Claimed)
            assert await store.get("k") is None
            assert isinstance(await store.claim("k"), Claimed)

    asyncio.run(main())


def test_deadline_is_kept_while_the_worker_is_stuck(subject, monkeypatch):
    """A disk that hangs: callers get their time-out all the same, and go on when it is back."""
    stuck, run = threading.Event(), async_driver.Session.run

    def hanging(session, requests, timeout):
        stuck.wait(30)
        return run(session, requests, timeout)

    async def main():
        async with idemstore.open_async(f"{subject.url}") as store:
            await store.ping()
            store.timeout = 0.3
            monkeypatch.setattr(async_driver.Session, "run", hanging)
            start = time.monotonic()
            outcomes = await asyncio.gather(store.claim("a"), store.claim("b"), return_exceptions=True)
            assert time.monotonic() - start < 4
            assert [type(outcome) for outcome in outcomes] == [StoreTimeout, StoreTimeout]
            stuck.set()
            store.timeout = 30
            await store.ping()
            assert await store.get("b") is None, "its caller had gone before its turn came"

    asyncio.run(main())


def test_queue_is_bounded(subject, monkeypatch):
    """Calls beyond the bound wait on the loop, within their own time, and are served in the end."""
    sizes, put = [], Worker.serve
    gate = threading.Event()

    def slow(worker):
        gate.wait(30)
        sizes.append(worker.jobs.qsize())
        put(worker)

    monkeypatch.setattr(Worker, "serve", slow)

    async def main():
        async with idemstore.open_async(subject.url) as store:
            calls = [asyncio.create_task(store.ping()) for _ in range(QUEUED + 200)]
            await asyncio.sleep(0.05)
            gate.set()
            assert len(await asyncio.gather(*calls)) == QUEUED + 200

    asyncio.run(main())
    assert sizes == [QUEUED]


def test_loop_closed_under_a_call(subject):
    """A loop that ends while a call is under way: the worker finds nobody, and ends with the store."""

    async def main():
        store = idemstore.open_async(subject.url)
        await store.ping()
        task = asyncio.create_task(store.claim("k"))
        await asyncio.sleep(0)
        return store, task

    for _ in range(20):
        store, task = asyncio.run(main())
        assert task.cancelled()
        del store, task
    gc.collect()
    gone()
    with idemstore.open(subject.url) as other:
        assert other.ping()


def test_answer_for_a_closed_loop(subject):
    """The reply to a loop that is closed is dropped, and the worker lives."""

    async def make():
        return Job((Ping(),), 5.0, "idem.db")

    job = asyncio.run(make())
    job.finish([1])
    job.finish(StoreTimeout("late"))


def test_one_store_per_loop(subject):
    """A second loop is refused; a second store is not."""
    store = idemstore.open_async(subject.url)
    asyncio.run(store.ping())
    with pytest.raises(idemstore.errors.WrongEventLoop):
        asyncio.run(store.ping())

    async def main():
        async with idemstore.open_async(subject.url) as other:
            return await other.ping()

    assert asyncio.run(main())
    del store
    gc.collect()


def test_closed_while_a_call_waits_for_a_lock(subject):
    """Calls that are put off when the store closes are told so at once."""

    async def main():
        store = idemstore.open_async(f"{subject.url}?timeout=30")
        await store.ping()
        async with held(subject):
            claim = asyncio.create_task(store.claim("k"))
            assert await store.get("other") is None
            await store.close()
            with pytest.raises(StoreClosed):
                await claim

    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < 10


def test_closed_with_more_calls_than_the_queue_holds(subject):
    """Those within are answered, those that wait for room are told so at once."""

    async def main():
        store = idemstore.open_async(f"{subject.url}?timeout=30")
        await store.ping()
        calls = [asyncio.create_task(store.get("k")) for _ in range(QUEUED + 300)]
        await asyncio.sleep(0)
        await store.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    start = time.monotonic()
    outcomes = asyncio.run(main())
    assert {type(outcome) for outcome in outcomes} == {type(None), StoreClosed}
    assert time.monotonic() - start < 10


def test_bug_in_the_worker_reaches_its_caller(subject, monkeypatch):
    """Whatever goes wrong in the thread is raised where the call was made, and the worker goes on."""

    async def main():
        async with idemstore.open_async(subject.url) as store:
            await store.ping()
            with monkeypatch.context() as patch:
                patch.setattr(async_driver.Session, "run", lambda *_: {}["bug"])
                with pytest.raises(KeyError):
                    await store.ping()
            assert await store.ping()

    asyncio.run(main())


ENDS = """
import asyncio, sys
import idemstore

async def main():
    store = idemstore.open_async(sys.argv[1])
    await store.claim(sys.argv[2])
    pending = [asyncio.ensure_future(store.claim(f"{sys.argv[2]}-{number}")) for number in range(100)]
    await asyncio.sleep(0)
    globals().update(store=store, pending=pending)

asyncio.run(main())
print("end")
"""


def test_process_ends_without_close(subject):
    """A program that forgets ``close``, with calls under way, ends at once, by itself, and leaves a whole file."""
    for number in range(5):
        command = [sys.executable, "-c", ENDS, subject.url, f"key-{number}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert subject.execute("PRAGMA integrity_check") == [("ok",)]
    assert subject.exists("key-4")


def test_sync_programs_never_import_asyncio(subject):
    """Opening and using a sync store costs no event loop."""
    code = f"import sys, idemstore; idemstore.open({subject.url!r}).claim('k'); assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_who_meets_a_lock_again_and_again_leaves_time_for_others():
    """However many are due once more, every other job is a new one; where there is none, they all have their turn."""
    worker = Worker(None)  # type: ignore[arg-type]
    worker._later = [(0.0, number, f"again {number}") for number in range(4)]  # type: ignore[misc]
    for number in range(2):
        worker.jobs.put(f"new {number}")  # type: ignore[arg-type]
    taken = [worker._next() for _ in range(6)]
    assert taken == ["again 0", "new 0", "again 1", "new 1", "again 2", "again 3"]
