"""Processes for the tests of the SQLite family: ``python sqlite_children.py SCENARIO URL [ARGUMENT...]``.

Each prints what it saw; whatever goes wrong ends it with a traceback and an exit code.
"""

import asyncio
import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import idemstore
from idemstore.backends.sqlite import forking
from idemstore.errors import StoreUnavailable
from idemstore.outcomes import Claimed, Completed, Done


def say(*words):
    """Tell the test."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def storm(url, start, *keys):
    """Claim every key when all the others do, too; say which were claimed. ``cold``: that is the very first call."""
    with idemstore.open(url) as store:
        if start != "cold":
            store.ping()
        say("ready")
        sys.stdin.readline()
        say(*(key for key in keys if isinstance(store.claim(key), Claimed)))


def hammer(url, name):
    """Claim and complete until killed; print each key that was completed, once it was."""
    with idemstore.open(url) as store:
        for number in range(10**9):
            key = f"{name}-{number}"
            claim = store.claim(key)
            assert isinstance(claim, Claimed), claim
            assert store.complete(key, claim.token, key.encode()) == Done()
            say(key)


def run_through(store, key):
    """One execution."""
    claim = store.claim(key)
    assert isinstance(claim, Claimed), claim
    assert store.complete(key, claim.token, key.encode()) == Done()


def end(how):
    """Leave a child as ``how`` says."""
    sys.stdout.flush()
    if how == "os._exit":
        os._exit(0)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(0)


@contextmanager
def leaving():
    """Leave a child at the end of the block, at once, whatever else there is in this process."""
    try:
        yield
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


def reap(*children):
    """Every child must end well."""
    for child in children:
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), f"child ended with {status}"


def descriptors(url):
    """Open files of this process that belong to the store."""
    path, found = url.removeprefix("sqlite:///").partition("?")[0], []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in found if name.startswith(path)]


def forks(url, how, children):
    """Parent and children in turn: all claim, all see what the others did. The parent goes on while children live."""
    store, waiting = idemstore.open(url), []
    run_through(store, "parent-0")
    for number in range(int(children)):
        child = os.fork()
        if child == 0:
            assert not descriptors(url)
            for before in range(number + 1):
                assert store.claim(f"parent-{before}") == Completed(f"parent-{before}".encode())
            for step in range(20):
                run_through(store, f"child-{number}-{step}")
            end(how)
        run_through(store, f"parent-{number + 1}")
        waiting.append(child)
    reap(*waiting)
    run_through(store, "parent-last")
    for number in range(int(children)):
        assert store.claim(f"child-{number}-19") == Completed(f"child-{number}-19".encode())
    store.close()


def outlives(url, how):
    """The parent closes its store, and even opens another, while the child is still at work: nothing may get lost."""
    store = idemstore.open(url)
    run_through(store, "before")
    (ready, ready_), (go, go_) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        run_through(store, "child-1")
        os.write(ready_, b"1")
        os.read(go, 1)
        run_through(store, "child-2")
        assert store.claim("parent-2") == Completed(b"parent-2")
        end(how)
    os.read(ready, 1)
    store.close()
    with idemstore.open(url) as again:
        run_through(again, "parent-2")
    with idemstore.open(url) as again:
        assert again.claim("child-1") == Completed(b"child-1")
        os.write(go_, b"1")
        reap(child)
        assert again.claim("child-2") == Completed(b"child-2")


def work(store, name, stop):
    """One execution after the other."""
    for number in range(10**9):
        run_through(store, f"thread-{name}-{number}")
        if stop.is_set():
            break


def under_fire(url):
    """Threads at work, and forks in the midst of it."""
    store, stop, children = idemstore.open(url), threading.Event(), []
    with ThreadPoolExecutor(6) as threads:
        working = [threads.submit(work, store, name, stop) for name in range(6)]
        for number in range(8):
            child = os.fork()
            if child == 0:
                with leaving():
                    for step in range(10):
                        run_through(store, f"child-{number}-{step}")
            children.append(child)
        reap(*children)
        stop.set()
    for thread in working:
        thread.result()
    for number in range(8):
        assert store.claim(f"child-{number}-9") == Completed(f"child-{number}-9".encode())
    store.close()


def grandchildren(url):
    """A child that forks in its turn."""
    store = idemstore.open(url)
    run_through(store, "parent")
    child = os.fork()
    if child == 0:
        run_through(store, "child")
        grandchild = os.fork()
        run_through(store, "child-again" if grandchild else "grandchild")
        if grandchild:
            reap(grandchild)
            assert store.claim("grandchild") == Completed(b"grandchild")
        end("sys.exit")
    run_through(store, "parent-again")
    reap(child)
    assert store.claim("grandchild") == Completed(b"grandchild")
    assert store.claim("child-again") == Completed(b"child-again")


def async_forks(url):
    """A fork under a running loop with calls in the worker's queue: the child has a loop and a worker of its own."""
    store = idemstore.open_async(url)

    async def run_one(key):
        claim = await store.claim(key)
        assert isinstance(claim, Claimed)
        assert await store.complete(key, claim.token, key.encode()) == Done()

    async def parent():
        await run_one("before")
        calls = [asyncio.ensure_future(run_one(f"parent-{number}")) for number in range(50)]
        await asyncio.sleep(0.005)
        child = os.fork()
        if child == 0:  # on a loop of its own, and never back into the parent's: they share its epoll
            with leaving():
                asyncio.run(in_child())
        await asyncio.gather(*calls)
        await asyncio.to_thread(reap, child)
        assert await store.claim("child") == Completed(b"child")
        await store.close()

    async def in_child():
        await run_one("child")
        assert await store.claim("before") == Completed(b"before")

    asyncio.run(parent())


def refusal(store):
    """What a claim that must not work says."""
    try:
        outcome = store.claim("child")
    except StoreUnavailable as error:
        return str(error)
    return repr(outcome)


def stuck(url):
    """A call that does not end while the process forks: the child is refused, the parent goes on."""
    forking.PATIENCE = 0.1
    store = idemstore.open(url)
    run_through(store, "before")
    session = store._driver._writer
    assert session._turn.enter(1)  # as a thread does that is in the midst of a call
    child = os.fork()
    if child == 0:
        with leaving():
            assert "forked" in refusal(store)
    session._turn.leave()
    reap(child)
    run_through(store, "after")


class Interruption(BaseException):
    """What a watchdog's signal handler raises."""


def was_interrupted(error):
    """Whether it came of one: where that hits ``Thread.start``, the lock in there is what Python complains of."""
    while error is not None and not isinstance(error, Interruption):
        error = error.__cause__ or error.__context__
    return error is not None


def interrupted(url, hits, every="0.0002"):
    """Calls that a signal handler interrupts at any point, by raising: the store goes on."""
    store = idemstore.open(url)
    armed = False

    def ring(number, frame):
        if armed:
            raise Interruption

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, float(every), float(every))
    left, number = int(hits), 0
    while left:
        number += 1
        try:
            try:
                armed = True
                run_through(store, f"key-{number}")
            finally:
                armed = False
        except (Interruption, StoreUnavailable) as error:
            armed = False
            if not was_interrupted(error):
                raise
            left -= 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    run_through(store, "after")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: run_through(store, f"other-{index}"), range(20)))


def nested(url):
    """A handler that calls the store in the middle of a call of its own thread is refused, or served; never stuck."""
    store = idemstore.open(url)
    answers, ringing = set(), threading.Lock()

    def ring(number, frame):
        if not ringing.acquire(blocking=False):
            return  # a slow machine: the handler itself is interrupted
        try:
            answers.add(type(store.ping()).__name__)
        except StoreUnavailable as error:
            answers.add(type(error).__name__)
        ringing.release()

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for number in range(3000):
        run_through(store, f"key-{number}")
    signal.setitimer(signal.ITIMER_REAL, 0)
    run_through(store, "after")
    say(*sorted(answers))


if __name__ == "__main__":
    _, scenario, *arguments = sys.argv
    globals()[scenario](*arguments)
