"""Redis wakes waiters: by pub/sub, on one connection of a store, and whatever gets lost there costs only time."""

import os
import threading
import time
from functools import partial

import pytest

import idemstore
from idemstore.backends.redis import channels
from idemstore.backends.redis.channels import Channels, Frames, Refused
from idemstore.outcomes import Claimed, Completed, Failed
from idemstore.testing.contract_lab import MODES, Lab, claimed, done
from idemstore.testing.families.redis import RedisSubject
from idemstore.testing.proxy import Proxy

PATIENCE = 60.0
SOON = 15.0
"""Seconds: far less than a waiter waits that nobody wakes here, far more than waking takes."""


@pytest.fixture(params=["redis", "valkey", "redis8"], scope="module")
def subject(request, server_pool):
    """A prefix on each kind of server."""
    made = RedisSubject(request.param, server_pool.get(request.param).url)
    yield made
    made.close()


@pytest.fixture(params=MODES)
def lab(request, subject):
    """A store in each mode."""
    with Lab(subject, request.param, PATIENCE) as made:
        yield made


@pytest.fixture
def deaf(monkeypatch):
    """Waiters that are woken, or wait in vain: nobody looks for itself on a confirmed channel."""
    monkeypatch.setattr(channels, "UNHEARD", 1000.0)


def until(holds, what):
    """Wait for something that happens by itself."""
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


def listened(subject, key):
    """Whether somebody listens for a key, as the server sees it."""
    ((_, count),) = subject.client.pubsub_numsub(subject.stored(key))
    return count > 0


def waiting(lab, store, key):
    """A waiter whom the server will tell."""
    later = lab.background(lambda: store.claim(key, lease=600, wait=lab.patience))
    until(lambda: listened(lab.subject, key), "listening")
    return later


ENDS = {
    "complete": (lambda store, key, token: store.complete(key, token, b"r"), Completed(b"r")),
    "fail": (lambda store, key, token: store.fail(key, token, b"no"), Failed(b"no")),
    "fail and retry": (lambda store, key, token: store.fail(key, token, b"no", retry_after=0), Claimed),
    "release": (lambda store, key, token: store.release(key, token), Claimed),
}


@pytest.mark.parametrize("name", ENDS)
def test_whatever_ends_a_claim_wakes(deaf, lab, name):
    """The waiter hears of it from the server, well before it would look."""
    end, expected = ENDS[name]
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=600)).token
    later = waiting(lab, lab.open(), key)
    ended = time.monotonic()
    done(end(lab.store, key, token))
    outcome = later.result()
    assert lab.prompt(ended), "nobody woke the waiter: it gave up waiting"
    assert outcome == expected if not isinstance(expected, type) else isinstance(outcome, expected)


def test_many_waiters_cost_one_connection(deaf, lab):
    """Fifty waiters of one store, on ten keys: one subscriber, and none when they are gone."""
    keys = [lab.key() for _ in range(10)]
    tokens = {key: claimed(lab.store.claim(key, lease=600)).token for key in keys}
    store = lab.open()
    laters = [lab.background(partial(store.claim, key, lease=600, wait=PATIENCE)) for key in keys * 5]
    until(lambda: all(listened(lab.subject, key) for key in keys), "listening")
    assert [count for _, count in lab.subject.client.pubsub_numsub(*map(lab.subject.stored, keys))] == [1] * 10
    ended = time.monotonic()
    for key in keys:
        done(lab.store.complete(key, tokens[key], b"r"))
    assert {later.result() for later in laters} == {Completed(b"r")}
    assert lab.prompt(ended)
    store.close()
    until(lambda: not any(listened(lab.subject, key) for key in keys), "going away")


def test_a_dead_listener_costs_time_only_and_comes_back(lab, subject):
    """The server throws the listener out: its waiters poll, get their results, and are woken again later."""
    first, second = lab.key(), lab.key()
    tokens = [claimed(lab.store.claim(key, lease=600)).token for key in (first, second)]
    store = lab.open()
    laters = [waiting(lab, store, key) for key in (first, second)]
    subject.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    done(lab.store.complete(first, tokens[0], b"1"))
    assert laters[0].result() == Completed(b"1")
    until(lambda: listened(subject, second), "listening again")
    done(lab.store.complete(second, tokens[1], b"2"))
    assert laters[1].result() == Completed(b"2")


def test_a_lost_notification_costs_time_only(lab, subject, monkeypatch):
    """A store that does not notify ends the claim: the waiter looks for itself soon."""
    monkeypatch.setattr(channels, "UNHEARD", 0.2)
    key = lab.key()
    silent = lab.open(f"{subject.url}&notify=0" if "?" in subject.url else f"{subject.url}?notify=0")
    token = claimed(silent.claim(key, lease=600)).token
    later = waiting(lab, lab.open(), key)
    done(silent.complete(key, token, b"r"))
    assert later.result() == Completed(b"r")


def test_a_listener_that_is_cut_off_connects_anew(mode_lab, subject):
    """The line to the server is cut under the listener: waiters poll meanwhile."""
    lab, proxy = mode_lab
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=600)).token
    store = lab.open(f"redis://127.0.0.1:{proxy.port}/0?prefix={subject.prefix}")
    later = waiting(lab, store, key)
    proxy.cut()
    until(lambda: listened(subject, key), "listening again")
    done(lab.store.complete(key, token, b"r"))
    assert later.result() == Completed(b"r")


@pytest.fixture
def mode_lab(lab, subject):
    """A lab, and a proxy in front of its server."""
    address = subject.client.connection_pool.connection_kwargs
    with Proxy(address["host"], address["port"]) as proxy:
        yield lab, proxy


def test_a_user_who_must_not_listen_polls(lab, subject):
    """Without the permissions for channels everything works, waiters poll."""
    key, user, admin = lab.key(), f"user-{lab.key()}", subject.client
    address = admin.connection_pool.connection_kwargs
    url = f"redis://{user}:secret@{address['host']}:{address['port']}/0?prefix={subject.prefix}"
    admin.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "resetchannels", "+@all")
    try:
        store = lab.open(url)
        token = claimed(store.claim(key, lease=600)).token
        later = lab.background(lambda: store.claim(key, wait=PATIENCE))
        done(store.complete(key, token, b"r"))
        assert later.result() == Completed(b"r")
        assert not listened(subject, key)
    finally:
        admin.execute_command("ACL", "DELUSER", user)


def test_notify_0_says_and_hears_nothing(lab, subject):
    """No channel is used at all."""
    key = lab.key()
    store = lab.open(f"{subject.url}{'&' if '?' in subject.url else '?'}notify=0")
    before = subject.client.info("commandstats")
    token = claimed(store.claim(key, lease=600)).token
    later = lab.background(lambda: store.claim(key, wait=PATIENCE))
    done(store.complete(key, token, b"r"))
    assert later.result() == Completed(b"r")
    after = subject.client.info("commandstats")
    for name in ("cmdstat_publish", "cmdstat_subscribe"):
        assert after.get(name, {}).get("calls") == before.get(name, {}).get("calls")


def test_the_listening_thread_goes_with_its_store(subject):
    """A store that is closed while somebody has waited leaves no thread behind."""
    with idemstore.open(subject.url) as owner, idemstore.open(subject.url) as store:
        key = f"thread-{os.urandom(4).hex()}"
        token = claimed(owner.claim(key, lease=600)).token
        got = []
        waiter = threading.Thread(target=lambda: got.append(store.claim(key, wait=PATIENCE)))
        waiter.start()
        until(lambda: listened(subject, key), "listening")
        owner.complete(key, token, b"r")
        waiter.join(SOON)
        assert got == [Completed(b"r")]
        assert any(thread.name == "idemstore-redis-listener" for thread in threading.enumerate())
    assert not any(thread.name == "idemstore-redis-listener" for thread in threading.enumerate())


# -- the parts --------------------------------------------------------------------------------------------------------

WIRE = b"*3\r\n$9\r\nsubscribe\r\n$3\r\na\r\n\r\n:1\r\n"
WIRE += b"*3\r\n$7\r\nmessage\r\n$3\r\na\r\n\r\n$0\r\n\r\n*2\r\n$-1\r\n$1\r\nx\r\n"
FRAMES = [[b"subscribe", b"a\r\n", 1], [b"message", b"a\r\n", b""], [None, b"x"]]


@pytest.mark.parametrize("size", range(1, len(WIRE) + 1))
def test_frames_arrive_in_any_pieces(size):
    """However the network cuts them."""
    reader, found = Frames(), []
    for start in range(0, len(WIRE), size):
        found += reader.feed(WIRE[start : start + size])
    assert found == FRAMES


def test_errors_and_nonsense_end_a_listener():
    """An error is a refusal; what is no frame is no Redis."""
    with pytest.raises(Refused, match="NOPERM"):
        Frames().feed(b"-NOPERM no channel\r\n")
    with pytest.raises(ConnectionError):
        Frames().feed(b"HTTP/1.1 400\r\n")


def test_channels_say_what_is_wanted_once():
    """Each channel is asked for once, given up once, and asked for anew after the connection was lost."""
    wanted, woken = Channels(), []
    wake = partial(woken.append, 1)
    assert wanted.add(b"a", wake)
    assert [command.split(b"\r\n")[2] for command in wanted.commands()] == [b"SUBSCRIBE"]
    assert not wanted.add(b"a", wake)
    assert wanted.commands() == []
    assert wanted.patience(b"a", 0.01) == 0.01
    wanted.took([b"subscribe", b"a", 1])
    assert wanted.patience(b"a", 0.01) > 1
    assert len(woken) == 2  # confirmed: both look once
    wanted.took([b"subscribe", b"a", 1])
    assert len(woken) == 2
    wanted.took([b"message", b"a", b""])
    assert len(woken) == 4
    wanted.lost()
    assert len(woken) == 6
    assert wanted.patience(b"a", 0.01) == 0.01
    assert wanted.commands() != []
    wanted.remove(b"a", wake)
    wanted.remove(b"a", wake)
    assert not wanted
    assert [command.split(b"\r\n")[2] for command in wanted.commands()] == [b"UNSUBSCRIBE"]
