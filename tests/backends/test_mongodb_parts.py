"""The MongoDB family without a server: URLs, commands, replies, errors, the clock."""

import subprocess
import sys
from datetime import UTC, datetime
from itertools import product
from types import SimpleNamespace

import pytest

pytest.importorskip("pymongo")

from bson import Binary, Int64
from bson.errors import InvalidBSON
from pymongo import errors as theirs

import idemstore
from idemstore import errors as ours
from idemstore.backends.mongodb import errors, options, pipelines, record
from idemstore.backends.mongodb.clock import HeartbeatClock
from idemstore.backends.mongodb.dialect import MARGIN, TTL_SECONDS, MongoDialect, Reply
from idemstore.backends.mongodb.options import MongoOptions
from idemstore.backends.mongodb.record import (
    COMPLETED,
    FAILED,
    FIELDS,
    IN_FLIGHT,
    NEVER,
    RELEASED,
    RETRYABLE,
    decode,
)
from idemstore.backends.mongodb.wire import Line
from idemstore.exchange import Exchange
from idemstore.machine import Claim, Complete, Fail, Release, Renew, State
from idemstore.outcomes import (
    DONE,
    LEASE_LOST,
    MISMATCH,
    Abandoned,
    Claimed,
    Completed,
    Failed,
    InFlight,
)
from idemstore.url import parse_url, read_options

DIALECT = MongoDialect("records")
SECOND = 1_000_000
NOW = 1_700_000_000_000

KEY, TOKEN = "$key.with$dots", "$$NOW"
FINGERPRINT, RESULT, CHECKPOINT = b"$fingerprint", b"$result.", b"$checkpoint"
EVENTS = {
    "claim": Claim(FINGERPRINT, TOKEN, 30 * SECOND, 60 * SECOND),
    "claim without fingerprint": Claim(None, TOKEN, 30 * SECOND, None),
    "careful claim": Claim(FINGERPRINT, TOKEN, 30 * SECOND, 60 * SECOND, takeover=False),
    "complete": Complete(TOKEN, RESULT, 60 * SECOND),
    "complete for ever": Complete(TOKEN, RESULT, None),
    "fail": Fail(TOKEN, RESULT, 60 * SECOND),
    "fail, retry": Fail(TOKEN, RESULT, 60 * SECOND, 10 * SECOND),
    "fail, retry at once": Fail(TOKEN, RESULT, None, 0),
    "renew": Renew(TOKEN, 30 * SECOND, CHECKPOINT),
    "renew without checkpoint": Renew(TOKEN, 30 * SECOND),
    "release": Release(TOKEN),
}


def ask(event, key=KEY, dialect=DIALECT):
    """The exchange of an event."""
    return getattr(dialect, type(event).__name__.lower())(key, event)


def document(key="k", **changes):
    """A document as MongoDB holds it, in flight unless said otherwise."""
    made = {
        "_id": key,
        "state": IN_FLIGHT,
        "token": "owner",
        "fingerprint": b"",
        "result": b"",
        "checkpoint": None,
        "fence": Int64(NOW * 1000),
        "attempt": 1,
        "changed_at": Int64(NOW),
        "until": Int64(NOW + 30_000),
        "expires_at": Int64(NOW + 90_000),
        "reclaim": datetime(2023, 11, 15, tzinfo=UTC),
    }
    return {**made, **changes}


def answer(event, found, clock=NOW + 10_000):
    """What an event is answered when the document is this afterwards."""
    return ask(event, "k").parse(Reply({"value": found}, clock))


# -- commands ---------------------------------------------------------------------------------------------------------


def bare(node):
    """Every value of a command that is not under ``$literal``."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield name
            if name != "$literal":
                yield from bare(value)
    elif isinstance(node, list):
        for value in node:
            yield from bare(value)
    else:
        yield node


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_callers_data_is_literal(event):
    """Keys, tokens, fingerprints, results and checkpoints stand under $literal; the key also as the plain _id."""
    request = ask(event).request
    assert request["query"] == {"_id": KEY}
    assert not {KEY, FINGERPRINT, RESULT, CHECKPOINT} & set(bare(request["update"]))
    # "$$NOW" is also what the pipelines themselves ask: as often as with a token that is none of its words.
    harmless = ask(event._replace(token="plain")).request
    assert [*bare(request["update"])].count(TOKEN) == [*bare(harmless["update"])].count(TOKEN)


def test_test_of_literals_sees_bare_data():
    """The test above is not blind."""
    assert KEY in set(bare([{"$set": {"token": KEY}}]))
    assert KEY not in set(bare([{"$set": {"token": {"$literal": KEY}}}]))


def test_forget_is_literal():
    """So does the key that is forgotten."""
    request = DIALECT.forget(KEY).request
    assert request["query"] == {"_id": KEY}
    assert KEY not in set(bare(request["update"]))


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_every_write_waits_for_a_majority(event):
    """What was answered survives an election; journal=1 asks for the disks of a majority."""
    assert ask(event).request["writeConcern"] == {"w": "majority"}
    assert ask(event, dialect=MongoDialect("c", journal=True)).request["writeConcern"] == {"w": "majority", "j": True}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_one_stage_that_ends_in_the_old_document(event):
    """A pipeline either applies or comes out at $$ROOT, the document as it is; only claims insert."""
    request = ask(event).request
    (stage,) = request["update"]
    inner = stage["$replaceWith"]["$let"]["in"]
    inner = inner["$let"]["in"] if "$let" in inner else inner
    assert inner["$cond"][2] == "$$ROOT"
    assert request["upsert"] is isinstance(event, Claim)
    assert request["new"] is True


def test_durations_are_milliseconds():
    """Leases and retentions become milliseconds behind the server's now."""
    new = pipelines.claim("k", Claim(None, "t", 1500_000, 2500_000))[0]["$replaceWith"]["$let"]["in"]["$let"]["in"]
    made = new["$cond"][1]["$mergeObjects"][1]
    assert made["until"] == {"$add": ["$$now", 1500]}
    assert made["expires_at"] == {"$add": ["$$now", 4000]}
    assert made["reclaim"] == {"$add": ["$$NOW", 4000]}


def test_documents_are_written_in_the_order_that_is_read():
    """A new record and a tombstone have the fields of FIELDS, in that order: the shape is checked by order."""
    new = pipelines.claim("k", EVENTS["claim"])[0]["$replaceWith"]["$let"]["in"]["$let"]["in"]["$cond"][1]
    gone = pipelines.forget("k")[0]["$replaceWith"]["$let"]["in"]["$cond"][2]
    for merge in (new, gone):
        given, made = merge["$mergeObjects"]
        assert list({**given["$literal"], **made}) == list(FIELDS)


def test_ttl_never_deletes_early():
    """The TTL index waits an hour behind the end of a record, whatever clocks differ by."""
    (index,) = _follow(DIALECT.migrate(), {"cursor": {"firstBatch": []}}).request["indexes"]
    assert index == {"key": {"reclaim": 1}, "name": "idemstore_reclaim", "expireAfterSeconds": TTL_SECONDS}
    assert TTL_SECONDS >= 3600


def _follow(exchange, body):
    """The exchange that must follow."""
    following = exchange.parse(Reply(body))
    assert isinstance(following, Exchange)
    return following


@pytest.mark.parametrize(
    "found",
    [
        {"type": "view", "options": {"viewOn": "c"}},
        {"type": "timeseries", "options": {"timeseries": {"timeField": "t"}}},
        {"type": "collection", "options": {"capped": True, "size": 4096}},
        {"type": "collection", "options": {"collation": {"locale": "en", "strength": 2}}},
    ],
    ids=lambda found: f"{found['type']} {next(iter(found['options']))}",
)
def test_migrate_refuses_what_cannot_hold_records(found):
    """Views, time series, capped collections and collations are found out before anything is written."""
    with pytest.raises(ours.SchemaError, match="'records'"):
        DIALECT.migrate().parse(Reply({"cursor": {"firstBatch": [{"name": "records", **found}]}}))


# -- replies ----------------------------------------------------------------------------------------------------------

CLAIM = Claim(b"f", "mine", 30 * SECOND, 60 * SECOND)
CAREFUL = CLAIM._replace(takeover=False)


def test_claim_reads_its_own_record():
    """Under its own token it is a claim, new or re-sent."""
    mine = document(token="mine", attempt=2, checkpoint=b"half")
    assert answer(CLAIM, mine) == Claimed("mine", NOW * 1000, 2, b"half")


def test_claim_reads_results():
    """A result is replayed; a failure with the time that is left."""
    assert answer(CLAIM, document(state=COMPLETED, result=b"r")) == Completed(b"r")
    assert answer(CLAIM, document(state=FAILED, result=b"r")) == Failed(b"r")
    assert answer(CLAIM, document(state=RETRYABLE, result=b"r")) == Failed(b"r", 20.0)


def test_claim_reads_a_busy_record():
    """The time that is left is counted from the last heartbeat's clock."""
    assert answer(CLAIM, document()) == InFlight(20.0)


def test_busy_answer_never_says_more_than_the_lease():
    """A heartbeat that was noticed late cannot make a lease longer than it was when it was written."""
    assert answer(CLAIM, document(), clock=NOW - 60_000) == InFlight(30.0)


def test_busy_answer_says_something_at_least():
    """A clock that is past the end of the lease is no reason to say zero."""
    assert answer(CLAIM, document(), clock=NOW + 30_001) == InFlight(0.001)


@pytest.mark.parametrize("state", [IN_FLIGHT, COMPLETED, FAILED, RETRYABLE])
def test_mismatch_comes_first(state):
    """Another fingerprint is refused in every state, even under the same token; none is no other."""
    found = document(state=state, token="mine", fingerprint=b"other")
    assert answer(CLAIM, found) == MISMATCH
    assert answer(CLAIM, found, clock=None) == MISMATCH
    assert answer(CLAIM._replace(fingerprint=None), found) != MISMATCH
    assert answer(CLAIM, document(state=state, token="mine")) != MISMATCH


def test_lost_race_is_claimed_again():
    """No document, because two upserts raced: the same command once more."""
    exchange = ask(CLAIM, "k")
    following = _follow(exchange, {"value": None})
    assert following.request == exchange.request
    assert answer(CLAIM, document(token="mine")) == following.parse(Reply({"value": document(token="mine")}))


def test_unknown_clock_asks_the_server():
    """Without a heartbeat the server is asked for document and clock together."""
    look = answer(CLAIM, document(), clock=None)
    assert look.request["aggregate"] == "records"
    assert look.parse(_looked(document(), NOW + 12_000)) == InFlight(18.0)
    back_off = answer(CLAIM, document(state=RETRYABLE), clock=None)
    assert back_off.parse(_looked(document(state=RETRYABLE, result=b"no"), NOW + 12_000)) == Failed(b"no", 18.0)


def _looked(found, now):
    """A reply of ``look``."""
    return Reply({"cursor": {"firstBatch": [] if found is None else [{"_id": "k", "found": found, "now": now}]}})


def test_careful_claim_near_the_end_asks_the_server():
    """Whether a lease is over is the server's word, not the heartbeat's."""
    end = NOW + 30_000
    assert answer(CAREFUL, document(), clock=end - MARGIN) == InFlight(MARGIN / 1000)
    look = answer(CAREFUL, document(), clock=end - MARGIN + 1)
    assert look.parse(_looked(document(), end - 1)) == InFlight(0.001)
    assert look.parse(_looked(document(), end)) == Abandoned("owner", NOW * 1000, 1)
    assert look.parse(_looked(document(fingerprint=b"other"), end)) == MISMATCH


@pytest.mark.parametrize(
    "found",
    [
        None,
        document(state=RELEASED),
        document(expires_at=Int64(NOW)),
        document(state=COMPLETED),
        document(state=RETRYABLE, until=Int64(0)),
        document(token="mine"),
    ],
    ids=["gone", "released", "expired", "completed", "retryable", "ours"],
)
def test_what_changed_meanwhile_is_claimed_again(found):
    """Between the claim and the look the record may have changed: then only a claim can tell."""
    look = answer(CAREFUL, document(), clock=None)
    following = look.parse(_looked(found, NOW + 1))
    assert following.request == ask(CAREFUL, "k").request


def test_taker_claims_again_when_the_lease_ends_meanwhile():
    """A claim that may take over does so, and is not told Abandoned."""
    look = answer(CLAIM, document(), clock=None)
    assert look.parse(_looked(document(), NOW + 30_000)).request == ask(CLAIM, "k").request


def test_tombstone_is_no_answer_to_a_claim():
    """A free key that stays free is not MongoDB's doing."""
    with pytest.raises(ours.StoreMisbehaved):
        answer(CLAIM, document(state=RELEASED))


MINE = {"token": "mine"}


@pytest.mark.parametrize(
    ("event", "found", "outcome"),
    [
        (Complete("mine", b"r", None), document(**MINE, state=COMPLETED, result=b"r"), DONE),
        (Complete("mine", b"r", None), document(**MINE, state=COMPLETED, result=b"other"), LEASE_LOST),
        (Complete("mine", b"r", None), document(**MINE, state=FAILED, result=b"r"), LEASE_LOST),
        (Complete("mine", b"r", None), document(state=COMPLETED, result=b"r"), LEASE_LOST),
        (Complete("mine", b"r", None), document(state=RELEASED, token=""), LEASE_LOST),
        (Complete("mine", b"r", None), None, LEASE_LOST),
        (Fail("mine", b"r", None), document(**MINE, state=FAILED, result=b"r"), DONE),
        (Fail("mine", b"r", None), document(**MINE, state=RETRYABLE, result=b"r"), LEASE_LOST),
        (Fail("mine", b"r", None, 0), document(**MINE, state=RETRYABLE, result=b"r"), DONE),
        (Fail("mine", b"r", None, 5), document(**MINE, state=FAILED, result=b"r"), LEASE_LOST),
        (Fail("mine", b"r", None), None, LEASE_LOST),
        (Renew("mine", 1000), document(**MINE), DONE),
        (Renew("mine", 1000), document(), LEASE_LOST),
        (Renew("mine", 1000), document(**MINE, state=COMPLETED), LEASE_LOST),
        (Renew("mine", 1000), None, LEASE_LOST),
        (Release("mine"), document(state=RELEASED, token=""), DONE),
        (Release("mine"), None, DONE),
        (Release("mine"), document(), LEASE_LOST),
        (Release("mine"), document(**MINE, state=COMPLETED), LEASE_LOST),
    ],
)
def test_settlements(event, found, outcome):
    """What a settlement is told, by the document as it is afterwards; the clock has no part in it."""
    assert answer(event, found, clock=None) == outcome


def test_purge_goes_in_parts():
    """The clock, then what has ended by then, then its deletion where that is still so, until enough is gone."""
    clock = DIALECT.purge(1500)
    find = _follow(clock, {"cursor": {"firstBatch": [{"now": NOW}]}})
    assert (find.request["limit"], find.request["singleBatch"]) == (1000, True)
    ids = [{"_id": f"k{n}"} for n in range(1000)]
    delete = _follow(find, {"cursor": {"firstBatch": ids}})
    (one,) = delete.request["deletes"]
    assert one["q"]["reclaim"] == find.request["filter"]["reclaim"]
    assert one["q"]["$or"] == find.request["filter"]["$or"]
    find = _follow(delete, {"n": 999})
    assert find.request["limit"] == 501
    assert find.parse(Reply({"cursor": {"firstBatch": []}})) == 999


def test_ping_asks_for_a_write_first():
    """A ping shows that the primary would take a write of ours, and that it has a clock."""
    allowed = DIALECT.ping()
    assert allowed.request["findAndModify"] == "records"
    assert allowed.request["upsert"] is False
    assert _follow(allowed, {"value": None}).parse(Reply({"cursor": {"firstBatch": [{"now": NOW}]}})) == NOW * 1000


@pytest.mark.parametrize("body", [{}, {"value": 5}, {"value": "x"}], ids=repr)
def test_odd_replies(body):
    """Something that is not MongoDB answers: an error, whatever was asked."""
    if "value" in body:
        with pytest.raises(ours.StoreMisbehaved):
            ask(CLAIM).parse(Reply(body))
    for exchange in (DIALECT.get("k"), DIALECT.purge(1), DIALECT.migrate()):
        with pytest.raises(ours.StoreMisbehaved):
            exchange.parse(Reply(body))


# -- documents --------------------------------------------------------------------------------------------------------


def test_record_of_a_document():
    """A document as the machine's record, times in microseconds."""
    found = decode("k", document(fingerprint=b"f", checkpoint=b"")).record()
    assert (found.state, found.token, found.fingerprint, found.checkpoint) == (State.IN_FLIGHT, "owner", b"f", b"")
    assert found.lease_until == (NOW + 30_000) * 1000
    assert (found.result, found.retry_at) == (None, None)
    ended = decode("k", document(state=FAILED, until=Int64(NEVER), expires_at=Int64(NEVER), reclaim=None)).record()
    assert (ended.state, ended.result, ended.expires_at, ended.retry_at) == (State.FAILED, b"", None, None)
    at_once = decode("k", document(state=RETRYABLE, until=0)).record()
    assert at_once.retry_at == NOW * 1000


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "value", [True, 1.5, 7, "text", b"bytes", None, [], {}, datetime(2024, 1, 1, tzinfo=UTC)], ids=repr
)
def test_wrong_types_are_corrupt(name, value):
    """A field of another type is found out, and only that."""
    kinds = {"str": "string", "bytes": "binData", "NoneType": "null", "int": "int", "datetime": "date"}
    kind = kinds.get(type(value).__name__, "none of ours")
    fits = kind in FIELDS[name].strip("()").split("|")
    damaged = document(**{name: value})
    if fits and name not in ("_id", "state"):
        decode("k", damaged)
    else:
        with pytest.raises((ours.CorruptRecord, ours.SchemaError)):
            decode("k", damaged)


def test_missing_extra_and_shuffled_fields_are_corrupt():
    """So is a field that is missing, one too many, one of another name, and another order."""
    whole = document()
    for name in FIELDS:
        with pytest.raises(ours.CorruptRecord):
            decode("k", {field: value for field, value in whole.items() if field != name})
        with pytest.raises(ours.CorruptRecord):
            decode("k", {f"{field}x" if field == name else field: value for field, value in whole.items()})
    for damaged in ({**whole, "more": 1}, dict(reversed(whole.items())), {"_id": "k"}, {}):
        with pytest.raises(ours.CorruptRecord):
            decode("k", damaged)


@pytest.mark.parametrize("state", ["", "bogus", "In-Flight", "in-flight\n", "released "])
def test_unknown_state_is_corrupt(state):
    """A state that is none of ours is damage, and not absence."""
    with pytest.raises(ours.CorruptRecord):
        decode("k", document(state=state))


def test_binary_of_another_subtype_is_corrupt():
    """Results are plain binary; a UUID or a vector is another program's."""
    with pytest.raises(ours.CorruptRecord):
        decode("k", document(state=COMPLETED, result=Binary(b"r", 128)))


def test_another_keys_document_is_a_schema_error():
    """A collation makes two keys one: found out before a foreign result is handed out."""
    with pytest.raises(ours.SchemaError, match="collation"):
        decode("K", document("k"))


def test_shape_is_one_rule_for_both_sides():
    """What the server matches is what decode matches; for a claim also what an upsert starts from."""
    assert pipelines.SOUND[0]["$regexMatch"]["regex"] == f"^({record.SHAPE})$"
    assert pipelines.SOUND_OR_NEW[0]["$regexMatch"]["regex"] == f"^({record.SHAPE}|(_id:string )?)$"
    assert record.shape_of(document()).startswith("_id:string state:string token:string")


# -- errors -----------------------------------------------------------------------------------------------------------

SECRET = "secret-result-and-key"


def translated(error, *, joined=False, transaction=False):
    """What becomes of one of PyMongo's errors."""
    with pytest.raises(ours.IdemstoreError) as caught:
        errors.translate(error, "app.records", 5.0, joined=joined, transaction=transaction)
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (theirs.NetworkTimeout("t"), ours.StoreTimeout),
        (theirs.ExecutionTimeout("t", 50), ours.StoreTimeout),
        (theirs.WaitQueueTimeoutError("t"), ours.StoreTimeout),
        (theirs.ServerSelectionTimeoutError("t"), ours.StoreUnavailable),
        (theirs.AutoReconnect("t"), ours.StoreUnavailable),
        (theirs.ConnectionFailure("t"), ours.StoreUnavailable),
        (theirs.NotPrimaryError("t"), ours.StoreUnavailable),
        (theirs.ConfigurationError("t"), ours.StoreUnavailable),
        (theirs.InvalidOperation("t"), ours.StoreClosed),
        (theirs.DocumentTooLarge("t"), ours.ResultTooLarge),
        (InvalidBSON("t"), ours.CorruptRecord),
        (theirs.ProtocolError("t"), ours.StoreMisbehaved),
    ],
    ids=lambda item: item.__class__.__name__ if isinstance(item, Exception) else item.__name__,
)
def test_client_errors(error, kind):
    """Every error of PyMongo's is one of ours."""
    assert type(translated(error)) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (13, ours.AccessDenied),
        (18, ours.AccessDenied),
        (50, ours.StoreTimeout),
        (91, ours.StoreUnavailable),
        (112, ours.StoreUnavailable),
        (189, ours.StoreUnavailable),
        (10107, ours.StoreUnavailable),
        (462, ours.Throttled),
        (14031, ours.StoreFull),
        (61, ours.SchemaError),
        (85, ours.SchemaError),
        (121, ours.SchemaError),
        (166, ours.SchemaError),
        (13297, ours.SchemaError),
        (263, ours.InvalidInput),
        (2, ours.StoreMisbehaved),
        (None, ours.StoreMisbehaved),
    ],
)
def test_server_errors(code, kind):
    """The server's code decides; its text, which may repeat the command, is not passed on, nor is the error chained."""
    error = translated(theirs.OperationFailure(f"not authorized: {SECRET}", code, {"codeName": "Name", "x": SECRET}))
    assert type(error) is kind
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "Name" in str(error)


def test_access_denied_names_the_role():
    """Who lacks a permission is told which, and where."""
    text = str(translated(theirs.OperationFailure("no", 13)))
    assert "app.records" in text
    assert "find, insert, update" in text
    assert "docs/mongodb.md" in text


def test_what_is_sent_again():
    """A broken connection and a new primary are worth another try at once; whatever took all the time is not."""
    assert errors.worth_resending(theirs.AutoReconnect("cut"))
    assert errors.worth_resending(theirs.NotPrimaryError("stepped down"))
    for error in (
        theirs.NetworkTimeout("t"),
        theirs.ServerSelectionTimeoutError("t"),
        theirs.OperationFailure("t", 13),
    ):
        assert not errors.worth_resending(error)


def test_race_of_upserts_is_an_answer():
    """E11000 on _id means: ask again. On any other index it is the index that is wrong."""
    assert errors.lost_race(theirs.DuplicateKeyError("dup", 11000, {"keyPattern": {"_id": 1}}), "c") == {"value": None}
    assert errors.lost_race(theirs.DuplicateKeyError("dup", 11000), "c") == {"value": None}
    with pytest.raises(ours.SchemaError, match="unique index"):
        errors.lost_race(theirs.DuplicateKeyError("dup", 11000, {"keyPattern": {"token": 1}}), "c")


def test_unconfirmed_majority_is_a_time_out():
    """A write that the primary has and a majority does not confirm may be lost: the caller must repeat it."""
    with pytest.raises(ours.StoreTimeout, match="majority"):
        errors.checked({"value": {}, "writeConcernError": {"code": 64, "errmsg": SECRET}}, "c")
    with pytest.raises(ours.AccessDenied):
        errors.checked({"n": 0, "writeErrors": [{"code": 13, "errmsg": SECRET}]}, "c")
    assert errors.checked({"value": None}, "c") == {"value": None}


def test_errors_in_a_transaction():
    """What aborted the caller's transaction is told as such; the rest stays what it is."""
    conflict = theirs.OperationFailure("conflict", 112, {"errorLabels": ["TransientTransactionError"]})
    assert type(translated(conflict, joined=True, transaction=True)) is ours.TransactionConflict
    assert (
        type(translated(theirs.DuplicateKeyError("dup", 11000), joined=True, transaction=True))
        is ours.TransactionConflict
    )
    assert type(translated(theirs.OperationFailure("no", 13), joined=True, transaction=True)) is ours.AccessDenied
    assert type(translated(theirs.InvalidOperation("ended"), joined=True)) is ours.InvalidInput


# -- clock ------------------------------------------------------------------------------------------------------------


def heartbeat(told, address=("a", 1), *, writable=True):
    """A heartbeat as PyMongo publishes it: what the clock reads of it."""
    document = {} if told is None else {"localTime": told}
    return SimpleNamespace(connection_id=address, reply=SimpleNamespace(document=document, is_writable=writable))


def moment(millis):
    """A time as PyMongo decodes it."""
    return datetime.fromtimestamp(millis / 1000, UTC).replace(tzinfo=None)


def test_clock_goes_on_from_the_heartbeat(monkeypatch):
    """The server's time, carried on by the monotonic clock; the least late of several heartbeats is believed."""
    ticks = iter([1_000, 1_000, 3_000, 3_000, 5_000, 6_000])
    monkeypatch.setattr("time.monotonic_ns", lambda: next(ticks) * 1_000_000)
    clock = HeartbeatClock()
    assert clock.now() is None
    clock.succeeded(heartbeat(moment(NOW)))
    assert clock.now() == NOW
    clock.succeeded(heartbeat(moment(NOW + 1_900)))  # 100 ms late
    assert clock.now() == NOW + 2_000
    clock.succeeded(heartbeat(moment(NOW + 4_050)))  # and one that was not
    assert clock.now() == NOW + 5_050


def test_clock_knows_what_is_under_way():
    """A heartbeat that connects is under way until it has succeeded or failed; one that is awaited is not."""
    clock, event = HeartbeatClock(), heartbeat(None)
    for end in (clock.succeeded, clock.failed):
        assert not clock.asking
        clock.started(SimpleNamespace(connection_id=event.connection_id, awaited=False))
        assert clock.asking
        end(event)
    clock.started(SimpleNamespace(connection_id=event.connection_id, awaited=True))
    assert not clock.asking


def test_clock_follows_the_primary(monkeypatch):
    """Another primary has another clock; secondaries, and replies without a time, teach nothing."""
    monkeypatch.setattr("time.monotonic_ns", lambda: 0)
    clock = HeartbeatClock()
    clock.succeeded(heartbeat(moment(NOW), writable=False))
    clock.succeeded(heartbeat(None))
    assert clock.now() is None
    clock.succeeded(heartbeat(moment(NOW)))
    clock.succeeded(heartbeat(moment(NOW - 60_000), ("b", 1)))
    assert clock.now() == NOW - 60_000


# -- URLs -------------------------------------------------------------------------------------------------------------


def read(url):
    """A URL's settings and database."""
    parsed = parse_url(url)
    chosen = read_options(parsed, MongoOptions)
    options.check(parsed, chosen)
    return options.settings(parsed, chosen), options.database(parsed)


@pytest.mark.parametrize(
    ("url", "host", "database"),
    [
        ("mongodb://", ["localhost"], "idemstore"),
        ("mongodb://h", ["h"], "idemstore"),
        ("mongodb://h/", ["h"], "idemstore"),
        ("mongodb://h:1/app", ["h:1"], "app"),
        ("mongodb://a,b:2,c/app", ["a", "b:2", "c"], "app"),
        ("mongodb://[::1]:7/app", ["[::1]:7"], "app"),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/app", ["/tmp/mongodb-27017.sock"], "app"),
        ("mongodb+srv://cluster.example.net/app", "mongodb+srv://cluster.example.net/", "app"),
        ("mongodb+motor://h/app", ["h"], "app"),
    ],
)
def test_urls(url, host, database):
    """Hosts and database of every form of URL."""
    settings, found = read(url)
    assert (settings.host, found) == (host, database)


def test_credentials_and_auth_source():
    """As in MongoDB's own URLs: the database is where the user lives, unless authSource says otherwise."""
    settings, _ = read("mongodb://me:p%40ss@h/app")
    assert (settings.options["username"], settings.options["password"]) == ("me", "p@ss")
    assert settings.options["authSource"] == "app"
    assert read("mongodb://me:p@h/app?authSource=admin")[0].options["authSource"] == "admin"
    assert "authSource" not in read("mongodb://me:p@h")[0].options
    assert "authSource" not in read("mongodb://h/app")[0].options


def test_options_are_passed_on():
    """Options that are MongoDB's keep their names and types; ours are not passed on."""
    given = "replicaSet=rs&tls=true&tlsCAFile=/ca.pem&maxPoolSize=7&appName=x&directConnection=false&retryWrites=true"
    passed = read(f"mongodb://h/app?{given}&collection=c&max_result=10&timeout=2&journal=1&w=majority")[0].options
    assert passed == {
        "replicaSet": "rs",
        "tls": True,
        "tlsCAFile": "/ca.pem",
        "maxPoolSize": 7,
        "appName": "x",
        "directConnection": False,
        "retryWrites": False,
        "retryReads": False,
    }


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("mongodb://h/a/b", ours.InvalidUrl),
        ("mongodb://h/a.b", ours.InvalidUrl),
        ("mongodb://h/a%20b", ours.InvalidUrl),
        ("mongodb://h/" + "x" * 64, ours.InvalidUrl),
        ("mongodb://h/local", ours.InvalidUrl),
        ("mongodb://h/admin", ours.InvalidUrl),
        ("mongodb://h/app?w=1", ours.UnknownOption),
        ("mongodb://h/app?readPreference=secondary", ours.UnknownOption),
        ("mongodb://h/app?collection=", ours.UnknownOption),
        ("mongodb://h/app?collection=system.users", ours.UnknownOption),
        ("mongodb://h/app?collection=$cmd", ours.UnknownOption),
        ("mongodb://h/app?replicaset=rs", ours.UnknownOption),
        ("mongodb://h/app?maxPoolSize=0", ours.UnknownOption),
        ("mongodb://h/app?max_result=8388608", ours.UnknownOption),
        ("mongodb://a,b/app?directConnection=true", ours.InvalidUrl),
        ("mongodb://h/app?authMechanism=NONSENSE", ours.InvalidUrl),
        ("mongodb://h/app?tls=true&tlsCAFile=/nowhere.pem", ours.InvalidUrl),
        ("mongodb+srv://a,b/app", ours.InvalidUrl),
        ("mongodb+srv://a:27017/app", ours.InvalidUrl),
        ("mongodb+srv:///app", ours.InvalidUrl),
        ("mongodb+nonsense://h", ours.UnknownScheme),
    ],
)
@pytest.mark.parametrize("opening", [idemstore.open, idemstore.open_async])
def test_bad_urls(url, kind, opening):
    """Every mistake in a URL is found when the store is opened, in both modes."""
    with pytest.raises(kind):
        opening(url)


def test_motor_has_no_sync_form():
    """The error says what to open instead."""
    with pytest.raises(ours.UnsupportedMode, match="mongodb://"):
        idemstore.open("mongodb+motor://h/app")


@pytest.mark.parametrize("opening", [idemstore.open, idemstore.open_async])
def test_passwords_stay_secret(opening):
    """No password, neither the user's nor the key file's, in a repr or an error."""
    url = f"mongodb://me:{SECRET}@h/app?tls=true&tlsCertificateKeyFilePassword={SECRET}"
    assert SECRET not in repr(opening(f"mongodb://me:{SECRET}@h/app"))
    assert SECRET not in repr(read(url)[0])
    with pytest.raises(ours.InvalidUrl) as caught:
        opening(f"{url}&authMechanism=NONSENSE")
    assert SECRET not in str(caught.value)


def test_two_keys_of_limit_fit_a_document():
    """A result and a checkpoint of the largest size, and the longest key, are within MongoDB's 16 MiB."""
    limits = MongoDialect("c").limits
    assert 2 * limits.value_bytes + 4 * limits.key_bytes + 4096 < 16 * 2**20


def test_nothing_is_imported_before_it_is_needed():
    """Opening another family's store does not import PyMongo, nor does PyMongo's store import Motor."""
    code = (
        "import sys, idemstore; idemstore.open('memory://'); assert 'pymongo' not in sys.modules; "
        "idemstore.open('mongodb://h'); assert 'motor' not in sys.modules and 'pymongo' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("clock", [None, NOW])
def test_answers_do_not_depend_on_the_clock_but_for_times(clock):
    """Every document is answered the same way whatever heartbeats said, except how long something still takes."""
    for event, state in product((CLAIM, *EVENTS.values()), (COMPLETED, FAILED)):
        if isinstance(event, Claim):
            assert not isinstance(answer(event, document(state=state, fingerprint=b""), clock=clock), Exchange)


@pytest.mark.parametrize(("there", "least", "most"), [(True, 0.5, 2.0), (False, 1e-9, 0.1)])
def test_good_bye(there, least, most):
    """Closing waits a moment for a server that is there, and hardly for one that is gone; 0 would be for ever."""
    line = Line("c", topology=lambda: SimpleNamespace(has_writable_server=lambda: there))
    assert least <= line.farewell() <= most
