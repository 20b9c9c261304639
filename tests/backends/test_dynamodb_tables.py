"""DynamoDB's tables, as migrate makes and refuses them, and completions in a transaction of the caller's own."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dynamodb_labs
import pytest
from botocore.exceptions import ClientError

import idemstore
from idemstore import errors
from idemstore.backends.dynamodb import DynamoDBAsyncStore, DynamoDBStore
from idemstore.outcomes import Claimed, Completed, Done, LeaseLost
from idemstore.testing.blocking import BlockingStore
from idemstore.testing.contract_lab import claimed, done, expect, near, raises
from idemstore.testing.families.dynamodb import connect, url_of

server, subject, lab = dynamodb_labs.server, dynamodb_labs.subject, dynamodb_labs.lab

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
