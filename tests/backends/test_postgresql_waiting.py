"""PostgreSQL: waiters of a store share one poll, in threads and in tasks."""

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from idemstore.backends.postgresql import lobby
from idemstore.backends.postgresql.lobby import FIRST, LAST, AsyncLobby, AsyncLobbyWatch, Lobby, LobbyWatch, interval
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import StoreTimeout, StoreUnavailable
from idemstore.outcomes import Completed, InFlight
from idemstore.testing.blocking import BlockingStore
from idemstore.testing.contract_lab import Lab, claimed, done, expect
from idemstore.testing.families.postgresql import PostgresqlSubject, places
from idemstore.testing.proxy import Proxy

# -- the lobby alone --------------------------------------------------------------------------------------------------


class Server:
    """What a poll asks: some keys are busy; every question is noted."""

    def __init__(self, *busy):
        self.busy = dict.fromkeys(busy)
        self.questions = []
        self.asked = threading.Event()
        self.error = None

    def poll(self, keys, timeout):
        """Sync."""
        self.questions.append(sorted(keys))
        self.asked.set()
        if self.error is not None:
            raise self.error
        return {key: end for key, end in self.busy.items() if key in keys}

    def asks(self, number):
        """Return once it was asked that often."""
        deadline = time.monotonic() + 20
        while len(self.questions) < number:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    async def poll_async(self, keys, timeout):
        """Async."""
        return self.poll(keys, timeout)


def threads(lobby, keys, limit=20.0):
    """A waiter in a thread for each key."""
    started = [threading.Thread(target=LobbyWatch(lobby, key).wait, args=(0.01, limit), daemon=True) for key in keys]
    for thread in started:
        thread.start()
    return started


def all_wait(lobby, number):
    """Return once that many wait."""
    deadline = time.monotonic() + 20
    while len(lobby._waiting) != number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_poll_for_all_threads():
    """Twenty waiters on three keys: each question names all three, and there is one question at a time."""
    server = Server("a", "b", "c")
    lobby = Lobby(server.poll)
    started = threads(lobby, ["a", "b", "c", "a"] * 5)
    all_wait(lobby, 20)
    server.questions.clear()
    began = time.monotonic()
    server.asks(4)
    assert len(server.questions) <= (time.monotonic() - began) / FIRST + 2
    assert all(question == ["a", "b", "c"] for question in server.questions)
    server.busy = {"b": None}
    for thread, key in zip(started, ["a", "b", "c", "a"] * 5, strict=True):
        if key != "b":
            thread.join(20)
            assert not thread.is_alive()
    assert sum(thread.is_alive() for thread in started) == 5
    server.busy = {}
    for thread in started:
        thread.join(20)
    assert not lobby._waiting


def test_leader_hands_over():
    """The leader's time is up: another goes on polling; who waits on notices nothing."""
    server = Server("a", "b")
    lobby = Lobby(server.poll)
    (leader,) = threads(lobby, ["a"], 0.15)
    all_wait(lobby, 1)
    followers = threads(lobby, ["b", "b"])
    leader.join(20)
    server.asked.clear()
    assert server.asked.wait(20)
    assert server.questions[-1] == ["b"]
    server.busy = {}
    for follower in followers:
        follower.join(20)
        assert not follower.is_alive()


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), StoreTimeout("silent")])
def test_failed_poll_ends_all_waits(error):
    """Where the server cannot be asked, every waiter asks by itself and hears why."""
    server = Server("a", "b")
    server.error = error
    lobby = Lobby(server.poll)
    for thread in threads(lobby, ["a", "b"]):
        thread.join(20)
        assert not thread.is_alive()


def test_back_off_is_news_once():
    """A waiter hears that a back-off began, and then sits it out."""
    server = Server()
    server.busy = {"a": b"1"}
    lobby = Lobby(server.poll)
    watch = LobbyWatch(lobby, "a")
    watch.wait(0.01, 20)
    began = time.monotonic()
    watch.wait(0.01, 0.2)
    assert time.monotonic() - began >= 0.2
    server.busy = {"a": b"2"}
    watch.wait(0.01, 20)


def test_wait_ends_at_its_limit():
    """No wait outlasts its limit, whether it leads or follows; nobody polls when nobody waits."""
    server = Server("a")
    lobby = Lobby(server.poll)
    began = time.monotonic()
    for thread in threads(lobby, ["a", "a"], 0.1):
        thread.join(20)
    assert 0.1 <= time.monotonic() - began < 5
    number = len(server.questions)
    time.sleep(0.1)
    assert len(server.questions) == number


def test_one_poll_for_all_tasks():
    """The same in tasks; a leader that is cancelled hands over."""

    async def main():
        server = Server("a", "b")
        lobby = AsyncLobby(server.poll_async)
        tasks = [asyncio.create_task(AsyncLobbyWatch(lobby, key).wait(0.01, 20)) for key in ["a", "b", "a", "b"]]
        await asyncio.to_thread(server.asks, 3)
        assert all(question == ["a", "b"] for question in server.questions)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        server.questions.clear()
        await asyncio.to_thread(server.asks, 2)
        server.busy = {"b": None}
        await tasks[2]
        assert not tasks[1].done()
        server.error = StoreUnavailable("gone")
        await asyncio.gather(*tasks[1:])
        assert not lobby._waiting
        server.error = None
        began = time.monotonic()
        await AsyncLobbyWatch(lobby, "b").wait(0.01, 0.1)
        assert 0.1 <= time.monotonic() - began < 5

    asyncio.run(main())


def test_polls_grow_rare():
    """The longer the youngest has waited, the rarer: never by more than a twentieth of that, nor beyond a bound."""
    assert interval(0) == interval(0.1) == FIRST
    assert FIRST < interval(2) < LAST
    assert interval(100) == LAST


def test_who_leaves_wakes_no_crowd():
    """Leaders leave one after the other, since who came first is served first: each tells one, not all."""

    async def main():
        async def poll(keys, seconds):
            return dict.fromkeys(keys)

        lobby, told = AsyncLobby(poll), []
        watches = [AsyncLobbyWatch(lobby, f"k{number}") for number in range(100)]
        for watch in watches:
            watch.woken.set = lambda watch=watch, ring=watch.woken.set: (told.append(watch), ring())
        waits = [asyncio.create_task(watch.wait(0.01, 20)) for watch in watches]
        await asyncio.sleep(0)
        for watch, wait in zip(watches, waits, strict=True):
            lobby.poke(watch.digest)
            await wait
            watch.close()
        assert len(told) <= 2 * len(watches)

    asyncio.run(main())


def test_a_leader_that_is_cancelled_is_replaced():
    """So is one that was told to lead and leaves before it does: somebody always polls."""

    async def main():
        free = set()

        async def poll(keys, seconds):
            return dict.fromkeys(key for key in keys if key not in free)

        lobby = AsyncLobby(poll)
        watches = [AsyncLobbyWatch(lobby, f"k{number}") for number in range(4)]
        waits = [asyncio.create_task(watch.wait(0.01, 20)) for watch in watches]
        await asyncio.sleep(0)
        waits[0].cancel()
        waits[3].cancel()
        await asyncio.sleep(0)
        waits[2].cancel()
        free.add("k1")
        await asyncio.wait_for(waits[1], 5)

    asyncio.run(main())


# -- on a server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=places(), ids="-".join)
def place(request):
    """A server, and the driver that reaches it."""
    return request.param


@pytest.fixture(scope="module")
def subject(place, server_pool):
    """A table."""
    made = PostgresqlSubject("postgresql", server_pool.get(place[0]))
    yield made
    made.close()


@pytest.fixture
def lab(place, subject):
    """A store by that driver."""
    with Lab(*subject.by(place[1])) as made:
        yield made


def carrier(inner):
    """The driver that carries: an async store's stands inside of what coalesces."""
    return getattr(inner._driver, "driver", inner._driver)


def waiting_for(store, number):
    """Return once that many wait in the store's lobby."""
    inner = store.inner if isinstance(store, BlockingStore) else store
    deadline = time.monotonic() + 20
    while inner._driver is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    all_wait(carrier(inner)._lobby, number)


def test_many_waiters_cost_one_poll(lab):
    """Forty waiters on four keys: in a second no more round trips than for one, and all get their result."""
    host, _, port = lab.subject._server.partition("@")[2].partition("/")[0].partition(":")
    keys = [lab.key() for _ in range(4)]
    tokens = {key: claimed(lab.store.claim(key, lease=600)).token for key in keys}
    with Proxy(host, int(port)) as proxy:
        store = lab.open(lab.subject.url.replace(f":{port}/", f":{proxy.port}/"))
        calls = [lab.background(partial(store.claim, key, wait=30)) for key in keys * 10]
        waiting_for(store, 40)
        before, began = proxy.round_trips, time.monotonic()
        time.sleep(1)
        assert proxy.round_trips - before <= (time.monotonic() - began) / FIRST + 2
        for key, token in tokens.items():
            done(lab.store.complete(key, token, key.encode()))
        assert [call.result() for call in calls] == [Completed(key.encode()) for key in keys * 10]


def test_waiter_is_served_soon(lab):
    """From the completion to the waiter's result: a fraction of what a waiter that polls by itself would sleep."""
    took = []
    for _ in range(9):
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=600)).token
        call = lab.background(lambda key=key: (lab.store.claim(key, wait=30), time.monotonic()))
        waiting_for(lab.store, 1)
        time.sleep(0.15)
        done(lab.store.complete(key, token, b"r"))
        ended = time.monotonic()
        outcome, at = call.result()
        assert outcome == Completed(b"r")
        took.append(at - ended)
    assert statistics.median(took) < 0.1, took


def test_waiters_when_sessions_end(lab):
    """Sessions that are ended while many wait: they wait on, and get the result."""
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=600)).token
    calls = [lab.background(partial(lab.store.claim, key, wait=30)) for _ in range(6)]
    waiting_for(lab.store, 6)
    lab.subject.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idemstore'")
    done(lab.store.complete(key, token, b"r"))
    assert [call.result() for call in calls] == [Completed(b"r")] * 6


def test_short_wait_among_long_ones(lab):
    """Who leads gives up first; the others are served."""
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=600)).token
    short = lab.background(partial(lab.store.claim, key, wait=2))
    waiting_for(lab.store, 1)
    long = [lab.background(partial(lab.store.claim, key, wait=30)) for _ in range(3)]
    expect(InFlight, short.result())
    done(lab.store.complete(key, token, b"r"))
    assert [call.result() for call in long] == [Completed(b"r")] * 3


# -- LISTEN and NOTIFY ------------------------------------------------------------------------------------------------


@pytest.fixture
def told(lab):
    """A store with ``?notify=1``."""
    return lab.open(f"{lab.subject.url}&notify=1")


@pytest.fixture
def deaf_poll(monkeypatch):
    """Once it listens, no poll comes within a test: only a notification can end a wait."""
    monkeypatch.setattr(lobby, "LAST", 1000.0)


def listens(store):
    """Return once the store's listener is there."""
    inner = store.inner if isinstance(store, BlockingStore) else store
    deadline = time.monotonic() + 20
    while inner._driver is None or not carrier(inner)._lobby.listening:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_whatever_ends_a_wait_is_told(lab, told, deaf_poll):
    """Completion, failure, release, forget, each of a batch: a notification ends the wait; a renewal tells nobody."""
    ends = {
        "complete": lambda key, token: told.complete(key, token, b"r"),
        "fail": lambda key, token: told.fail(key, token, b"r"),
        "back off": lambda key, token: told.fail(key, token, b"r", retry_after=0),
        "release": lambda key, token: told.release(key, token),
        "forget": lambda key, token: told.forget(key),
        "complete many": lambda key, token: told.complete_many([(key, token, b"r"), (lab.key(), "t", b"r")]),
        "release many": lambda key, token: told.release_many([(lab.key(), "t"), (key, token)]),
    }
    for end in ends.values():
        key = lab.key()
        token = claimed(told.claim(key, lease=600)).token
        call = lab.background(partial(told.claim, key, wait=40))
        waiting_for(told, 1)
        listens(told)
        done(told.renew(key, token, lease=600))
        assert call.running()
        began = time.monotonic()
        end(key, token)
        assert not isinstance(call.result(), InFlight)
        assert time.monotonic() - began < 20


def test_told_waiter_is_served_at_once(lab, told):
    """From the completion to the waiter's result: milliseconds."""
    took = []
    for _ in range(15):
        key = lab.key()
        token = claimed(told.claim(key, lease=600)).token
        call = lab.background(lambda key=key: (told.claim(key, wait=30), time.monotonic()))
        waiting_for(told, 1)
        listens(told)
        done(told.complete(key, token, b"r"))
        ended = time.monotonic()
        outcome, at = call.result()
        assert outcome == Completed(b"r")
        took.append(at - ended)
    assert statistics.median(took) < 0.05, took


def test_dead_listener_costs_latency_only(lab, told):
    """The listener's session is ended, again and again, while others wait: all are served, and it comes back."""
    store = lab.open(f"{lab.subject.url}&notify=1")
    for _ in range(3):
        key = lab.key()
        token = claimed(told.claim(key, lease=600)).token
        calls = [lab.background(partial(store.claim, key, wait=30)) for _ in range(3)]
        waiting_for(store, 3)
        listens(store)
        lab.subject.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'", no=1)
        done(told.complete(key, token, b"r"))
        assert [call.result() for call in calls] == [Completed(b"r")] * 3


def test_lost_notification_costs_latency_only(lab, told):
    """Completed by a store that tells nobody: the shared poll finds out."""
    key = lab.key()
    token = claimed(told.claim(key, lease=600)).token
    call = lab.background(partial(told.claim, key, wait=30))
    waiting_for(told, 1)
    listens(told)
    done(lab.store.complete(key, token, b"r"))
    assert call.result() == Completed(b"r")


def test_only_who_asks_for_it_tells(lab, told):
    """Without the option nothing is sent; with it a digest, never the key."""
    with lab.subject.connect() as ear:
        ear.execute(f"LISTEN {Schema('public', lab.subject.table).channel}")
        key = lab.key()
        done(lab.store.complete(key, claimed(lab.store.claim(key)).token, b"r"))
        key = lab.key()
        done(told.complete(key, claimed(told.claim(key)).token, b"r"))
        said = [notice.payload for notice in ear.notifies(timeout=20, stop_after=1)]
    assert said == [lobby.digest(key)]


LEAVE = """
import asyncio, os, signal, sys, idemstore
from idemstore.testing.blocking import BlockingStore, LoopThread
signal.alarm(40)
url, mode, fork = sys.argv[1:]


def opened():
    return idemstore.open(url) if mode == "sync" else BlockingStore(idemstore.open_async(url), LoopThread())


store = opened()
store.claim("left", lease=600)
assert isinstance(store.claim("left", wait=0.3), idemstore.InFlight)
if fork == "fork":
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        again = store if mode == "sync" else BlockingStore(store.inner, LoopThread())
        assert isinstance(again.claim("left", wait=0.3), idemstore.InFlight)
        again.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert isinstance(store.claim("left", wait=0.3), idemstore.InFlight)
print("well")
"""


@pytest.mark.parametrize("fork", ["no", "fork"])
def test_listener_keeps_no_process_alive(lab, told, fork):
    """A process that ends without closing its store ends; a child of fork() has a listener of its own."""
    told.forget("left")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEAVE, f"{lab.subject.url}&notify=1", lab.mode, fork],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "well\n"), run.stderr


def test_closed_store_stops_listening(lab, told):
    """No session is left behind."""
    text = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND pid <> pg_backend_pid()"
    key = lab.key()
    claimed(told.claim(key, lease=600))
    expect(InFlight, told.claim(key, wait=0.2))
    listens(told)
    told.close()
    deadline = time.monotonic() + 20
    while lab.subject.execute(text, no=1)[0][0]:
        assert time.monotonic() < deadline, "the listener is still there"
        time.sleep(0.01)
