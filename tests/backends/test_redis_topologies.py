"""Redis Cluster and Sentinel: redirections, resharding, nodes that die or freeze, failovers; replicas."""

import re
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import redis

from idemstore.backends.redis.routing import slot_of
from idemstore.errors import AccessDenied, ConfigurationError, StoreTimeout, StoreUnavailable
from idemstore.outcomes import Claimed, Completed, Done, InFlight
from idemstore.testing.contract_lab import MODES, Lab, claimed, done, raises
from idemstore.testing.families.redis import RedisSubject
from idemstore.testing.servers import ServerUnavailable, start
from idemstore.testing.servers.process import free_port
from idemstore.testing.servers.waiting import NotReady
from idemstore.testing.servers.waiting import until as settle

SLACK = 4.0
"""Seconds that a machine may add to a time-out that stands still for a while; less than a store's usual time-out is."""


@pytest.fixture(params=MODES)
def mode(request):
    """Both modes."""
    return request.param


def timed(call):
    """What a call takes (seconds), and what it answers."""
    begin = time.monotonic()
    answer = call()
    return time.monotonic() - begin, answer


# -- Cluster ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(server_pool):
    """Three masters that share the slots."""
    return server_pool.get("redis-cluster")


@pytest.fixture(scope="module")
def cluster_subject(cluster):
    """A prefix on them."""
    made = RedisSubject("redis-cluster", cluster.url)
    yield made
    made.close()


@pytest.fixture
def lab(cluster_subject, mode):
    """A store on the cluster."""
    with Lab(cluster_subject, mode) as made:
        yield made


def node(cluster, number):
    """A client of one node."""
    return redis.Redis.from_url(cluster.endpoints[f"node-{number}"])


def key_on(lab, number, nodes=3):
    """A key whose slot one node serves (as the harness deals them out)."""
    while True:
        key = lab.key()
        if slot_of(lab.subject.stored(key)) * nodes // 16384 == number - 1:
            return key


def key_to_move(lab, cluster):
    """A key on the first node, alone in its slot: a node keeps a slot that has keys (of other tests)."""
    while True:
        key = key_on(lab, 1)
        if node(cluster, 1).cluster("COUNTKEYSINSLOT", slot_of(lab.subject.stored(key))) == 0:
            return key


def test_keys_are_spread(lab, cluster):
    """Keys lie on all nodes, each on that of its slot; a batch asks every node once."""
    keys = [lab.key() for _ in range(60)]
    lab.store.claim_many(keys)
    nodes = [node(cluster, number) for number in (1, 2, 3)]
    assert all(any(one.keys(lab.subject.prefix + key) for key in keys) for one in nodes)
    assert all(isinstance(answer, InFlight) for answer in lab.store.claim_many(keys))


def test_every_seed_may_be_dead_but_one(lab, cluster):
    """The URL may name nodes that are gone."""
    alive = cluster.endpoints["node-2"].partition("//")[2]
    store = lab.open(f"redis+cluster://127.0.0.1:{free_port()},{alive},127.0.0.1:{free_port()}?prefix=x:")
    key = lab.key()
    assert isinstance(store.claim(key), Claimed)
    assert store.forget(key)


def test_all_seeds_dead(lab):
    """Nobody there: StoreUnavailable within the time-out."""
    store = lab.open(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}?timeout=2")
    seconds, error = timed(partial(raises, StoreUnavailable, partial(store.claim, "k")))
    assert seconds < 2 + SLACK
    assert not isinstance(error, StoreTimeout)


def test_wrong_scheme(lab, cluster, server_pool):
    """A cluster behind redis://, a lone server behind redis+cluster://: the error says which scheme to use."""
    lone = lab.open(f"{cluster.endpoints['node-1']}?prefix={lab.subject.prefix}")
    error = raises(ConfigurationError, partial(lone.claim, key_on(lab, 3)))
    assert "redis+cluster://" in str(error)
    address = server_pool.get("redis").url.partition("//")[2].partition("/")[0]
    error = raises(ConfigurationError, lab.open(f"redis+cluster://{address}").ping)
    assert "redis://" in str(error)


def open_move(slot, source, target):
    """Begin to move a slot."""
    target.cluster("SETSLOT", slot, "IMPORTING", source.cluster("MYID"))
    source.cluster("SETSLOT", slot, "MIGRATING", target.cluster("MYID"))


def hand_over(slot, source, target, other):
    """Give a slot without keys to another node. Importing it first raises the epoch, or gossip could undo it."""
    target.cluster("SETSLOT", slot, "IMPORTING", source.cluster("MYID"))
    settle(partial(agree, slot, target, (target, source, other)))


def agree(slot, owner, nodes):
    """Tell every node who serves a slot, and raise unless all know it: gossip that was under way can undo the first."""
    for client in nodes:
        if not serves(client, slot, owner):
            client.cluster("SETSLOT", slot, "NODE", owner.cluster("MYID"))
    time.sleep(0.2)  # longer than gossip is under way between three nodes
    if not all(serves(client, slot, owner) for client in nodes):
        raise NotReady(f"the nodes disagree about the slot {slot}")


def serves(client, slot, owner):
    """Whether a node believes that a slot is the owner's."""
    ranges = client.cluster("SLOTS")
    return any(first <= slot <= last and node[2] == owner.cluster("MYID") for first, last, node, *_ in ranges)


def test_a_moved_slot_is_followed(lab, cluster):
    """MOVED: the slot has another owner now."""
    key = key_to_move(lab, cluster)
    slot = slot_of(lab.subject.stored(key))
    lab.store.ping()
    assert lab.store.get(key) is None
    one, two, three = (node(cluster, number) for number in (1, 2, 3))
    try:
        hand_over(slot, one, two, three)
        token = claimed(lab.store.claim(key)).token
        assert [type(answer) for answer in lab.store.claim_many([key, key_on(lab, 3)])] == [InFlight, Claimed]
        done(lab.store.complete(key, token, b"r"))
        assert two.exists(lab.subject.stored(key))
        assert lab.store.forget(key)
    finally:
        hand_over(slot, two, one, three)


def test_nodes_that_disagree(lab, cluster):
    """Each of two nodes says that the other serves a slot: unavailable in time, as an error that may pass, then all is
    well; the other keys of a batch are served.
    """
    key, other = key_to_move(lab, cluster), key_on(lab, 3)
    slot = slot_of(lab.subject.stored(key))
    one, two, three = (node(cluster, number) for number in (1, 2, 3))
    store = lab.open(f"{lab.subject.url}&timeout=2")
    try:
        one.cluster("SETSLOT", slot, "NODE", two.cluster("MYID"))
        seconds, error = timed(partial(raises, StoreUnavailable, partial(store.claim, key)))
        assert seconds < 2 + SLACK
        assert error.retryable
        assert "another node serves the key" in str(error)
        answers = store.claim_many([key, other])
        assert [type(answer) for answer in answers] == [StoreUnavailable, Claimed]
    finally:
        hand_over(slot, two, one, three)
    assert isinstance(store.claim(key), Claimed)


def test_a_slot_on_its_way_is_followed(lab, cluster):
    """ASK: a key that has moved already is found on the node that imports the slot, which knows no scripts yet."""
    moved = key_to_move(lab, cluster)
    slot = slot_of(lab.subject.stored(moved))
    one, two, three = (node(cluster, number) for number in (1, 2, 3))
    first = claimed(lab.store.claim(moved))
    port = two.connection_pool.connection_kwargs["port"]
    try:
        open_move(slot, one, two)
        one.migrate("127.0.0.1", port, [lab.subject.stored(moved)], 0, 5000)
        two.script_flush()
        assert isinstance(lab.store.claim(moved), InFlight)
        assert [type(answer) for answer in lab.store.claim_many([moved, key_on(lab, 3), moved])] == [
            InFlight,
            Claimed,
            InFlight,
        ]
        done(lab.store.complete(moved, first.token, b"r"))
        hand_over(slot, one, two, three)
        assert lab.store.claim(moved) == Completed(b"r")
        assert lab.store.forget(moved)
    finally:
        hand_over(slot, two, one, three)


def test_a_frozen_node(lab, cluster):
    """Its keys time out in time; the keys of the other nodes are served meanwhile; then all is well again."""
    store = lab.open(f"{lab.subject.url}&timeout=1.5")
    mine, other = key_on(lab, 2), key_on(lab, 3)
    token = claimed(store.claim(mine)).token
    cluster.members["node-2"].pause()
    try:
        seconds, _ = timed(partial(raises, StoreTimeout, partial(store.complete, mine, token, b"r")))
        assert seconds < 1.5 + SLACK
        assert isinstance(store.claim(other), Claimed)
        answers = store.claim_many([key_on(lab, 2), key_on(lab, 3)])
        assert [type(answer) for answer in answers] == [StoreTimeout, Claimed]
    finally:
        cluster.members["node-2"].resume()
    store = lab.open(f"{lab.subject.url}&timeout=10")
    assert store.complete(mine, token, b"r") == Done()


def test_a_dead_node(lab, cluster):
    """Its keys, and soon the whole cluster, are unavailable, said within the time-out; back, it knows no scripts."""
    store = lab.open(f"{lab.subject.url}&timeout=1")
    mine = key_on(lab, 3)
    claimed(store.claim(mine))
    cluster.members["node-3"].kill()
    try:
        seconds, error = timed(partial(raises, StoreUnavailable, partial(store.claim, mine)))
        assert seconds < 1 + SLACK
        assert error.retryable
    finally:
        cluster.members["node-3"].restart()
    store = lab.open(f"{lab.subject.url}&timeout=20")
    assert isinstance(store.claim(mine), Claimed | InFlight)
    cluster.settled()


def rules(subject, *more):
    """The permissions of the documentation."""
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    found = re.search(r"^ACL SETUSER \S+ (.*)$", page, re.MULTILINE)
    assert found is not None
    return [*found[1].replace(">PASSWORD", ">s3cret").replace("idem:", subject.prefix).split(), *more]


def test_documented_permissions_in_a_cluster(lab, cluster):
    """The line of the documentation, with what it says of a Cluster."""
    nodes = [node(cluster, number) for number in (1, 2, 3)]
    user = f"user-{lab.key()}"
    try:
        for one in nodes:
            one.execute_command("ACL", "SETUSER", user, *rules(lab.subject, "+cluster|slots", "+asking"))
        store = lab.open(lab.subject.url.replace("://", f"://{user}:s3cret@"))
        keys = [lab.key() for _ in range(30)]
        assert all(isinstance(answer, Claimed) for answer in store.claim_many(keys))
    finally:
        for one in nodes:
            one.execute_command("ACL", "DELUSER", user)


# -- Sentinel ---------------------------------------------------------------------------------------------------------


def test_unknown_service(server_pool, mode):
    """Sentinels that watch something else: the error names the option."""
    url = server_pool.get("redis-sentinel").url.replace("mymaster", "other")
    with Lab(RedisSubject("redis-sentinel", server_pool.get("redis-sentinel").url), mode) as lab:
        error = raises(ConfigurationError, lab.open(url).ping)
        assert "service" in str(error)
        lab.subject.close()


def test_sentinels_may_be_dead_but_one(server_pool, mode):
    """One sentinel that answers is enough; none is StoreUnavailable in time."""
    server = server_pool.get("redis-sentinel")
    subject = RedisSubject("redis-sentinel", server.url)
    alive = server.endpoints["sentinel-2"].partition("//")[2]
    dead = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with Lab(subject, mode) as lab:
        store = lab.open(f"redis+sentinel://{dead},{alive}/0?service=mymaster&prefix={subject.prefix}")
        assert isinstance(store.claim(lab.key()), Claimed)
        store = lab.open(f"redis+sentinel://{dead}/0?service=mymaster&timeout=1")
        seconds, error = timed(partial(raises, StoreUnavailable, store.ping))
        assert seconds < 1 + SLACK
        assert "sentinel" in str(error) or "reached" in str(error)
    subject.close()


@pytest.fixture
def sentinel():
    """A master, its replica and three sentinels, for one test alone: it leaves them changed."""
    try:
        server = start("redis-sentinel")
    except ServerUnavailable as error:
        pytest.skip(str(error))
    with server:
        yield server


def both(server):
    """A lab in each mode."""
    stack = ExitStack()
    return stack, [stack.enter_context(Lab(RedisSubject("redis-sentinel", server.url), mode)) for mode in MODES]


def test_failover_after_a_death(sentinel):
    """The master is killed: a call goes on until the replica has taken over; what was replicated is there."""
    stack, labs = both(sentinel)
    with stack:
        stores = [lab.open(f"{lab.subject.url}&timeout=30&replicas=1") for lab in labs]
        keys = [lab.key() for lab in labs]
        tokens = [claimed(store.claim(key)).token for store, key in zip(stores, keys, strict=True)]
        sentinel.members["master"].kill()
        stores = [lab.open(f"{lab.subject.url}&timeout=30") for lab in labs]
        calls = [
            lab.background(partial(store.complete, key, token, b"r"))
            for lab, store, key, token in zip(labs, stores, keys, tokens, strict=True)
        ]
        assert [call.result() for call in calls] == [Done(), Done()]
        for store, key in zip(stores, keys, strict=True):
            assert store.claim(key) == Completed(b"r")


def test_failover_after_a_freeze(sentinel):
    """The master hangs: calls time out, then reach its successor; when it comes back, nobody writes to it."""
    stack, labs = both(sentinel)
    with stack:
        stores = [lab.open(f"{lab.subject.url}&timeout=0.5") for lab in labs]
        keys = [lab.key() for lab in labs]
        for store, key in zip(stores, keys, strict=True):
            claimed(store.claim(key))
        sentinel.members["master"].pause()
        for lab, store in zip(labs, stores, strict=True):
            assert isinstance(until_served(store, lab), Claimed)
        sentinel.members["master"].resume()
        for lab, store in zip(labs, stores, strict=True):
            for _ in range(20):
                key = lab.key()
                token = claimed(until(partial(store.claim, key, token="t"))).token
                assert until(partial(store.complete, key, token, b"r")) == Done()
                assert until(partial(store.claim, key)) == Completed(b"r")


def until(call):
    """A call, repeated until it is served: a failover takes seconds."""
    deadline = time.monotonic() + 40
    while True:
        try:
            return call()
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def until_served(store, lab):
    """A new claim, once somebody serves it."""
    key = lab.key()
    return until(partial(store.claim, key, token="t"))


# -- waiting for replicas ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replicated(server_pool):
    """A master with one replica."""
    return server_pool.get("redis-sentinel")


def test_waits_for_replicas(replicated, mode):
    """Every write is on the replica when the call returns."""
    subject = RedisSubject("redis-sentinel", replicated.url)
    replica = redis.Redis.from_url(replicated.endpoints["replica"])
    with Lab(subject, mode) as lab:
        store = lab.open(f"{subject.url}&replicas=1")
        for _ in range(20):
            key = lab.key()
            token = claimed(store.claim(key)).token
            assert replica.hget(subject.stored(key), "token") == token.encode()
            done(store.complete(key, token, b"r"))
            assert replica.hget(subject.stored(key), "result") == b"r"
        keys = [lab.key() for _ in range(20)]
        store.claim_many(keys)
        assert all(replica.exists(subject.stored(key)) for key in keys)
    replica.close()
    subject.close()


def test_documented_permissions_behind_sentinels(replicated, mode):
    """The line of the documentation, with what it says of Sentinel and of waiting; and the sentinels' own user."""
    subject, user = RedisSubject("redis-sentinel", replicated.url), f"user-{mode}"
    master = subject.client
    sentinels = [redis.Redis.from_url(replicated.endpoints[f"sentinel-{number}"]) for number in (1, 2, 3)]
    try:
        master.execute_command("ACL", "SETUSER", user, *rules(subject, "+role", "+wait", "+select"))
        for one in sentinels:
            one.execute_command("ACL", "SETUSER", user, "on", ">own", "-@all", "+sentinel")
        with Lab(subject, mode) as lab:
            url = subject.url.replace("://", f"://{user}:s3cret@").replace("/0?", "/1?")
            url += f"&replicas=1&sentinel_username={user}&sentinel_password=own"
            key = lab.key()
            store = lab.open(url)
            done(store.complete(key, claimed(store.claim(key)).token, b"r"))
            assert store.forget(key)
    finally:
        for one in (master, *sentinels):
            one.execute_command("ACL", "DELUSER", user)
    subject.close()


def test_too_few_confirm(replicated, mode):
    """A replica that hangs: StoreUnavailable in time, for the write and its repetition; replays do not wait."""
    subject = RedisSubject("redis-sentinel", replicated.url)
    with Lab(subject, mode) as lab:
        store = lab.open(f"{subject.url}&replicas=1&timeout=1")
        key, finished = lab.key(), lab.key()
        token = claimed(store.claim(key)).token
        done(store.complete(finished, claimed(store.claim(finished)).token, b"r"))
        replicated.members["replica"].pause()
        try:
            for _ in range(2):
                seconds, error = timed(partial(raises, StoreUnavailable, partial(store.complete, key, token, b"r")))
                assert "0 of 1 replicas" in str(error)
                assert seconds < 1 + SLACK
            patient = lab.open(f"{subject.url}&replicas=1&timeout=30")
            seconds, _ = timed(lambda: patient.claim(finished))
            assert seconds < 10
            assert store.claim(key) == Completed(b"r"), "stored it is, but only on the master"
            answers = store.claim_many([finished, lab.key()])
            assert [type(answer) for answer in answers] == [Completed, StoreUnavailable]
        finally:
            replicated.members["replica"].resume()
        store = lab.open(f"{subject.url}&replicas=1&timeout=10")
        assert store.complete(key, token, b"r") == Done()
        two = lab.open(f"{subject.url}&replicas=2&timeout=0.5")
        error = raises(StoreUnavailable, partial(two.claim, lab.key()))
        assert "1 of 2 replicas" in str(error)
        assert two.claim(finished) == Completed(b"r")
    subject.close()


def test_sentinel_password(server_pool, mode):
    """Sentinels may ask for a password of their own."""
    server = server_pool.get("redis-sentinel")
    address = server.endpoints["sentinel-1"].partition("//")[2]
    admin = redis.Redis.from_url(server.endpoints["sentinel-1"])
    url = f"redis+sentinel://{address}/0?service=mymaster"
    admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">s3cret")
    try:
        with Lab(RedisSubject("redis-sentinel", server.url), mode) as lab:
            assert lab.open(f"{url}&sentinel_password=s3cret").ping() > 0
            raises(AccessDenied, lab.open(url).ping)
            error = raises(AccessDenied, lab.open(f"{url}&sentinel_password=wr0ng").ping)
            assert "wr0ng" not in str(error)
            lab.subject.close()
    finally:
        admin.execute_command("AUTH", "s3cret")
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", "nopass")
        admin.close()


@pytest.fixture(params=["redis", "valkey", "redis8"])
def pair(request, server_pool):
    """A master and a replica of it, of each kind of server."""
    server = server_pool.get(request.param)
    subject = RedisSubject(request.param, server.url)
    subject.client.config_set("repl-diskless-sync-delay", "0")
    port = subject.client.connection_pool.connection_kwargs["port"]
    with start(request.param, settings={"replicaof": f"127.0.0.1 {port}"}) as replica:
        members = len(replica.members)
        subject.client.set(subject.stored("probe"), "x")
        assert subject.client.wait(members, 20_000) == members
        yield subject, replica
    subject.close()


def test_a_repeated_write_waits_again(pair, mode):
    """A write that was not confirmed is not taken for confirmed when it is repeated, even over another connection,
    which has written nothing itself: what it finds, it writes once more, and waits.
    """
    subject, replica = pair
    with Lab(subject, mode) as lab:
        url, patient = (f"{subject.url}&replicas=1&timeout={seconds}" for seconds in (0.6, 20))
        claim, complete, fail = (lab.key() for _ in range(3))
        for key in (complete, fail):
            claimed(lab.open(patient).claim(key, token="mine"))
        replica.pause()
        try:
            for _ in range(2):
                raises(StoreUnavailable, partial(lab.open(url).claim, claim, token="mine"))
                raises(StoreUnavailable, partial(lab.open(url).complete, complete, "mine", b"r"))
                raises(StoreUnavailable, partial(lab.open(url).fail, fail, "mine", b"r"))
            assert lab.open(url).claim(complete) == Completed(b"r")
        finally:
            replica.resume()
        assert isinstance(lab.open(patient).claim(claim, token="mine"), Claimed)
        assert lab.open(patient).complete(complete, "mine", b"r") == Done()
        assert lab.open(patient).fail(fail, "mine", b"r") == Done()
