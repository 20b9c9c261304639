"""PostgreSQL under many clients at once: one winner, no error, no deadlock, no round trip beyond one per call."""

import random
from functools import partial

import pytest

from idemstore.errors import IdemstoreError
from idemstore.machine import MICROSECONDS, Claim
from idemstore.outcomes import Claimed, Completed, Done, InFlight
from idemstore.testing.contract_lab import Lab, claimed, done, expect
from idemstore.testing.families.postgresql import DRIVERS, PostgresqlSubject, places
from idemstore.testing.proxy import Proxy
from idemstore.testing.servers.pgbouncer import find
from idemstore.testing.storm import together

CLIENTS = 64
LONG = 1000 * MICROSECONDS
TROUBLE = "SELECT deadlocks, conflicts FROM pg_stat_database WHERE datname = current_database()"


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
    """A store by that driver, with a connection for every client."""
    other, mode = subject.by(place[1])
    other.url += f"&pool={CLIENTS}&timeout=20"
    with Lab(other, mode) as made:
        yield made


def warm(lab, store):
    """Open every connection of the pool, and let each know the claim."""
    for turn in range(3):
        together(store, lab.key(f"warm-{turn}"), [[Claim(None, f"w{n}", LONG, LONG)] for n in range(CLIENTS)])


def test_hot_key(lab):
    """64 clients claim one key at once, new, lapsed and finished: one winner, no trouble on the server."""
    warm(lab, lab.store)
    trouble = lab.subject.execute(TROUBLE)
    for turn in range(4):
        key = lab.key()
        if turn % 2:
            claimed(lab.store.claim(key))
            lab.age(key, 100)
        history = together(lab.store, key, [[Claim(None, f"c{n}", LONG, LONG)] for n in range(CLIENTS)])
        winners = [operation.outcome for operation in history if isinstance(operation.outcome, Claimed)]
        assert len(winners) == 1
        assert winners[0].attempt == 1 + turn % 2
        assert sum(isinstance(operation.outcome, InFlight) for operation in history) == CLIENTS - 1
        done(lab.store.complete(key, winners[0].token, b"r"))
        history = together(lab.store, key, [[Claim(None, f"d{n}", LONG, LONG)] for n in range(CLIENTS)])
        assert {operation.outcome for operation in history} == {Completed(b"r")}
    assert lab.subject.execute(TROUBLE) == trouble


def test_hot_key_on_the_wire(lab):
    """The same through a counting proxy: exactly one round trip for each of the calls, whoever wins."""
    host, _, port = lab.subject._server.partition("@")[2].partition("/")[0].partition(":")
    with Proxy(host, int(port)) as proxy:
        store = lab.open(lab.subject.url.replace(f":{port}/", f":{proxy.port}/"))
        warm(lab, store)
        warm(lab, store)
        key, lapsed = lab.key(), lab.key()
        claimed(lab.store.claim(lapsed))
        lab.age(lapsed, 100)
        for hot in (key, lapsed):
            before, links = proxy.round_trips, proxy.connections
            history = together(store, hot, [[Claim(None, f"c{n}", LONG, LONG)] for n in range(links)])
            assert sum(isinstance(operation.outcome, Claimed) for operation in history) == 1
            assert proxy.connections == links
            assert proxy.round_trips - before == len(history)


def test_batches_in_opposite_orders(lab):
    """Batches with the same keys in any order, and takeovers among them, never wait for each other in a circle."""
    trouble = lab.subject.execute(TROUBLE)
    chance = random.Random(lab.subject.url)
    for _ in range(4):
        keys = [lab.key() for _ in range(60)]
        for key in keys[::3]:
            claimed(lab.store.claim(key))
            lab.age(key, 100)
        orders = [chance.sample(keys, len(keys)) for _ in range(8)]
        calls = [lab.background(partial(lab.store.claim_many, order)) for order in orders]
        answers = [dict(zip(order, call.result(), strict=True)) for order, call in zip(orders, calls, strict=True)]
        assert not any(isinstance(answer, IdemstoreError) for found in answers for answer in found.values())
        for key in keys:
            owners = [found[key] for found in answers if isinstance(found[key], Claimed)]
            assert len(owners) == 1, "each key has one owner"
        items = [(key, found[key].token, b"r") for found in answers for key in keys if isinstance(found[key], Claimed)]
        halves = [lab.background(partial(lab.store.complete_many, chance.sample(items, len(items)))) for _ in range(4)]
        assert all(answer == Done() for half in halves for answer in half.result())
    assert lab.subject.execute(TROUBLE) == trouble


def singles(store, keys, seed):
    """A client that claims keys one by one, and gives them back or fails them."""
    chance, owned = random.Random(seed), []
    for _ in range(30):
        key = chance.choice(keys)
        outcome = store.claim(key, lease=60)
        if isinstance(outcome, Claimed):
            owned.append((key, outcome.token))
        if owned and chance.random() < 0.6:
            settle = chance.choice([store.release, partial(store.fail, result=b"n", retry_after=0)])
            settle(*owned.pop())
    for key, token in owned:
        store.release(key, token)


def batches(store, keys, seed):
    """A client that claims them all at once, in any order, and purges."""
    chance = random.Random(seed)
    for _ in range(10):
        order = chance.sample(keys, len(keys))
        answers = store.claim_many(order)
        assert not [answer for answer in answers if isinstance(answer, IdemstoreError)]
        for key, answer in zip(order, answers, strict=True):
            if isinstance(answer, Claimed):
                store.release(key, answer.token)
        store.purge(10)


def test_batches_among_single_calls(lab):
    """Batches, single claims, completions, releases and purges on the same few keys: no error, no deadlock."""
    trouble = lab.subject.execute(TROUBLE)
    keys = [lab.key() for _ in range(6)]
    calls = [lab.background(partial(work, lab.store, keys, seed)) for seed in range(6) for work in (singles, batches)]
    for call in calls:
        call.result()
    assert lab.subject.execute(TROUBLE) == trouble


def test_small_pool_serves_many(lab):
    """64 clients over two connections: all are served, none is forgotten."""
    store = lab.open(lab.subject.url.replace(f"pool={CLIENTS}", "pool=2"))
    key = lab.key()
    history = together(store, key, [[Claim(None, f"c{n}", LONG, LONG)] for n in range(CLIENTS)])
    assert sum(isinstance(operation.outcome, Claimed) for operation in history) == 1
    assert len(history) == CLIENTS


def test_storm_through_pgbouncer(server_pool):
    """64 clients through PgBouncer's 20 server connections, by each driver: one winner, no error."""
    assert find()
    made = PostgresqlSubject("pgbouncer", server_pool.get("pgbouncer"))
    try:
        for driver in DRIVERS:
            other, mode = made.by(driver)
            other.url += f"&pool={CLIENTS}&timeout=20"
            with Lab(other, mode) as lab:
                for _ in range(3):
                    key = lab.key()
                    history = together(lab.store, key, [[Claim(None, f"c{n}", LONG, LONG)] for n in range(CLIENTS)])
                    assert sum(isinstance(operation.outcome, Claimed) for operation in history) == 1
                    keys = [lab.key() for _ in range(CLIENTS)]
                    calls = [lab.background(partial(whole, lab.store, key)) for key in keys]
                    assert [call.result() for call in calls] == [Completed(key.encode()) for key in keys]
    finally:
        made.close()


def whole(store, key):
    """One execution, and its replay."""
    done(store.complete(key, claimed(store.claim(key)).token, key.encode()))
    return expect(Completed, store.claim(key))
