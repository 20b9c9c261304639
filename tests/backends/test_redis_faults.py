"""Redis when things go wrong: silence, broken connections, lost and late replies, refusals; calls keep their time."""

import asyncio
import gc
import os
import re
import socket
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial

import pytest
from redis import exceptions as redis_errors

import idemstore
from idemstore.backends.redis.errors import fault
from idemstore.backends.redis.options import Address
from idemstore.errors import (
    AccessDenied,
    ConfigurationError,
    IdemstoreError,
    StoreFull,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
    WrongEventLoop,
)
from idemstore.outcomes import Claimed, Completed, Done, InFlight
from idemstore.testing.contract_lab import MODES, Lab, claimed, done, raises
from idemstore.testing.families.redis import RedisSubject
from idemstore.testing.proxy import Proxy
from idemstore.testing.servers.process import free_port

KEY, TOKEN = "whole-key", "secret-token"

SLACK = 4.0
"""Seconds that a machine may add to a time-out that stands still for a while; less than a store's usual time-out is."""


@pytest.fixture(autouse=True)
def tidy():
    """What a test leaves open is told at its own end, not in some later test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def server(server_pool):
    """One Redis."""
    return server_pool.get("redis")


@pytest.fixture(scope="module")
def subject(server):
    """A prefix on it."""
    made = RedisSubject("redis", server.url)
    yield made
    made.close()


@pytest.fixture(params=MODES)
def mode(request):
    """Both modes."""
    return request.param


@pytest.fixture
def lab(mode, subject):
    """A store in each mode."""
    with Lab(subject, mode) as made:
        yield made


@pytest.fixture
def proxy(subject):
    """A proxy in front of the server."""
    address = subject.client.connection_pool.connection_kwargs
    with Proxy(address["host"], address["port"]) as made:
        yield made


def through(proxy, lab, options="timeout=5"):
    """A store behind the proxy."""
    return lab.open(f"redis://127.0.0.1:{proxy.port}/0?prefix={lab.subject.prefix}&{options}")


@contextmanager
def within(seconds):
    """What happens inside ends in time, and not by an accident long before."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + SLACK


@contextmanager
def configured(subject, **settings):
    """The server with other settings for a while."""
    names = {name.replace("_", "-"): value for name, value in settings.items()}
    before = {name: subject.client.config_get(name)[name] for name in names}
    try:
        for name, value in names.items():
            subject.client.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            subject.client.config_set(name, value)


# -- nobody there, or nobody who lets us in ---------------------------------------------------------------------------


def test_refused(lab):
    """Nobody listens: StoreUnavailable almost at once, from every operation, the password nowhere."""
    store = lab.open(f"redis://user:s3cret@127.0.0.1:{free_port()}/0")
    for call in (store.ping, partial(store.claim, "k"), partial(store.complete, "k", "t", b"r")):
        with within(0.5):
            error = raises(StoreUnavailable, call)
        assert not isinstance(error, StoreTimeout)
        assert error.retryable
        assert "s3cret" not in repr(error) + str(error) + repr(error.__cause__)
    assert [type(error) for error in store.claim_many(["a", "b"])] == [StoreUnavailable] * 2


def test_no_socket(lab, tmp_path):
    """A Unix socket that is not there."""
    raises(StoreUnavailable, lab.open(f"unix://{tmp_path}/none.sock").ping)


@pytest.mark.parametrize("secret", [":wr0ng@", "", "nobody:s3cret@"])
def test_wrong_password(lab, server, secret):
    """A wrong password, none at all, an unknown user: AccessDenied at once, and no password in the message."""
    address = server.endpoints["auth"].rpartition("@")[2]
    store = lab.open(f"redis://{secret}{address}")
    with within(0.5):
        error = raises(AccessDenied, partial(store.claim, "key"))
    assert "wr0ng" not in str(error)
    assert "s3cret" not in str(error)
    assert not error.retryable


def test_right_password(lab, server):
    """With the right one it works."""
    store = lab.open(server.endpoints["auth"])
    assert store.ping() > 0


def test_password_where_none_is_set(lab, server):
    """A password for a server that wants none is refused by it."""
    address = server.url.partition("//")[2]
    raises(AccessDenied, lab.open(f"redis://:s3cret@{address}").ping)


def test_unix_socket(lab, server):
    """The same server through its socket."""
    store = lab.open(f"{server.endpoints['unix']}?db=3&prefix={lab.subject.prefix}")
    key = lab.key()
    assert isinstance(store.claim(key), Claimed)
    assert lab.store.get(key) is None, "that is another database"
    assert store.forget(key)


@pytest.mark.parametrize("name", ["redis", "valkey", "redis8"])
def test_tls(mode, server_pool, name):
    """Through TLS with the server's authority, by either name of the option; by redis://, without it, or with another
    authority: one clear error each.
    """
    server = server_pool.get(name)
    if "tls" not in server.endpoints:
        pytest.skip(f"{name} was built without TLS")
    url = server.endpoints["tls"]
    bare, options = url.partition("?")[::2]
    with Lab(RedisSubject(name, server.url), mode) as lab:
        for good in (url, url.replace("rediss:", "valkeys:"), f"{bare}?ssl_{options}", f"{bare}?cert_reqs=none"):
            assert isinstance(lab.open(f"{good}&prefix={lab.subject.prefix}").claim(lab.key()), Claimed)
        with within(1):
            error = raises(ConfigurationError, lab.open(f"{bare}?timeout=1").ping)
        assert "ca_certs" in str(error)
        plain = bare.replace("s://", "://", 1)
        with within(1):
            raises(StoreUnavailable, lab.open(f"{plain}?timeout=1").ping)
        lab.subject.close()


def test_tls_to_a_plain_server(lab, server):
    """A handshake that nobody answers ends with the time-out."""
    url = server.url.replace("redis://", "rediss://")
    with within(0.5):
        raises(StoreUnavailable, lab.open(f"{url}?timeout=0.5").ping)


def test_wrong_database(lab, server):
    """A database that the server does not have."""
    base = server.url.rpartition("/")[0]
    error = raises(ConfigurationError, lab.open(f"{base}/99").ping)
    assert "database" in str(error)


def test_no_permission(lab, subject):
    """A user without a command or without the keys: AccessDenied that names what is needed; nothing is stored."""
    admin, user = subject.client, f"user-{lab.key()}"
    address = admin.connection_pool.connection_kwargs
    url = f"redis://{user}:s3cret@127.0.0.1:{address['port']}/0?prefix={subject.prefix}"
    for rules in (("~*", "-@all", "+get"), ("~other:*", "+@all"), ("~*", "+@all", "-@write")):
        admin.execute_command("ACL", "SETUSER", user, "reset", "on", ">s3cret", *rules)
        key, store = lab.key(), lab.open(url)
        try:
            for call in (partial(store.claim, key), store.ping):
                error = raises(AccessDenied, call)
                assert "+evalsha" in str(error)
                assert "s3cret" not in str(error)
            assert [type(item) for item in store.claim_many([key])] == [AccessDenied]
            assert not subject.exists(key)
        finally:
            admin.execute_command("ACL", "DELUSER", user)


class Odd:
    """Something that listens and is no Redis: says its words to every connection, one after the other."""

    def __init__(self, words, pause=0.0):
        self.words, self.pause = words, pause
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        """Answer until the listener is closed."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client):
        """Say everything to one client."""
        with closing(client):
            try:
                client.recv(65536)
                for word in self.words:
                    client.sendall(word)
                    time.sleep(self.pause)
            except OSError:
                return

    def close(self):
        """Stop."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], StoreMisbehaved),
        ([b"$abc\r\n"], StoreMisbehaved),
        ([b":1\r\n"], StoreMisbehaved),
        ([b"*1\r\n$5\r\nhello\r\n"], StoreMisbehaved),
        ([b"*1\r\n" * 5000], StoreMisbehaved),
        ([b"-ERR unknown command 'EVALSHA', with args beginning with: 'token' \r\n"], StoreMisbehaved),
        ([b"-MOVED 5 127.0.0.1:1\r\n"], ConfigurationError),
        ([b"-LOADING Redis is loading the dataset in memory\r\n"], StoreUnavailable),
        ([b"-ERR max number of clients reached\r\n"], StoreUnavailable),
        ([b"-DENIED Redis is running in protected mode because\r\n"], AccessDenied),
        ([b"-MISCONF Redis is configured to save RDB snapshots, but\r\n"], StoreUnavailable),
        ([b"*2\r\n$7\r\nclaim"], StoreUnavailable),
        ([], StoreUnavailable),
    ],
)
def test_odd_servers(lab, words, kind):
    """Whatever answers there, each call ends with one of our errors, in time, and repeats no argument."""
    with closing(Odd(words)) as odd:
        store = lab.open(f"redis://127.0.0.1:{odd.port}/0?timeout=2")
        with within(2):
            error = raises(IdemstoreError, partial(store.claim, "k", token="secret-token"))
        assert type(error) is kind
        assert "token" not in str(error)
        with within(2):
            assert [type(item) for item in store.claim_many(["k"])] == [kind]


def test_a_refusal_that_repeats_the_arguments_is_not_logged(lab):
    """A server without EVALSHA repeats what came with it; a logged traceback shows causes, too."""
    word = b"-ERR unknown command 'EVALSHA', with args beginning with: 'idem:whole-key' 'secret-token' 'result'\r\n"
    with closing(Odd([word])) as odd:
        store = lab.open(f"redis://127.0.0.1:{odd.port}/0?timeout=2")
        error = raises(StoreMisbehaved, partial(store.complete, KEY, TOKEN, b"result"))
    shown = "".join(traceback.format_exception(error))
    assert "unknown command" in shown
    assert "secret-token" not in shown
    assert "whole-key" not in shown


def test_a_trickle_is_not_waited_for(lab):
    """A server that answers byte by byte keeps no call beyond its time-out."""
    with closing(Odd([b"*"] + [b"1"] * 100, pause=0.05)) as odd:
        store = lab.open(f"redis://127.0.0.1:{odd.port}/0?timeout=0.5")
        with within(0.5):
            raises(StoreTimeout, partial(store.claim, "k"))


# -- silence ----------------------------------------------------------------------------------------------------------


def test_a_frozen_server(lab, server):
    """SIGSTOP: every operation, a batch, and a first connection, too, time out in time; afterwards all is well."""
    store, fresh = lab.open(), lab.open()
    both = [getattr(made, "inner", made) for made in (store, fresh)]
    key = lab.key()
    token = claimed(store.claim(key)).token
    server.members["main"].pause()
    try:
        for made in both:
            made.timeout = 0.3
        for call in (
            partial(store.claim, lab.key()),
            partial(store.complete, key, token, b"r"),
            store.ping,
            fresh.ping,
        ):
            with within(0.3):
                error = raises(StoreTimeout, call)
            assert error.retryable
        with within(0.3):
            assert [type(item) for item in store.claim_many([lab.key(), lab.key()])] == [StoreTimeout] * 2
    finally:
        server.members["main"].resume()
    for made in both:
        made.timeout = 30
    assert store.complete(key, token, b"r") == Done()
    assert fresh.claim(key) == Completed(b"r")


def test_a_full_pool_is_waited_for_in_time(lab, proxy):
    """Every connection in use: a further call waits for one, and times out in time, saying why."""
    store = through(proxy, lab, "timeout=30&max_connections=2")
    settings = getattr(store, "inner", store)
    proxy.stall()
    busy = [lab.background(partial(store.claim, lab.key())) for _ in range(2)]
    while proxy.connections < 2:
        time.sleep(0.01)
    settings.timeout = 0.3
    with within(0.3):
        error = raises(StoreTimeout, store.ping)
    assert "max_connections" in str(error)
    settings.timeout = 30
    proxy.resume()
    assert all(isinstance(call.result(), Claimed) for call in busy)
    with ThreadPoolExecutor(20) as threads:
        outcomes = list(threads.map(lambda _: store.claim(lab.key()), range(100)))
    assert all(isinstance(outcome, Claimed) for outcome in outcomes)
    assert proxy.connections <= 2


def test_a_store_that_is_closed_under_its_callers_keeps_no_connection(lab, proxy):
    """Calls that still wait for a connection when the store is closed get their answer; nothing stays open after it."""
    store = through(proxy, lab, "timeout=5&max_connections=1")
    store.ping()
    proxy.stall()
    calls = [lab.background(partial(store.claim, lab.key())) for _ in range(3)]
    time.sleep(0.2)  # nothing tells that a call waits for a connection
    store.close()
    proxy.resume()
    for call in calls:
        claimed(call.result())
    deadline = time.monotonic() + 5
    while proxy.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert proxy.connections == 0


def test_calls_of_a_closed_store_keep_their_time(lab, proxy):
    """A store that is closed under its callers while the server is silent: each of them gets an answer in time."""
    store = through(proxy, lab, "timeout=0.6&max_connections=2")
    store.ping()
    proxy.stall()
    with within(0.6):
        calls = [lab.background(partial(store.claim, lab.key())) for _ in range(3)]
        time.sleep(0.2)  # nothing tells that a call is on its way, or waits for a connection
        store.close()
        for call in calls:
            raises(StoreTimeout, call.result)


def test_a_late_reply_goes_to_nobody(lab, proxy):
    """A call that timed out leaves a reply on the wire; no later call of any thread gets it."""
    keys = [lab.key() for _ in range(8)]
    for key in keys:
        done(lab.store.complete(key, claimed(lab.store.claim(key)).token, key.encode()))
    store = through(proxy, lab, "timeout=0.2&max_connections=4")
    patiently(store, keys[0])
    for _ in range(3):
        proxy.stall()
        with ThreadPoolExecutor(4) as threads:
            late = [threads.submit(store.claim, key) for key in keys[:4]]
            for call in late:
                with pytest.raises(StoreTimeout):
                    call.result()
        proxy.resume()
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(partial(patiently, store), keys)) == [Completed(key.encode()) for key in keys]


def patiently(store, key):
    """A replay from a store with a short time-out on a slow machine."""
    for _ in range(50):
        try:
            return store.claim(key)
        except StoreTimeout:
            continue
    raise AssertionError("no answer")


def test_a_cancelled_call_leaves_no_reply_to_others(subject, proxy):
    """asyncio: a task cancelled between its command and the reply takes its connection with it."""

    async def main():
        url = f"redis://127.0.0.1:{proxy.port}/0?prefix={subject.prefix}&max_connections=1"
        async with idemstore.open_async(url) as store:
            token = claimed(await store.claim("cancelled-a")).token
            assert await store.complete("cancelled-a", token, b"a") == Done()
            for call in (store.claim, lambda key: store.claim_many([key] * 5), store.get) * 2:
                proxy.stall()
                task = asyncio.create_task(call("cancelled-a"))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                proxy.resume()
                other = claimed(await store.claim("cancelled-b"))
                assert isinstance(await store.claim("cancelled-b"), InFlight)
                assert await store.release("cancelled-b", other.token) == Done()

    asyncio.run(main())


def test_cancelled_waiters_leave_the_pool_whole(subject, proxy):
    """asyncio: tasks that are cancelled while they wait for a connection, or make one (SELECT), take no place along."""

    async def main():
        url = f"redis://127.0.0.1:{proxy.port}/1?prefix={subject.prefix}&max_connections=2&timeout=5"
        async with idemstore.open_async(url) as store:
            for _ in range(5):
                proxy.stall()
                tasks = [asyncio.create_task(store.claim(f"pool-{number}")) for number in range(10)]
                await asyncio.sleep(0.02)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                proxy.resume()
            answers = await asyncio.gather(*(store.claim(f"pool-{number}") for number in range(50)))
            assert len(answers) == 50
            for number in range(50):
                assert await store.forget(f"pool-{number}")

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["main", "tls"])
def test_closing_needs_nothing_from_the_server(subject, server, kind):
    """asyncio: connections that are idle, that hold unsent bytes and that never came about, are closed while the server
    is silent (TLS would wait for its farewell), before their event loop ends.
    """
    base = f"{server.url}?" if kind == "main" else f"{server.endpoints['tls']}&"
    port = re.search(r":(\d+)/", base)[1]

    async def main(proxy):
        url = base.replace(port, str(proxy.port), 1) + f"prefix={subject.prefix}&max_connections=3"
        async with idemstore.open_async(url) as store:
            assert len(await asyncio.gather(*(store.forget(f"idle-{number}") for number in range(2)))) == 2
            proxy.stall()
            store.timeout = 0.2
            with pytest.raises(StoreTimeout):
                await store.complete("idle-0", "token", bytes(2**24))
            await asyncio.gather(*(store.claim("busy") for _ in range(3)), return_exceptions=True)

    with warnings.catch_warnings(record=True) as seen, Proxy("127.0.0.1", int(port)) as proxy:
        warnings.simplefilter("always")
        asyncio.run(main(proxy))
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


# -- broken connections, lost replies ---------------------------------------------------------------------------------


def test_lost_replies(lab, proxy):
    """The reply is lost after the server applied the call: it is sent again, and the caller gets its own answer."""
    store = through(proxy, lab)
    key, other = lab.key(), lab.key()
    store.ping()
    assert lost(proxy, partial(store.claim, key, token="mine", lease=60)) == Claimed("mine", fence(lab, key), 1)
    assert lost(proxy, partial(store.renew, key, "mine", checkpoint=b"c")) == Done()
    assert lost(proxy, partial(store.fail, key, "mine", b"f", retry_after=0)) == Done()
    again = lost(proxy, partial(store.claim, key, token="next"))
    assert (again.attempt, again.checkpoint) == (2, b"c")
    assert lost(proxy, partial(store.complete, key, "next", b"r")) == Done()
    assert lost(proxy, partial(store.claim, key)) == Completed(b"r")
    assert lost(proxy, partial(store.release, other, claimed(store.claim(other)).token)) == Done()
    assert not lab.exists(other)


def fence(lab, key):
    """The fence that is stored."""
    return lab.store.get(key).record.fence


def lost(proxy, call):
    """A call whose first reply is lost."""
    dropped = proxy.drop_reply(b"EVALSHA")
    answer = call()
    assert dropped.is_set()
    return answer


def test_lost_replies_of_a_batch(lab, proxy):
    """The replies of a whole batch are lost: it is sent again, and every item is claimed and completed once."""
    store = through(proxy, lab)
    keys = [lab.key() for _ in range(20)]
    store.ping()
    claims = lost(proxy, partial(store.claim_many, keys))
    assert [claimed(claim).attempt for claim in claims] == [1] * 20
    items = [(key, claim.token, b"r") for key, claim in zip(keys, claims, strict=True)]
    assert lost(proxy, partial(store.complete_many, items)) == [Done()] * 20


def test_stale_connections(lab, proxy):
    """Connections that the server has closed meanwhile cost an attempt, never an error."""
    store = through(proxy, lab, "timeout=5&max_connections=8")
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert all(
                isinstance(answer, Claimed) for answer in threads.map(store.claim, [lab.key() for _ in range(40)])
            )
            proxy.cut()
    assert isinstance(store.claim(lab.key()), Claimed)
    proxy.cut()
    assert all(isinstance(answer, Claimed) for answer in store.claim_many([lab.key(), lab.key()]))


def test_down_and_up_again(lab, proxy):
    """A server that goes away and comes back: errors meanwhile, then the same store works on."""
    store = through(proxy, lab, "timeout=20")
    key = lab.key()
    token = claimed(store.claim(key)).token
    proxy.cut(refuse=True)
    with within(1):
        raises(StoreUnavailable, partial(store.complete, key, token, b"r"))
    proxy.accept()
    assert store.complete(key, token, b"r") == Done()


def test_failed_connections_take_no_place(lab, proxy):
    """Connections that could not be made (they fail at SELECT) leave the pool as it was."""
    store = lab.open(f"redis://127.0.0.1:{proxy.port}/1?timeout=2&max_connections=1&prefix={lab.subject.prefix}")
    proxy.cut(refuse=True)
    for _ in range(3):
        raises(StoreUnavailable, store.ping)
        raises(StoreUnavailable, partial(claim_first, store))
    proxy.accept()
    key = lab.key()
    assert isinstance(store.claim(key), Claimed)
    assert store.forget(key)


def claim_first(store):
    """The only item of a batch, whose error is raised."""
    (answer,) = store.claim_many(["k"])
    if isinstance(answer, IdemstoreError):
        raise answer


def test_killed_clients(lab, subject):
    """CLIENT KILL, as a server does that changes its role."""
    store = lab.open(subject.url)
    for _ in range(3):
        store.ping()
        subject.client.client_kill_filter(_type="normal", skipme=True)
        assert isinstance(store.claim(lab.key()), Claimed)


# -- a server that will not -------------------------------------------------------------------------------------------


def test_full(lab, subject):
    """No memory left: StoreFull for what needs some, nothing stored; replays, busy answers and looks go on."""
    busy, finished, new = lab.key(), lab.key(), lab.key()
    token = claimed(lab.store.claim(busy)).token
    done(lab.store.complete(finished, claimed(lab.store.claim(finished)).token, b"r"))
    with configured(subject, maxmemory="1"):
        error = raises(StoreFull, partial(lab.store.claim, new))
        assert "maxmemory" in str(error)
        raises(StoreFull, partial(lab.store.complete, busy, token, b"r"))
        assert [type(item) for item in lab.store.claim_many([new, finished])] == [StoreFull, Completed]
        assert isinstance(lab.store.claim(busy), InFlight)
        assert lab.store.claim(finished) == Completed(b"r")
        assert lab.store.get(busy).record.token == token
        assert not subject.exists(new)
    done(lab.store.complete(busy, token, b"r"))


def test_read_only_replica(lab, subject):
    """A replica takes no writes: StoreUnavailable soon; what needs none is still answered."""
    key = lab.key()
    done(lab.store.complete(key, claimed(lab.store.claim(key)).token, b"r"))
    subject.client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    try:
        with within(0.5):
            error = raises(StoreUnavailable, partial(lab.store.claim, lab.key()))
        assert "replica" in str(error)
        assert lab.store.claim(key) == Completed(b"r")
        with configured(subject, replica_serve_stale_data="no"):
            raises(StoreUnavailable, partial(lab.store.claim, key))
    finally:
        subject.client.execute_command("REPLICAOF", "NO", "ONE")
    assert isinstance(lab.store.claim(lab.key()), Claimed)


def test_too_few_replicas(lab, subject):
    """min-replicas-to-write: StoreUnavailable, nothing stored."""
    key = lab.key()
    with configured(subject, min_replicas_to_write="1"):
        error = raises(StoreUnavailable, partial(lab.store.claim, key))
        assert "min-replicas" in str(error)
        assert not subject.exists(key)


WHERE = Address("h", 1)


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (
            redis_errors.ResponseError("Error running script (call to f_8): @user_script:9: @user_script: 9: -OOM x"),
            StoreFull,
            False,
        ),
        (
            redis_errors.ResponseError("Error running script (call to f_8): @user_script:9: -READONLY You"),
            StoreUnavailable,
            True,
        ),
        (redis_errors.ResponseError("The user executing the script can't run this"), AccessDenied, False),
        (redis_errors.ResponseError("BUSY Redis is busy running a script."), StoreUnavailable, True),
        (redis_errors.BusyLoadingError("Redis is loading"), StoreUnavailable, True),
        (redis_errors.ClusterDownError("The cluster is down"), StoreUnavailable, True),
        (redis_errors.MasterDownError("Link with MASTER is down"), StoreUnavailable, True),
        (redis_errors.TryAgainError("Multiple keys"), StoreUnavailable, True),
        (redis_errors.ReadOnlyError("You can't write"), StoreUnavailable, True),
        (redis_errors.NoPermissionError("no permissions to run"), AccessDenied, False),
        (redis_errors.AuthorizationError("x"), AccessDenied, False),
        (redis_errors.TimeoutError("x"), StoreTimeout, False),
        (TimeoutError(), StoreTimeout, False),
        (OSError(113, "No route to host"), StoreUnavailable, True),
        (redis_errors.InvalidResponse("x"), StoreMisbehaved, False),
        (ValueError("x"), StoreMisbehaved, False),
        (redis_errors.ResponseError("@user_script:5: attempt to call nil"), StoreMisbehaved, False),
        (redis_errors.ResponseError("MISCONF Redis is"), StoreUnavailable, False),
    ],
)
def test_translation(error, kind, again):
    """Every error of redis-py, also in the forms of Redis 6, becomes one of ours, and says whether to try again."""
    found = fault(error, WHERE)
    assert (type(found.error), found.again) == (kind, again)


# -- processes and loops ----------------------------------------------------------------------------------------------


def in_child(work):
    """Run something in a forked child; whether it raised nothing."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kind", ["main", "tls"])
def test_fork(server, subject, kind):
    """A child uses connections of its own and says nothing on the parent's, not even when it ends."""
    base = server.url + "?" if kind == "main" else server.endpoints["tls"] + "&"
    with idemstore.open(f"{base}prefix={subject.prefix}") as store:
        token = claimed(store.claim(f"fork-{kind}")).token
        mine = subject.client.client_list()

        def child():
            assert isinstance(store.claim(f"fork-{kind}"), InFlight | Completed)
            store.complete(f"fork-{kind}", token, b"child")
            store.close()

        for _ in range(3):
            assert in_child(child)
            assert store.claim(f"fork-{kind}") == Completed(b"child")
        known = {client["id"] for client in mine}
        assert known <= {client["id"] for client in subject.client.client_list()}, "the parent's connection was lost"
        assert store.forget(f"fork-{kind}")


def test_fork_in_a_loop(subject):
    """A child of an async program opens a loop and connections of its own; the parent's store works on."""

    async def main():
        async with idemstore.open_async(subject.url) as store:
            token = claimed(await store.claim("fork-async")).token

            async def child():
                assert isinstance(await store.claim("fork-async"), InFlight | Completed)
                await store.complete("fork-async", token, b"child")
                await store.close()

            for _ in range(3):
                assert in_child(lambda: asyncio.run(child()))
                assert await store.claim("fork-async") == Completed(b"child")
            assert await store.forget("fork-async")

    asyncio.run(main())


def test_another_loop_is_refused(subject):
    """A store that ran on one event loop says so on another."""
    store = idemstore.open_async(subject.url)

    async def first():
        await store.ping()

    async def second():
        with pytest.raises(WrongEventLoop):
            await store.ping()

    with asyncio.Runner() as one, asyncio.Runner() as two:
        one.run(first())
        two.run(second())
        one.run(store.close())
