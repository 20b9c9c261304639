"""DynamoDB's large results, divided over items, and the purge of what is over."""

import os
from functools import partial

import dynamodb_labs
import pytest
from dynamodb_labs import with_options

from idemstore import errors
from idemstore.backends.dynamodb import chunks, purge
from idemstore.backends.dynamodb.record import EXPIRES
from idemstore.outcomes import Claimed, Completed, Failed, LeaseLost
from idemstore.testing.contract_lab import MODES, Lab, claimed, done, expect, raises

server, subject, lab, fresh = dynamodb_labs.server, dynamodb_labs.subject, dynamodb_labs.lab, dynamodb_labs.fresh

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
