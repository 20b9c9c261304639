"""DynamoDB where it differs from other families: clocks, margins, fences, many clients at once."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import botocore.auth
import dynamodb_labs
import pytest
from dynamodb_labs import behind, with_options

import idemstore
from idemstore.backends.dynamodb import DynamoDBStore, sync
from idemstore.machine import MICROSECONDS, Claim
from idemstore.outcomes import Abandoned, Claimed, Completed, Done, Failed, InFlight, LeaseLost
from idemstore.testing.contract_lab import claimed, done, expect, near
from idemstore.testing.storm import together

DAY = 86_400

server, subject, lab, proxy = dynamodb_labs.server, dynamodb_labs.subject, dynamodb_labs.lab, dynamodb_labs.proxy

# -- clocks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[DAY, -DAY], ids=["a day ahead", "a day behind"])
def wrong_clock(request, monkeypatch):
    """This machine's clock is a day off: for us, for botocore and for whoever else asks it."""
    shift, now, now_ns = request.param, time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + shift * 10**9)
    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda remove_tzinfo=True: datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=shift),
    )
    return shift


def test_client_whose_clock_is_a_day_off(lab, wrong_clock):
    """Its very first claim is right, and stays right for others: no lease shortened or stolen, no fence astray."""
    right = abs(lab.store.ping() / MICROSECONDS + wrong_clock - time.time())
    assert right < 60, "this test's clock should be the one that is wrong"
    off, key = lab.open(), lab.key()
    first = claimed(off.claim(key, lease=60, retention=600))
    assert abs(first.fence - lab.store.ping()) < 5 * MICROSECONDS
    assert near(expect(InFlight, lab.open().claim(key)).retry_after, 60)
    assert near(lab.store.get(key).expires_in, 660)
    lab.age(key, 50)
    expect(InFlight, lab.open().claim(key))
    lab.age(key, 20)
    assert claimed(lab.open().claim(key)).attempt == 2


def test_clients_whose_clocks_differ_by_two_days(lab, monkeypatch):
    """One a day ahead, one a day behind, taking turns on one key: leases hold between them and fences grow."""
    key, fences, now = lab.key(), [], time.time
    for turn in range(4):
        shift = DAY if turn % 2 else -DAY
        monkeypatch.setattr(time, "time", lambda shift=shift: now() + shift)
        fences.append(claimed(lab.open().claim(key, lease=60)).fence)
        monkeypatch.setattr(time, "time", lambda shift=shift: now() - shift)
        expect(InFlight, lab.open().claim(key))
        lab.age(key, 70)
    assert fences == sorted(set(fences))


def test_local_clock_that_jumps_in_use(lab, monkeypatch):
    """A clock that is set while a store is in use changes nothing."""
    key, now = lab.key(), time.time
    token = claimed(lab.store.claim(key, lease=60)).token
    monkeypatch.setattr(time, "time", lambda: now() + 7 * DAY)
    assert near(expect(InFlight, lab.store.claim(key)).retry_after, 60)
    done(lab.store.renew(key, token, lease=90))
    assert near(expect(InFlight, lab.store.claim(key)).retry_after, 90)


def test_first_claim_asks_for_the_time_once(subject):
    """One cheap read before the first claim of a store; then every operation is one call."""
    calls = []
    with idemstore.open(subject.url) as store:
        store.wrapped(lambda driver: driver)
        assert isinstance(store, DynamoDBStore)
        link = sync.Link.call
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sync.Link, "call", lambda self, call: (calls.append(call.operation), link(self, call))[1])
            key = f"count-{os.urandom(4).hex()}"
            token = claimed(store.claim(key)).token
            assert calls == ["get_item", "update_item"]
            store.claim(key)
            store.complete(key, token, b"r")
            store.claim(key)
    assert calls == ["get_item"] + ["update_item"] * 4


def test_lease_is_kept_through_the_margin(lab):
    """A lease that ended a moment ago is left alone as long as some client's clock could say that it runs."""
    store, key = with_options(lab, "margin=10"), lab.key()
    claimed(lab.store.claim(key, lease=60))
    store.ping()
    lab.age(key, 65)
    busy = expect(InFlight, store.claim(key))
    assert 0 < busy.retry_after <= 15
    expect(Claimed, with_options(lab, "margin=0").claim(key))


def test_retention_is_kept_through_the_margin(lab):
    """So are a result and a back-off."""
    store = with_options(lab, "margin=10")
    replayed, backing = lab.key(), lab.key()
    done(lab.store.complete(replayed, claimed(lab.store.claim(replayed)).token, b"r", retention=60))
    done(lab.store.fail(backing, claimed(lab.store.claim(backing)).token, b"f", retention=600, retry_after=60))
    for key in (replayed, backing):
        lab.age(key, 65)
    assert store.claim(replayed) == Completed(b"r")
    assert expect(Failed, store.claim(backing)).retry_after > 0
    expect(Claimed, with_options(lab, "margin=0").claim(replayed))


def test_fence_grows_between_clients_that_know_the_clock_differently(lab):
    """A fence that was made by a client far ahead is outgrown by one far behind, through every end of a record."""
    ahead, behind, key = with_options(lab, "margin=30"), with_options(lab, "margin=0"), lab.key()
    fences = []
    for end in ("release", "forget", "expiry", "purge", "takeover", "failure", "release"):
        for store in (ahead, behind):
            claim = claimed(store.claim(key, lease=5, retention=50))
            fences.append(claim.fence)
            if end == "release":
                done(store.release(key, claim.token))
            elif end == "forget":
                assert store.forget(key)
            elif end == "takeover":
                lab.age(key, 50)
            elif end == "failure":
                done(store.fail(key, claim.token, b"", retry_after=0))
            else:
                lab.age(key, 200)
                if end == "purge":
                    lab.store.purge()
    assert fences == sorted(set(fences))


# -- time to live -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [5, 2**40])
def test_time_to_live_decides_nothing(lab, subject, seconds):
    """A record that DynamoDB was to delete long ago is alive, one that it is to keep for ever is over in time."""
    key = lab.key()
    token = claimed(lab.store.claim(key, retention=600)).token
    assert int(subject.item(key)["ttl_at"]["N"]) > time.time() + 600
    subject.client.update_item(
        TableName=subject.table,
        Key={"id": {"S": key}},
        UpdateExpression="SET ttl_at = :ttl",
        ExpressionAttributeValues={":ttl": {"N": str(seconds)}},
    )
    expect(InFlight, lab.store.claim(key))
    lab.age(key, 700)
    assert lab.store.get(key) is None
    assert lab.store.complete(key, token, b"late") == LeaseLost()
    assert claimed(lab.store.claim(key)).attempt == 1


# -- many at once -----------------------------------------------------------------------------------------------------


def test_hot_key(lab, proxy):
    """64 clients on one key: one winner, no error, one round trip on the wire for each."""
    store = behind(lab, proxy)
    expect(Claimed, store.claim(lab.key("warm-up")))
    before, key = proxy.round_trips, lab.key()
    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(lambda _: store.claim(key), range(64)))
    assert sum(isinstance(answer, Claimed) for answer in answers) == 1
    assert sum(isinstance(answer, InFlight) for answer in answers) == 63
    assert proxy.round_trips - before == 64


def test_hot_takeover_costs_two_trips_at_most_for_the_winner(lab):
    """Who takes over needs a second write; everybody else is told to wait within a bounded number."""
    store, faults = lab.faulty()
    key = lab.key()
    claimed(lab.store.claim(key))
    lab.age(key, 100)
    before = faults.round_trips
    assert claimed(store.claim(key)).attempt == 2
    assert faults.round_trips - before == 2
    found = expect(Abandoned, lab.store.claim(aged(lab), takeover=False))
    assert found.attempt == 1


def aged(lab):
    """A key whose owner's lease is over."""
    key = lab.key()
    claimed(lab.store.claim(key))
    lab.age(key, 100)
    return key


def test_client_pool_is_bounded(lab):
    """With two connections sixteen callers take turns, and all are served."""
    store = with_options(lab, "connections=2")
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda n: store.claim(f"pool-{n}-{lab.key()}"), range(32)))
    assert all(isinstance(answer, Claimed) for answer in answers)


def test_store_is_safe_across_fork(subject):
    """A child of fork makes a client of its own; parent and child go on side by side."""
    with idemstore.open(subject.url) as store:
        key = f"fork-{os.urandom(4).hex()}"
        token = claimed(store.claim(key)).token
        child = os.fork()
        if not child:
            answer = store.claim(key)
            os._exit(0 if isinstance(answer, InFlight) and store.complete(key, token, b"child") == Done() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.claim(key) == Completed(b"child")


def test_waiters_meet_a_slow_clock(lab):
    """A waiter takes over as soon as the lease is surely over, not a poll later, and never before."""
    key = lab.key()
    claimed(lab.store.claim(key, lease=1.0))
    began = time.monotonic()
    taken = claimed(lab.store.claim(key, wait=20))
    took = time.monotonic() - began
    assert taken.attempt == 2
    assert 0.9 <= took < 6


def test_storms_on_many_keys(lab):
    """Storms on twenty keys with 32 clients each: one winner on every one."""
    for _ in range(20):
        key = lab.key()
        scripts = [[Claim(None, f"client-{n}", 60_000_000, 60_000_000)] for n in range(32)]
        history = together(lab.store, key, scripts)
        assert sum(isinstance(operation.outcome, Claimed) for operation in history) == 1
