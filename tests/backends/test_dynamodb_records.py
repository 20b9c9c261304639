"""DynamoDB where it differs from other families: clocks, fences, divided results, purge, transactions, the table."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import botocore.auth
import pytest
from botocore.exceptions import ClientError

import idemstore
from idemstore import errors
from idemstore.backends.dynamodb import DynamoDBAsyncStore, DynamoDBStore, chunks, purge, sync
from idemstore.backends.dynamodb.record import EXPIRES
from idemstore.machine import MICROSECONDS, Claim
from idemstore.outcomes import Abandoned, Claimed, Completed, Done, Failed, InFlight, LeaseLost
from idemstore.testing.blocking import BlockingStore
from idemstore.testing.contract_lab import MODES, Lab, claimed, done, expect, near, raises
from idemstore.testing.families.dynamodb import DynamoDBSubject, connect, url_of
from idemstore.testing.storm import together

DAY = 86_400


@pytest.fixture(scope="module")
def server(server_pool):
    """One DynamoDB Local."""
    return server_pool.get("dynamodb")


@pytest.fixture(scope="module")
def subject(server):
    """A table on it."""
    made = DynamoDBSubject("dynamodb", server.url)
    yield made
    made.close()


@pytest.fixture(params=MODES)
def lab(request, subject):
    """A store in each mode."""
    with Lab(subject, request.param) as made:
        yield made


@pytest.fixture
def fresh(server):
    """A table that nobody else uses."""
    made = DynamoDBSubject("dynamodb", server.url)
    yield made
    made.close()


def with_options(lab, *options):
    """A store of the lab's mode with more options."""
    return lab.open("&".join((lab.subject.url, *options)))


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


# -- divided results --------------------------------------------------------------------------------------------------


def large(size):
    """Bytes that do not repeat."""
    return (os.urandom(1000) * (size // 1000 + 1))[:size]


def items_of(subject):
    """Every item of the table."""
    pages = subject.client.get_paginator("scan").paginate(TableName=subject.table, ConsistentRead=True)
    return [item for page in pages for item in page["Items"]]


def parts_of(subject, key):
    """The items beside a key."""
    return [item for item in items_of(subject) if item["id"]["S"].startswith(key + chunks.MARK)]


@pytest.mark.parametrize("size", [389_999, 390_000, 390_001, 780_000, 780_001, 4 * 2**20])
def test_large_results(lab, size):
    """Around every border, up to the limit: the result comes back from claim and get, completed and failed."""
    result = large(size)
    for end in ("complete", "fail"):
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(getattr(lab.store, end)(key, token, result))
        answer = lab.store.claim(key)
        assert isinstance(answer, Completed if end == "complete" else Failed)
        assert answer.result == result, "the result came back changed"
        assert lab.store.get(key).record.result == result
        done(getattr(lab.store, end)(key, token, result))
        assert getattr(lab.store, end)(key, token, result[1:]) == LeaseLost()


def test_largest_failure_beside_the_largest_checkpoint(lab):
    """Both lie in one item, with the longest key and token."""
    key = "k" * lab.store.limits.key_bytes
    lab.store.forget(key)
    claimed(lab.store.claim(key, token="t" * 128, fingerprint=b"f" * 64))
    done(lab.store.renew(key, "t" * 128, checkpoint=large(300_000)))
    done(lab.store.fail(key, "t" * 128, large(100_000), retry_after=0))
    found = lab.store.get(key).record
    assert (len(found.result), len(found.checkpoint)) == (100_000, 300_000)
    assert lab.store.forget(key)


def test_largest_result_beside_the_longest_key(lab):
    """So does a result that is not divided."""
    key = "l" * lab.store.limits.key_bytes
    lab.store.forget(key)
    claimed(lab.store.claim(key, token="t" * 128, fingerprint=b"f" * 64))
    done(lab.store.renew(key, "t" * 128, checkpoint=large(300_000)))
    done(lab.store.complete(key, "t" * 128, large(390_000)))
    assert len(expect(Completed, lab.store.claim(key)).result) == 390_000
    assert lab.store.forget(key)


def test_beyond_the_limit_nothing_is_sent(lab):
    """One byte more is refused at the door."""
    store, faults = lab.faulty()
    raises(errors.ResultTooLarge, partial(store.complete, lab.key(), "token", bytes(4 * 2**20 + 1)))
    raises(errors.ResultTooLarge, partial(store.renew, lab.key(), "token", checkpoint=bytes(300_001)))
    assert faults.round_trips == 0


@pytest.mark.parametrize("mode", MODES)
def test_parts_that_are_gone_or_changed(fresh, mode):
    """A result whose parts were deleted or altered is an error in every call that reads it, never a shorter result."""
    with Lab(fresh, mode) as lab:
        for harm in ("delete", "change"):
            key = lab.key()
            done(lab.store.complete(key, claimed(lab.store.claim(key)).token, large(500_000)))
            first, second = parts_of(fresh, key)
            if harm == "delete":
                fresh.client.delete_item(TableName=fresh.table, Key={"id": first["id"]})
            else:
                fresh.client.put_item(TableName=fresh.table, Item={**second, chunks.DATA: {"B": b"x"}})
            for _ in range(2):
                raises(errors.CorruptRecord, partial(lab.store.claim, key))
                raises(errors.CorruptRecord, partial(lab.store.get, key))
            assert lab.store.forget(key)


def test_zombies_parts_never_mix_with_the_successors(lab):
    """A stale owner that writes its parts at any moment of its successor's completion changes nothing that is read."""
    for nth in range(4):
        key = lab.key()
        zombie = claimed(lab.store.claim(key)).token
        lab.age(key, 100)
        owner = claimed(lab.store.claim(key)).token
        theirs, mine = large(1_000_000), large(1_000_000)
        store, faults = lab.faulty()
        faults.passing(nth)
        stop = faults.stop_before()
        finish = lab.background(partial(store.complete, key, owner, mine))
        if nth < 3:
            stop.reached()
        assert lab.store.complete(key, zombie, theirs) == LeaseLost()
        stop.go()
        done(finish.result())
        assert expect(Completed, lab.store.claim(key)).result == mine


def test_crash_between_parts_and_completion(lab):
    """An owner that dies after its parts leaves a claim to be taken over, and the next result is its own."""
    store, faults = lab.faulty()
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    faults.passing(1)
    faults.lose_request()
    raises(errors.StoreUnavailable, partial(store.complete, key, token, large(500_000)))
    assert faults.round_trips == 2
    lab.age(key, 100)
    taker = claimed(lab.store.claim(key))
    assert taker.attempt == 2
    done(lab.store.complete(key, taker.token, b"small"))
    assert lab.store.claim(key) == Completed(b"small")


# -- purge ------------------------------------------------------------------------------------------------------------


def scanned(subject):
    """Every id in the table."""
    return {item["id"]["S"] for item in items_of(subject)}


@pytest.mark.parametrize("mode", MODES)
def test_purge_reclaims_parts(fresh, mode):
    """Parts of expired records, of stale owners and of crashes go once they are old; parts that a record needs stay."""
    with Lab(fresh, mode) as lab:
        store = with_options(lab, "in_place=0")
        kept, expired, lost = (lab.key() for _ in range(3))
        for key, retention in ((kept, None), (expired, 60)):
            done(store.complete(key, claimed(store.claim(key)).token, b"result", retention=retention))
        claimed(store.claim(lost))
        assert store.complete(lost, "stranger", b"orphan", retention=None) == LeaseLost()
        store.purge()
        assert len(parts_of(fresh, expired)) == len(parts_of(fresh, lost)) == 1, "young parts may still be needed"
        fresh.age(expired, 100)
        for key in (kept, expired, lost):
            for part in parts_of(fresh, key):
                fresh.age(part["id"]["S"], 3 * 3600)
        assert store.purge() == 1
        while store.purge():
            pass
        assert not parts_of(fresh, expired)
        assert not parts_of(fresh, lost)
        assert store.claim(kept) == Completed(b"result")


@pytest.mark.parametrize("mode", MODES)
def test_purge_goes_through_many_pages(fresh, mode, monkeypatch):
    """The scan is divided; a limit is kept; what another program put into the table is left alone."""
    monkeypatch.setattr(purge, "PAGE", 7)
    with Lab(fresh, mode) as lab:
        keys = [lab.key() for _ in range(40)]
        assert all(isinstance(answer, Claimed) for answer in lab.store.claim_many(keys, lease=10, retention=20))
        for key in keys[:30]:
            lab.age(key, 100)
        foreign = {"id": {"S": "foreign"}, EXPIRES: {"N": "5"}, "fence": {"S": "theirs"}}
        fresh.client.put_item(TableName=fresh.table, Item=foreign)
        odd = {"id": {"S": "odd"}, EXPIRES: {"N": "5"}, "fence": {"N": "1.5"}}
        fresh.client.put_item(TableName=fresh.table, Item=odd)
        assert lab.store.purge(12) == 12
        gone = 12
        while count := lab.store.purge(1000):
            gone += count
        assert gone == 30
        assert {"foreign", "odd"} < scanned(fresh)
        assert all(lab.exists(key) == (key in keys[30:]) for key in keys)


def test_purge_deletes_bare_fences_in_the_end(fresh):
    """What a release left goes once no client's clock can be behind its fence."""
    with Lab(fresh, "sync") as lab:
        key = lab.key()
        done(lab.store.release(key, claimed(lab.store.claim(key)).token))
        assert lab.store.purge() == 0
        assert key in scanned(fresh)
        fresh.client.update_item(
            TableName=fresh.table,
            Key={"id": {"S": key}},
            UpdateExpression="SET fence = :old",
            ExpressionAttributeValues={":old": {"N": "5"}},
        )
        assert lab.store.purge() == 0
        assert key not in scanned(fresh)


# -- transactions -----------------------------------------------------------------------------------------------------


def entry_of(store, *arguments, **options):
    """``transact_item`` of the store behind a lab's face."""
    inner = store.inner if isinstance(store, BlockingStore) else store
    assert isinstance(inner, DynamoDBStore | DynamoDBAsyncStore)
    return inner.transact_item(*arguments, **options)


def order(subject, name):
    """A write of the caller's own."""
    return {"Put": {"TableName": subject.table, "Item": {"id": {"S": name}, "total": {"N": "5"}}}}


def test_completion_in_a_transaction(lab, subject):
    """The caller's write and the completion are stored together, and the completion is like any other."""
    key, name = ("scope", lab.key()), lab.key("order")
    token = claimed(lab.store.claim(key)).token
    entry = entry_of(lab.store, key, token, b"charged", retention=600)
    subject.client.transact_write_items(TransactItems=[order(subject, name), entry])
    assert subject.item(name)
    assert lab.store.claim(key) == Completed(b"charged")
    assert near(lab.store.get(key).expires_in, 600)
    assert lab.store.complete(key, token, b"charged") == Done()


def test_stale_token_fails_the_whole_transaction(lab, subject):
    """Nothing of it is stored; the reason names the entry; asking again with ``complete`` tells what happened."""
    key, name = lab.key(), lab.key("order")
    stale = claimed(lab.store.claim(key)).token
    lab.age(key, 100)
    owner = claimed(lab.store.claim(key)).token
    items = [order(subject, name), entry_of(lab.store, key, stale, b"stale")]
    with pytest.raises(ClientError) as caught:
        subject.client.transact_write_items(TransactItems=items)
    assert caught.value.response["Error"]["Code"] == "TransactionCanceledException"
    reasons = [reason["Code"] for reason in caught.value.response["CancellationReasons"]]
    assert reasons == ["None", "ConditionalCheckFailed"]
    assert not subject.item(name)
    assert lab.store.complete(key, stale, b"stale") == LeaseLost()
    done(lab.store.complete(key, owner, b"owner's"))


def test_transaction_delivered_twice(lab, subject):
    """The second delivery is refused as a whole, and ``complete`` says that the first one did it."""
    key, name = lab.key(), lab.key("order")
    token = claimed(lab.store.claim(key)).token
    items = [order(subject, name), entry_of(lab.store, key, token, b"r")]
    subject.client.transact_write_items(TransactItems=items)
    with pytest.raises(ClientError):
        subject.client.transact_write_items(TransactItems=items)
    assert lab.store.complete(key, token, b"r") == Done()


def test_transaction_needs_the_clock(subject):
    """A store that has made no call yet does not know the time, and says what to do."""
    with idemstore.open(subject.url) as store:
        with pytest.raises(errors.StoreUnavailable, match="ping"):
            entry_of(store, "key", "token", b"r")
        store.ping()
        entry_of(store, "key", "token", b"r")
        with pytest.raises(errors.InvalidKey):
            entry_of(store, "", "token", b"r")
        with pytest.raises(errors.ResultTooLarge):
            entry_of(store, "key", "token", bytes(390_001))


# -- the table --------------------------------------------------------------------------------------------------------


def test_missing_table(lab, server):
    """Every call names the command that makes it; nothing is made by the way."""
    store = lab.open(url_of(server.url, "absent-table"))
    for call in (store.ping, partial(store.claim, "k"), partial(store.complete, "k", "t", b""), store.purge):
        assert "idemstore migrate URL" in str(raises(errors.SchemaError, call))


def test_migrate_by_many_at_once(server, lab):
    """Eight programs that migrate together all succeed, on demand and with TTL."""
    url = url_of(server.url, f"test-{os.urandom(6).hex()}")
    stores = [lab.open(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as workers:
        assert list(workers.map(lambda store: store.migrate(), stores)) == [None] * 8
    client, table = connect(url), url.rpartition("/")[2].partition("?")[0]
    described = client.describe_table(TableName=table)["Table"]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    ttl = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl_at"}
    expect(Claimed, stores[0].claim("k"))
    client.delete_table(TableName=table)
    client.close()


@pytest.mark.parametrize(
    ("keys", "types"),
    [
        ([("id", "HASH"), ("sort", "RANGE")], [("id", "S"), ("sort", "S")]),
        ([("pk", "HASH")], [("pk", "S")]),
        ([("id", "HASH")], [("id", "N")]),
    ],
    ids=["sort key", "other name", "other type"],
)
def test_table_of_another_shape(lab, server, keys, types):
    """Calls and migrate say so, and leave it as it is."""
    url = url_of(server.url, f"test-{os.urandom(6).hex()}")
    client, table = connect(url), url.rpartition("/")[2].partition("?")[0]
    client.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in types],
        BillingMode="PAY_PER_REQUEST",
    )
    store = lab.open(url)
    for call in (store.migrate, store.ping, partial(store.claim, "k"), partial(store.get, "k")):
        raises(errors.SchemaError, call)
    client.delete_table(TableName=table)
    client.close()


def test_ttl_on_another_attribute(lab, server):
    """A table that expires its items by an attribute of another program is refused by migrate."""
    url = url_of(server.url, f"test-{os.urandom(6).hex()}")
    client, table = connect(url), url.rpartition("/")[2].partition("?")[0]
    store = lab.open(url)
    store.migrate()
    for on, name in ((False, "ttl_at"), (True, "theirs")):
        specification = {"Enabled": on, "AttributeName": name}
        client.update_time_to_live(TableName=table, TimeToLiveSpecification=specification)
    assert "theirs" in str(raises(errors.SchemaError, store.migrate))
    client.delete_table(TableName=table)
    client.close()


# -- many at once -----------------------------------------------------------------------------------------------------


def test_hot_key(lab):
    """64 clients on one key: one winner, no error, one trip to the driver for each."""
    store, faults = lab.faulty()
    store.release(lab.key(), "warm-up")
    before, key = faults.round_trips, lab.key()
    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(lambda _: store.claim(key), range(64)))
    assert sum(isinstance(answer, Claimed) for answer in answers) == 1
    assert sum(isinstance(answer, InFlight) for answer in answers) == 63
    assert faults.round_trips - before == 64


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
