"""PostgreSQL when things go wrong: silence, ended sessions, read-only servers, cancelled calls, forked processes."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest

import idemstore
from idemstore.backends.postgresql.dialect import Call
from idemstore.backends.postgresql.options import read_target
from idemstore.backends.postgresql.psycopg_async import AsyncPsycopgDriver
from idemstore.backends.postgresql.refusals import Refusal
from idemstore.errors import (
    AccessDenied,
    StoreTimeout,
    StoreUnavailable,
    TransactionConflict,
)
from idemstore.outcomes import Claimed, Completed, InFlight
from idemstore.testing import servers
from idemstore.testing.blocking import BlockingStore
from idemstore.testing.contract_lab import Lab, claimed, done, expect, raises
from idemstore.testing.families.postgresql import DRIVERS, PostgresqlSubject
from idemstore.testing.servers.process import free_port
from idemstore.url import parse_url

SLACK = 4.0
"""Seconds that a busy machine may add to a time-out."""


@pytest.fixture(scope="module")
def server():
    """A server that these tests alone may stop and restart."""
    try:
        with servers.start("postgresql") as started:
            yield started
    except servers.ServerUnavailable as absent:
        pytest.skip(str(absent))


@pytest.fixture(scope="module")
def subject(server):
    """A table on it."""
    made = PostgresqlSubject("postgresql", server)
    yield made
    made.close()


@pytest.fixture(params=DRIVERS)
def lab(request, subject):
    """A store by each driver."""
    with Lab(*subject.by(request.param)) as made:
        made.driver = request.param
        yield made


@contextmanager
def within(seconds, least=0.0):
    """What happens inside ends in time, and not by an accident long before."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert least <= took < seconds + SLACK, f"took {took:.2f} s"


def sessions(subject):
    """Ours, on the server."""
    return {pid for (pid,) in subject.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'idemstore'")}


def end_sessions(subject, when="true"):
    """End ours, as an administrator would."""
    subject.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idemstore' AND {when}"
    )


def wait_for_end(subject):
    """Return once none of ours is left."""
    deadline = time.monotonic() + 20
    while sessions(subject):
        assert time.monotonic() < deadline, "sessions are still there"
        time.sleep(0.005)


def waits(subject, number=1):
    """Return once that many calls of ours wait for a lock."""
    text = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idemstore' AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 20
    while subject.execute(text)[0][0] != number:
        assert time.monotonic() < deadline, f"there are not {number} calls that wait for a lock"
        time.sleep(0.005)


@contextmanager
def held(subject, key):
    """Another program has the key's row."""
    with subject.connect() as connection:
        connection.autocommit = False
        connection.execute(f"SELECT 1 FROM {subject.table} WHERE key = %s FOR UPDATE", (key,))
        yield
        connection.rollback()


# -- silence ----------------------------------------------------------------------------------------------------------


def test_stalled_server(lab, server):
    """A frozen server: calls end at their time-out, with and without a connection; then all is well again."""
    url = f"{lab.subject.url}&timeout=0.6"
    known, new = lab.open(url), lab.open(url)
    known.ping()
    server.pause()
    try:
        for store in (known, new):
            with within(0.6, 0.5):
                raises(StoreTimeout, partial(store.claim, "k"))
            with within(0.6, 0.5):
                answers = store.claim_many(["a", "b"])
                assert all(isinstance(answer, StoreTimeout) for answer in answers)
    finally:
        server.resume()
    for store in (known, new):
        claimed(store.claim(lab.key()))


def test_nobody_listens(lab):
    """A refused connection is StoreUnavailable at once, not at the time-out."""
    store = lab.open(f"{lab.subject.url.partition('://')[0]}://u@127.0.0.1:{free_port()}/db?timeout=20")
    with within(5):
        error = raises(StoreUnavailable, partial(store.claim, "k"))
    assert error.retryable
    assert not isinstance(error, StoreTimeout)


def test_somebody_else_listens(lab):
    """A port that accepts and says nothing, or nonsense: an error of ours, in time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        store = lab.open(f"{lab.subject.url.partition('://')[0]}://u@127.0.0.1:{port}/db?timeout=0.5&sslmode=disable")
        with within(0.5, 0.4):
            raises(StoreTimeout, partial(store.claim, "k"))
        call = lab.background(partial(raises, StoreUnavailable, partial(store.claim, "k")))
        for _ in range(2):
            client, _ = listener.accept()
            if client.recv(100):
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()
            if not call.running():
                break
        assert call.result().retryable


def test_pool_is_exhausted(lab):
    """One connection, and it waits for somebody's row: whoever comes meanwhile keeps its time, too."""
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    store = lab.open(f"{lab.subject.url}&pool=1&timeout=1")
    with held(lab.subject, key):
        with within(1, 0.8):
            first = lab.background(partial(raises, StoreTimeout, partial(store.complete, key, token, b"r")))
            waits(lab.subject)
            others = [lab.background(partial(attempt, partial(store.get, key))) for _ in range(4)]
            first.result()
        for other in others:
            answer = other.result()
            assert isinstance(answer, StoreTimeout) or answer.record.token == token
    done(store.complete(key, token, b"r"))


def attempt(call):
    """What the call answers or raises."""
    try:
        return call()
    except StoreTimeout as error:
        return error


def test_server_ends_what_was_given_up(lab):
    """A call that timed out on a lock does not come into force later: the server has ended it."""
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    store = lab.open(f"{lab.subject.url}&timeout=0.5")
    with held(lab.subject, key):
        with within(0.5, 0.4):
            raises(StoreTimeout, partial(store.complete, key, token, b"given up"))
        waits(lab.subject, 0)
    expect(InFlight, lab.store.claim(key))
    done(lab.store.complete(key, token, b"r"))


# -- ended sessions ---------------------------------------------------------------------------------------------------


def test_idle_sessions_are_ended(lab):
    """Sessions that the server ended between two calls: the next call does not even notice."""
    keys = [lab.key() for _ in range(6)]
    for call in [lab.background(partial(lab.store.claim, key)) for key in keys]:
        claimed(call.result())
    end_sessions(lab.subject)
    assert not isinstance(lab.store.get(keys[0]), type(None))
    calls = [lab.background(partial(lab.store.claim, key)) for key in keys]
    assert all(isinstance(call.result(), InFlight) for call in calls)


def test_session_is_ended_in_a_call(lab):
    """A session that is ended while it waits: the call is sent again, and applied once."""
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    with held(lab.subject, key):
        call = lab.background(partial(lab.store.complete, key, token, b"r"))
        waits(lab.subject)
        before = sessions(lab.subject)
        end_sessions(lab.subject, "wait_event_type = 'Lock'")
        while not sessions(lab.subject) - before:
            time.sleep(0.005)
        waits(lab.subject)
    done(call.result())
    assert lab.store.claim(key) == Completed(b"r")


@pytest.mark.parametrize("where", ["idle", "in a call"])
def test_number_of_a_closed_socket_is_left_to_others(subject, where):
    """The socket of a session that ended is closed by libpq: whoever gets its number next is not disturbed."""

    async def main():
        loop, (ours, theirs) = asyncio.get_running_loop(), socket.socketpair()
        target, schema = read_target(parse_url(subject.url))
        line = await AsyncPsycopgDriver(target, schema)._connect(time.monotonic() + 5)
        number = line._line.fd
        line._lost = (ended := asyncio.Event()).set
        end_sessions(subject)
        wait_for_end(subject)  # meanwhile the loop stands still, and hears nothing of it
        if where == "in a call":
            assert isinstance(await line.say(Call(schema.inspect), time.monotonic() + 5), Refusal)
        else:
            await asyncio.wait_for(ended.wait(), 5)
        assert line._line.broken
        assert not loop.remove_reader(number), "nobody watches a socket that is closed"
        os.dup2(ours.fileno(), number)
        heard = asyncio.Event()
        loop.add_reader(number, heard.set)
        line.close()
        theirs.send(b"!")
        await asyncio.wait_for(heard.wait(), 5)
        loop.remove_reader(number)
        os.close(number)
        ours.close()
        theirs.close()

    asyncio.run(main())


def test_server_restarts(lab, server):
    """After a restart the store connects again by itself; what was stored is there."""
    key = lab.key()
    done(lab.store.complete(key, claimed(lab.store.claim(key)).token, b"r"))
    server.restart()
    assert lab.store.claim(key) == Completed(b"r")


def test_server_is_down(lab, server):
    """While it is down, calls are refused; afterwards they are answered."""
    lab.store.ping()
    server.kill()
    try:
        with within(5):
            assert raises(StoreUnavailable, partial(lab.store.claim, "k")).retryable
        assert all(isinstance(answer, StoreUnavailable) for answer in lab.store.claim_many(["a", "b"]))
    finally:
        server.restart()
    claimed(lab.store.claim(lab.key()))


def test_primary_steps_down(lab):
    """A server that turned read-only: replays go on, claims are StoreUnavailable; once it is back, all is well."""
    finished = lab.key()
    done(lab.store.complete(finished, claimed(lab.store.claim(finished)).token, b"r"))
    lab.subject.execute("ALTER ROLE idemstore SET default_transaction_read_only = on")
    try:
        end_sessions(lab.subject)
        assert lab.store.claim(finished) == Completed(b"r")
        for call in (partial(lab.store.claim, lab.key()), lab.store.ping, partial(lab.store.forget, finished)):
            error = raises(StoreUnavailable, call)
            assert error.retryable
            assert "read-only" in str(error)
    finally:
        with lab.subject.connect() as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("ALTER ROLE idemstore RESET default_transaction_read_only")
    claimed(lab.store.claim(lab.key()))


def test_no_connections_left(lab):
    """A server without a free connection is StoreUnavailable, and the message says what is missing."""
    role = f"few_{os.getpid()}_{random.randrange(10**6)}"
    lab.subject.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    try:
        store = lab.open(lab.subject.url.replace("idemstore@", f"{role}@"))
        error = raises(StoreUnavailable, partial(store.claim, "k"))
        assert "connections" in str(error)
    finally:
        lab.subject.execute(f"DROP ROLE {role}")


def test_several_hosts(lab):
    """The first host is down, the second silent: the third is found in time, and kept."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = lab.subject._server.rpartition(":")[2].partition("/")[0]
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{port}"
        url = lab.subject.url.replace(f"127.0.0.1:{port}", hosts)
        store = lab.open(f"{url}&timeout=3&target_session_attrs=read-write")
        with within(2.5):
            claimed(store.claim(lab.key()))
        end_sessions(lab.subject)
        with within(0.5):
            claimed(store.claim(lab.key()))


def test_no_host_is_fit(lab):
    """Where no host is a standby, nobody is taken for one."""
    store = lab.open(f"{lab.subject.url}&target_session_attrs=standby")
    raises(StoreUnavailable, partial(store.claim, "k"))


def test_wrong_password_among_hosts(lab, server):
    """The error that a server gave is raised, not that another host is down."""
    guarded = server.endpoints["auth"].partition("://")[2]
    rest = guarded.rpartition("@")[2]
    place, _, database = rest.partition("/")
    scheme = lab.subject.url.partition("://")[0]
    store = lab.open(f"{scheme}://guarded:wrong@{place},127.0.0.1:{free_port()}/{database}")
    raises(AccessDenied, partial(store.claim, "k"))


# -- cancelled calls --------------------------------------------------------------------------------------------------


def test_cancelled_calls_hand_nothing_to_others(lab):
    """Calls cancelled at any moment: no later call gets the reply of another, and the pool loses no place."""
    if not isinstance(lab.store, BlockingStore):
        pytest.skip("tasks are cancelled, threads are not")
    inner = lab.open(f"{lab.subject.url}&pool=3").inner
    keys = [lab.key() for _ in range(8)]

    async def storm():
        for key in keys:
            done(await inner.complete(key, claimed(await inner.claim(key)).token, key.encode()))
        chance = random.Random(7)

        async def reader(turn):
            key = keys[turn % len(keys)]
            try:
                async with asyncio.timeout(chance.choice([0, 0.0005, 0.001, 0.002, 0.005, 1])):
                    assert await inner.claim(key) == Completed(key.encode())
            except TimeoutError:
                return 1
            return 0

        cancelled = 0
        for _ in range(30):
            cancelled += sum(await asyncio.gather(*(reader(turn) for turn in range(16))))
        assert cancelled > 20
        for key in keys * 3:
            assert await inner.claim(key) == Completed(key.encode())
        assert all(isinstance(answer, Completed) for answer in await inner.claim_many(keys))

    lab.store.thread.call(storm())


def test_cancelled_while_waiting_for_a_row(lab):
    """A cancelled call that waits on the server gives its place in the pool back at once."""
    if not isinstance(lab.store, BlockingStore):
        pytest.skip("tasks are cancelled, threads are not")
    inner, key = lab.open(f"{lab.subject.url}&pool=1").inner, lab.key()
    token = claimed(lab.store.claim(key)).token

    async def cancelled():
        task = asyncio.create_task(inner.complete(key, token, b"never"))
        await asyncio.to_thread(waits, lab.subject)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await inner.claim(key)

    with held(lab.subject, key), within(2):
        expect(InFlight, lab.store.thread.call(cancelled()))


# -- fork -------------------------------------------------------------------------------------------------------------

FORK = """
import asyncio, os, signal, sys, threading
import idemstore
from idemstore.testing.blocking import BlockingStore, LoopThread

signal.alarm(40)
url, mode, leave = sys.argv[1:]


def opened():
    if mode == "sync":
        return idemstore.open(url)
    return BlockingStore(idemstore.open_async(url), LoopThread())


def in_child():
    if mode == "sync":
        return store
    return BlockingStore(store.inner, LoopThread())


store = opened()
mine = store.claim("parent").token
calls = [threading.Thread(target=store.claim, args=(f"t{n}",)) for n in range(4)]
[call.start() for call in calls]
[call.join() for call in calls]
child = os.fork()
if child == 0:
    signal.alarm(40)
    again = in_child()
    for number in range(5):
        token = again.claim(f"child-{number}").token
        assert again.complete(f"child-{number}", token, b"r") == idemstore.Done()
    assert isinstance(again.claim("parent"), idemstore.InFlight)
    if leave == "exit":
        again.close()
        del again, store
        sys.exit(0)
    os._exit(0)
for number in range(50):
    token = store.claim(f"both-{number}").token
    assert store.complete(f"both-{number}", token, b"%d" % number) == idemstore.Done()
assert os.waitpid(child, 0)[1] == 0, "the child failed"
for number in range(50):
    assert store.claim(f"both-{number}") == idemstore.Completed(b"%d" % number)
assert store.complete("parent", mine, b"r") == idemstore.Done()
store.close()
print("well")
"""


@pytest.mark.parametrize("leave", ["exit", "_exit"])
def test_fork(lab, leave):
    """Parent and child use the store at the same time; the child's end, polite or not, leaves the parent's sessions."""
    lab.subject.execute("DELETE FROM {table}")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, lab.subject.url, lab.mode, leave],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "well\n"), run.stderr
    assert "Traceback" not in run.stderr


def test_child_never_writes_on_the_parents_sockets(lab):
    """The parent's sessions survive the child's end: none of them was told good-bye."""
    store = lab.open()
    claimed(store.claim(lab.key()))
    before = sessions(lab.subject)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            if isinstance(lab.store, BlockingStore):
                asyncio.run(once(store.inner, f"child-{os.getpid()}"))
            else:
                claimed(store.claim(f"child-{os.getpid()}"))
                store.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert before <= sessions(lab.subject)
    claimed(store.claim(lab.key()))
    assert before <= sessions(lab.subject)


async def once(store, key):
    """One claim in a child's own loop."""
    claimed(await store.claim(key))
    await store.close()


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_store_on_a_unix_socket(lab):
    """``?host=`` names the directory of a socket."""
    (directory,) = lab.subject.execute("SELECT split_part(current_setting('unix_socket_directories'), ',', 1)")[0]
    if not os.path.isdir(directory):
        pytest.skip("the server is not on this machine")
    scheme, rest = lab.subject.url.split("://")
    user, place = rest.split("@")
    address, _, tail = place.partition("/")
    port = address.rpartition(":")[2]
    os.environ["PGPORT"] = port
    try:
        store = lab.open(f"{scheme}://{user}@/{tail}&host={directory}")
        claimed(store.claim(lab.key()))
    finally:
        del os.environ["PGPORT"]


def test_large_results(lab):
    """Megabytes pass through, byte for byte, alone, in batches and in both directions."""
    data = random.Random(5).randbytes(3 * 2**20)
    key, other = lab.key(), lab.key()
    token = claimed(lab.store.claim(key)).token
    done(lab.store.renew(key, token, checkpoint=data[::-1]))
    assert lab.store.claim(key, token=token).checkpoint == data[::-1]
    done(lab.store.complete_many([(key, token, data), (other, "t", b"")])[0])
    assert lab.store.claim(key) == Completed(data)
    assert lab.store.claim_many([key, key]) == [Completed(data), Completed(data)]
    assert lab.store.get(key).record.result == data


def test_errors_show_no_secrets(lab):
    """No message, repr or log line has the URL's password, a result or a whole key."""
    place = lab.subject.url.partition("@")[2]
    scheme = lab.subject.url.partition("://")[0]
    store = lab.open(f"{scheme}://idemstore:hush-hush@{place}&timeout=1")
    missing = lab.open(f"{scheme}://idemstore:hush-hush@{place.replace(lab.subject.table, 'nothing')}")
    for broken in (missing, lab.open(f"{scheme}://u:hush-hush@127.0.0.1:{free_port()}/db")):
        error = raises(idemstore.IdemstoreError, partial(broken.claim, "a-very-secret-key"))
        assert "hush-hush" not in f"{error}{error!r}{error.__cause__!r}{broken!r}"
        assert "a-very-secret-key" not in f"{error}{error!r}"
    assert isinstance(store.claim(lab.key()), Claimed)


def test_error_at_the_commit(lab):
    """Rows come before the commit: where that fails, nobody is told that anything was claimed."""
    name = f"{lab.subject.table}_refuse"
    lab.subject.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '40001'; END $$",
        f"CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON {{table}} DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW EXECUTE FUNCTION {name}()",
    )
    try:
        key = lab.key()
        raises(TransactionConflict, partial(lab.store.claim, key))
        assert not lab.exists(key)
        answers = lab.store.claim_many([lab.key(), lab.key()])
        assert all(isinstance(answer, TransactionConflict) for answer in answers)
    finally:
        lab.subject.execute(f"DROP FUNCTION {name} CASCADE")
    claimed(lab.store.claim(lab.key()))
