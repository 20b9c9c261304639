"""What lies in MongoDB and what does not: no-ops, damage, tombstones, sizes, indexes, races, transactions, fork.

Where there is no real MongoDB these run on an emulation (SecantusDB), and prove as much.
"""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import pytest

pytest.importorskip("pymongo")
pytest.importorskip("motor")

import bson
from bson.raw_bson import RawBSONDocument
from mongodb_servers import MODES, SCHEMES
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import DuplicateKeyError

import idemstore
from idemstore.backends.mongodb import aio, sync
from idemstore.backends.mongodb.dialect import TTL_INDEX, TTL_SECONDS, MongoDialect, Reply
from idemstore.backends.mongodb.record import FIELDS, NEVER, RELEASED
from idemstore.backends.mongodb.wire import Line
from idemstore.errors import ConfigurationError, CorruptRecord, InvalidInput, SchemaError, TransactionConflict
from idemstore.machine import Claim, State
from idemstore.outcomes import DONE, LEASE_LOST, Abandoned, Claimed, Completed, Failed, InFlight, Mismatch
from idemstore.testing.blocking import BlockingStore, LoopThread
from idemstore.testing.contract_lab import claimed, done, raises
from idemstore.testing.families.mongodb import MongoSubject, make
from idemstore.testing.proxy import Proxy


@pytest.fixture(scope="module")
def server(server_pool):
    """MongoDB, or what stands in for it."""
    return server_pool.get("mongodb")


@pytest.fixture
def subject(server, tmp_path) -> Iterator[MongoSubject]:
    """A collection of its own."""
    subject = make("mongodb", server, tmp_path)
    yield subject
    subject.close()


@pytest.fixture(params=MODES)
def mode(request) -> str:
    """Sync, async, and Motor."""
    return request.param


@pytest.fixture
def store(subject, mode):
    """A store in this mode."""
    yield from opened(subject.url, mode)


def opened(url, mode):
    """A store in a mode; closed at the end."""
    if mode == "sync":
        with idemstore.open(url) as store:
            yield store
        return
    thread = LoopThread()
    store = BlockingStore(idemstore.open_async(url.replace("mongodb", SCHEMES[mode], 1)), thread)
    yield store
    store.close()
    thread.close()


def raw(subject, key):
    """The document's own bytes."""
    codec = bson.codec_options.CodecOptions(document_class=RawBSONDocument)
    found = subject.records.with_options(codec_options=codec).find_one({"_id": key})
    return None if found is None else found.raw


def written(subject):
    """How many writes of this collection the oplog has."""
    name = f"{subject.records.database.name}.{subject.records.name}"
    return subject.records.database.client.local["oplog.rs"].count_documents({"ns": name})


# -- no-ops -----------------------------------------------------------------------------------------------------------


def test_replays_write_nothing(store, subject):
    """Replays, busy answers, refusals, re-deliveries and looks leave no trace in document or oplog."""
    for key in ("running", "lapsed", "completed", "failed", "backing off", "released"):
        claimed(store.claim(key, token="owner", fingerprint=b"f"))
    done(store.complete("completed", "owner", b"r"))
    done(store.fail("failed", "owner", b"r"))
    done(store.fail("backing off", "owner", b"r", retry_after=100))
    done(store.release("released", "owner"))
    subject.age("lapsed", 100)
    keys = ("running", "lapsed", "completed", "failed", "backing off", "released")
    documents, writes = [raw(subject, key) for key in keys], written(subject)
    assert writes >= 10, "the oplog does not show this collection's writes"
    assert isinstance(store.claim("running", fingerprint=b"f"), InFlight)
    assert isinstance(store.claim("running", fingerprint=b"f", takeover=False), InFlight)
    assert isinstance(store.claim("running", token="owner"), Claimed)
    assert isinstance(store.claim("lapsed", takeover=False), Abandoned)
    assert isinstance(store.claim("lapsed", token="owner"), Claimed)
    assert store.claim("completed", fingerprint=b"f") == Completed(b"r")
    assert store.claim("failed") == Failed(b"r")
    assert isinstance(store.claim("backing off"), Failed)
    assert all(isinstance(store.claim(key, fingerprint=b"other"), Mismatch) for key in keys[:5])
    assert store.complete("completed", "owner", b"r", retention=None) == DONE
    assert store.fail("failed", "owner", b"r", retention=None) == DONE
    assert store.release("released", "owner") == DONE
    for key in keys[:5]:
        for call in (
            store.release,
            store.renew,
            partial(store.complete, result=b"r"),
            partial(store.fail, result=b"r"),
        ):
            assert call(key, token="stranger") == LEASE_LOST
    assert store.forget("released") is False
    assert store.forget("nothing") is False
    assert [store.get(key) is None for key in keys] == [False] * 5 + [True]
    store.ping()
    assert [raw(subject, key) for key in keys] == documents
    assert written(subject) == writes


def test_writes_are_seen_by_that_test(store, subject):
    """The oplog that the test above reads does grow."""
    writes = written(subject)
    claimed(store.claim("k", token="owner"))
    done(store.renew("k", "owner"))
    assert written(subject) == writes + 2


# -- damage -----------------------------------------------------------------------------------------------------------

WRONG = {
    "_id": None,
    "state": ["bogus", 7, None, ""],
    "token": [7, None],
    "fingerprint": ["text", None],
    "result": ["text", None],
    "checkpoint": ["text", 7],
    "fence": ["1", 1.5, None],
    "attempt": ["1", True, None],
    "changed_at": ["now", None],
    "until": ["soon", None, 1.5],
    "expires_at": ["soon", None, True],
    "reclaim": ["soon", 5],
}


def damages(document):
    """The document, damaged in every way."""
    for name, values in WRONG.items():
        for value in values or []:
            yield f"{name}={value!r}", {**document, name: value}
        if name != "_id":
            yield f"no {name}", {field: held for field, held in document.items() if field != name}
    yield "one too many", {**document, "more": 1}
    yield "another order", {"_id": document["_id"], **dict(reversed(document.items()))}


@pytest.mark.parametrize("kind", ["lapsed", "expired", "retryable"])
def test_damage_is_never_overwritten(subject, kind):
    """Where a claim or the owner would write, every kind of damage is CorruptRecord, and stays as it is."""
    with idemstore.open(subject.url) as store:
        claimed(store.claim("k", lease=10, retention=50, token="owner", fingerprint=b"f"))
        if kind == "retryable":
            done(store.fail("k", "owner", b"r", retry_after=0))
        subject.age("k", {"lapsed": 20, "expired": 100, "retryable": 0}[kind])
        sound = subject.records.find_one({"_id": "k"})
        for what, damaged in damages(sound):
            subject.records.replace_one({"_id": "k"}, damaged)
            before = raw(subject, "k")
            for call in (
                partial(store.claim, "k", fingerprint=b"f"),
                partial(store.claim, "k", takeover=False),
                partial(store.complete, "k", "owner", b"r"),
                partial(store.fail, "k", "owner", b"other"),
                partial(store.renew, "k", "owner"),
                partial(store.release, "k", "owner"),
                partial(store.get, "k"),
            ):
                raises(CorruptRecord, call, what)
                assert raw(subject, "k") == before, f"{what} was overwritten"
        subject.records.replace_one({"_id": "k"}, sound)
        assert claimed(store.claim("k", fingerprint=b"f")).attempt == (1 if kind == "expired" else 2)


def test_bare_id(subject):
    """A document of nothing but its _id is what an upsert starts from: claims take it; others see no record in it."""
    with idemstore.open(subject.url) as store:
        subject.records.insert_one({"_id": "k"})
        for call in (store.get, partial(store.complete, token="t", result=b""), partial(store.release, token="t")):
            raises(CorruptRecord, partial(call, "k"))
        assert raw(subject, "k") == bson.encode({"_id": "k"})
        assert claimed(store.claim("k")).attempt == 1


def test_forget_takes_damage(subject):
    """A forget puts a tombstone in the place of whatever there is; a fence that can be read is kept."""
    with idemstore.open(subject.url) as store:
        for document in (
            {"_id": "k", "fence": bson.Int64(2**60)},
            {"_id": "k", "fence": "x"},
            {"_id": "k", "state": RELEASED},
        ):
            subject.records.replace_one({"_id": "k"}, document, upsert=True)
            assert store.forget("k") is True
            assert store.get("k") is None
            assert store.forget("k") is False
            assert claimed(store.claim("k")).fence > (2**60 if document.get("fence") == 2**60 else 0)
            assert store.forget("k") is True
            subject.records.delete_one({"_id": "k"})


# -- tombstones, fences, TTL, purge -----------------------------------------------------------------------------------


def test_tombstone(store, subject):
    """A released key keeps its fence, and nothing of anybody's."""
    first = claimed(store.claim("k", fingerprint=b"f", token="owner"))
    done(store.renew("k", "owner", checkpoint=b"half"))
    done(store.release("k", "owner"))
    found = subject.records.find_one({"_id": "k"})
    assert list(found) == list(FIELDS)
    kept = {name: found[name] for name in ("state", "token", "fingerprint", "result", "checkpoint", "fence", "attempt")}
    assert kept == {
        "state": RELEASED,
        "token": "",
        "fingerprint": b"",
        "result": b"",
        "checkpoint": None,
        "fence": first.fence,
        "attempt": 0,
    }


def test_fence_outgrows_a_clock_that_went_back(store, subject):
    """A new primary's clock may be behind: the fence grows all the same, over a release and over a takeover."""
    claimed(store.claim("k", token="owner"))
    ahead = bson.Int64(2**60)
    subject.records.update_one({"_id": "k"}, {"$set": {"fence": ahead}})
    done(store.release("k", "owner"))
    assert claimed(store.claim("k")).fence == ahead + 1
    subject.age("k", 100)
    assert claimed(store.claim("k")).fence == ahead + 2


def test_fences_of_quick_lives_grow(store):
    """Many lives within a few milliseconds: every fence is greater than the one before."""
    fences = []
    for _ in range(40):
        claim = claimed(store.claim("k"))
        fences.append(claim.fence)
        done(store.release("k", claim.token))
    assert fences == sorted(set(fences))


def test_ttl_index(subject):
    """Made once by migrate; it deletes an hour after the end, and never what has none."""
    with idemstore.open(subject.url) as store:
        store.migrate()
        index = subject.records.index_information()[TTL_INDEX]
        assert (index["key"], index["expireAfterSeconds"]) == ([("reclaim", 1)], TTL_SECONDS)
        claimed(store.claim("ever", retention=None, token="owner"))
        claimed(store.claim("short", lease=10, retention=20))
        ever, short = (subject.records.find_one({"_id": key}) for key in ("ever", "short"))
        assert (ever["reclaim"], ever["expires_at"]) == (None, NEVER)
        end = datetime.fromtimestamp(short["expires_at"] / 1000, UTC).replace(tzinfo=None)
        assert short["reclaim"] == end
        done(store.renew("ever", "owner", lease=5))
        assert subject.records.find_one({"_id": "ever"})["reclaim"] is None
        done(store.complete("ever", "owner", b"r", retention=None))
        assert subject.records.find_one({"_id": "ever"})["reclaim"] is None


def test_renewed_end_moves(store, subject):
    """A renewal moves lease, end of retention and TTL date together."""
    claimed(store.claim("k", lease=10, retention=50, token="owner"))
    done(store.renew("k", "owner", lease=1000))
    found = subject.records.find_one({"_id": "k"})
    assert found["expires_at"] - found["until"] == 50_000
    assert found["until"] - found["changed_at"] == 1_000_000
    assert found["reclaim"].replace(tzinfo=UTC).timestamp() * 1000 == pytest.approx(found["expires_at"], abs=1)


def test_another_index_of_that_name(subject):
    """An index that is not ours stops migrate, with what to do."""
    subject.records.drop_index(TTL_INDEX)
    subject.records.create_index("token", name=TTL_INDEX)
    with idemstore.open(subject.url) as store:
        assert TTL_INDEX in str(raises(SchemaError, store.migrate))


def test_unique_index_of_another_field(store, subject):
    """A unique index that records violate is named as the trouble, and not tried against for ever."""
    subject.records.create_index("state", unique=True)
    claimed(store.claim("one"))
    assert "unique index" in str(raises(SchemaError, partial(store.claim, "two")))


def test_purge_takes_old_tombstones(store, subject):
    """A tombstone goes when its time has come, not before: until then the next fence needs it."""
    token = claimed(store.claim("k")).token
    done(store.release("k", token))
    assert store.purge() == 0
    assert subject.exists("k")
    subject.records.update_one({"_id": "k"}, {"$set": {"reclaim": datetime(2020, 1, 1, tzinfo=UTC)}})
    assert store.purge() == 1
    assert not subject.exists("k")


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_largest_record(subject):
    """The longest key with the largest checkpoint and the largest result fits into one document."""
    with idemstore.open(subject.url.replace("timeout=20", "timeout=60")) as store:
        key, block = "k" * store.limits.key_bytes, b"\xff" * store.limits.value_bytes
        claimed(store.claim(key, token="t" * 128, fingerprint=b"f" * 64))
        done(store.renew(key, "t" * 128, checkpoint=block))
        done(store.fail(key, "t" * 128, block))
        found = store.get(key)
        assert found.state is State.FAILED
        assert found.record.result == block
        assert found.record.checkpoint == block


# -- races ------------------------------------------------------------------------------------------------------------


class Racing:
    """Between driver and client: the first upserts lose their race."""

    def __init__(self, send, times):
        self.send, self.times = send, times

    def __call__(self, command):
        """One command."""
        if self.times > 0 and command.get("upsert"):
            self.times -= 1
            raise DuplicateKeyError("E11000", 11000, {"keyPattern": {"_id": 1}})
        return self.send(command)


def test_lost_upserts_ask_again(subject):
    """E11000 on _id is answered by asking again, as often as it takes; sync."""
    database = subject.records.database
    driver = sync.SyncDriver(Racing(partial(database.command, codec_options=sync.CODEC), 3), Line("c"))
    dialect, event = MongoDialect(subject.records.name), Claim(None, "mine", 30_000_000, None)
    answer, trips = dialect.claim("k", event), 0
    while not isinstance(answer, Claimed):
        answer, trips = answer.parse(driver.execute(answer.request, 5.0)), trips + 1
    assert (answer.attempt, trips) == (1, 4)


async def _lost_async(url, database, name):
    """As above; async."""
    async with AsyncMongoClient(url) as client:
        racing = Racing(partial(client[database].command, codec_options=aio.CODEC), 2)

        async def send(command):
            return await racing(command)

        driver = aio.AsyncMongoDriver(send, Line("c"))
        answer = MongoDialect(name).claim("k", Claim(None, "mine", 30_000_000, None))
        while not isinstance(answer, Claimed):
            answer = answer.parse(await driver.execute(answer.request, 5.0))
        return answer


def test_lost_upserts_ask_again_async(subject, server):
    """The same for the async driver."""
    assert asyncio.run(_lost_async(server.url, subject.records.database.name, subject.records.name)).attempt == 1


class Counting:
    """A driver that counts its calls, and the upserts that found out that another was first."""

    def __init__(self, inner):
        self.inner, self.calls, self.races = inner, 0, 0
        self.lock = threading.Lock()

    def seen(self, reply):
        """One more."""
        assert isinstance(reply, Reply)
        with self.lock:
            self.calls += 1
            self.races += "value" in reply.body and reply.body["value"] is None
        return reply

    def execute(self, request, timeout):
        """Count."""
        reply = self.inner.execute(request, timeout)
        if not asyncio.iscoroutine(reply):
            return self.seen(reply)

        async def later():
            return self.seen(await reply)

        return later()

    def close(self):
        """The driver's own."""
        return self.inner.close()


CLIENTS = 64


def test_hot_key_of_threads(subject):
    """64 threads on one key: one runs, the others are told so, and nobody asks twice but losers of the first upsert."""
    counters = []
    with idemstore.open(subject.url) as outer:
        store = outer.wrapped(lambda driver: counters.append(Counting(driver)) or counters[0])
        store.ping()
        counters[0].calls = counters[0].races = 0
        gate, answers = threading.Barrier(CLIENTS), []

        def client():
            gate.wait()
            answers.append(store.claim("hot"))

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _one_winner(answers, counters[0])
        store.close()


def _one_winner(answers, counter):
    """One claim, everybody else is told to wait; one trip each."""
    assert sorted(type(answer).__name__ for answer in answers) == ["Claimed"] + ["InFlight"] * (CLIENTS - 1)
    assert counter.calls == CLIENTS + counter.races


@pytest.mark.parametrize("kind", ["async", "motor"])
def test_hot_key_of_tasks(subject, kind):
    """64 tasks on one key, likewise."""
    counters = []

    async def run():
        async with idemstore.open_async(subject.url.replace("mongodb", SCHEMES[kind], 1)) as outer:
            store = outer.wrapped(lambda driver: counters.append(Counting(driver)) or counters[0])
            await store.ping()
            counters[0].calls = counters[0].races = 0
            answers = await asyncio.gather(*(store.claim("hot") for _ in range(CLIENTS)))
            await store.close()
            return answers

    _one_winner(asyncio.run(run()), counters[0])


# -- transactions -----------------------------------------------------------------------------------------------------


def test_commit_together(subject, server):
    """What the store did in a session's transaction is there after the commit, with the caller's own write."""
    with MongoClient(server.url) as client, idemstore.open(subject.url) as store, client.start_session() as session:
        effects = client[subject.records.database.name][f"{subject.records.name}_effects"]
        token = claimed(store.claim("k")).token
        with session.start_transaction():
            effects.insert_one({"_id": 1}, session=session)
            done(store.on(session).complete("k", token, b"r"))
            assert isinstance(store.claim("k"), InFlight)
        assert store.claim("k") == Completed(b"r")
        assert effects.count_documents({}) == 1
        effects.drop()


def test_a_guard_needs_the_session_to_be_in_a_transaction(subject, server):
    """A session that began none commits each call by itself."""
    with MongoClient(server.url) as client, idemstore.open(subject.url) as store, client.start_session() as session:
        guard = idemstore.Guard(store.on(session))
        with pytest.raises(ConfigurationError, match="open transaction"):
            guard.call("guarded", lambda: "ran")
        assert store.get("guarded") is None
        with session.start_transaction():
            assert guard.call("guarded", lambda: "ran") == "ran"
        assert isinstance(store.claim("guarded"), Completed)


def test_rollback_leaves_no_trace(subject, server):
    """After an abort neither the caller's write nor the store's is there, byte for byte."""
    with MongoClient(server.url) as client, idemstore.open(subject.url) as store, client.start_session() as session:
        token = claimed(store.claim("k")).token
        before = raw(subject, "k")
        session.start_transaction()
        joined = store.on(session)
        done(joined.complete("k", token, b"r"))
        assert joined.claim("k") == Completed(b"r")
        claimed(joined.claim("other"))
        session.abort_transaction()
        assert raw(subject, "k") == before
        assert raw(subject, "other") is None
        done(store.complete("k", token, b"again"))


def test_conflict_in_a_transaction(subject, server):
    """A record that changed after the transaction began: TransactionConflict, retryable, from its start."""
    with MongoClient(server.url) as client, idemstore.open(subject.url) as store, client.start_session() as session:
        token = claimed(store.claim("k")).token
        session.start_transaction()
        joined = store.on(session)
        assert joined.get("k") is not None
        done(store.renew("k", token))
        error = raises(TransactionConflict, partial(joined.complete, "k", token, b"r"))
        assert error.retryable
        session.abort_transaction()
        with session.start_transaction():
            done(joined.complete("k", token, b"r"))
        assert store.claim("k") == Completed(b"r")


async def _transactions(url, client, kind, subject):
    """Commit, abort and busy answers over an async session."""
    async with idemstore.open_async(url.replace("mongodb", SCHEMES[kind], 1)) as store:
        token = claimed(await store.claim("k")).token
        async with await _session(client) as session:
            await _begin(session)
            joined = store.on(session)
            done(await joined.complete("k", token, b"r"))
            await session.abort_transaction()
            assert isinstance(await store.claim("k"), InFlight)
            assert isinstance(await joined.claim("k"), InFlight)
            await _begin(session)
            assert await joined.complete_many([("k", token, b"r"), ("other", "t", b"r")]) == [DONE, LEASE_LOST]
            await session.commit_transaction()
        assert await store.claim("k") == Completed(b"r")


async def _session(client):
    """PyMongo's session is there at once, Motor's is awaited."""
    session = client.start_session()
    return await session if asyncio.iscoroutine(session) or isinstance(session, asyncio.Future) else session


async def _begin(session):
    """PyMongo's transaction is awaited, Motor's begins at once."""
    begun = session.start_transaction()
    if asyncio.iscoroutine(begun):
        await begun


@pytest.mark.parametrize("kind", ["async", "motor"])
def test_async_transactions(subject, server, kind):
    """The same over PyMongo's async session and over Motor's."""

    async def run():
        client = AsyncMongoClient(server.url) if kind == "async" else AsyncIOMotorClient(server.url)
        try:
            await _transactions(subject.url, client, kind, subject)
        finally:
            closing = client.close()
            if closing is not None:
                await closing

    asyncio.run(run())


def test_on_takes_sessions_only(store):
    """Anything else is refused, with what it should be."""
    inner = store.inner if isinstance(store, BlockingStore) else store
    joined = inner.on(object())
    joined = BlockingStore(joined, store.thread) if isinstance(store, BlockingStore) else joined
    assert "ClientSession" in str(raises(InvalidInput, partial(joined.claim, "k")))


def test_ended_session(subject, server):
    """A session that has ended is the caller's mistake, and told as such."""
    with MongoClient(server.url) as client, idemstore.open(subject.url) as store:
        session = client.start_session()
        session.end_session()
        raises(InvalidInput, partial(store.on(session).claim, "k"))


# -- processes and cancelling -----------------------------------------------------------------------------------------

FORKED = """
import os, sys, idemstore
from idemstore.outcomes import Claimed, InFlight
store = idemstore.open(sys.argv[1])
assert isinstance(store.claim("parent"), Claimed)
child = os.fork()
if child == 0:
    assert isinstance(store.claim("parent"), InFlight)
    assert isinstance(store.claim("child"), Claimed)
    assert all(isinstance(answer, Claimed) for answer in store.claim_many(["a", "b", "c"]))
    store.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert isinstance(store.claim("child"), InFlight)
store.close()
"""


def test_fork(subject):
    """A child has a client of its own: PyMongo's warning about fork does not come up, in parent or child."""
    code = [sys.executable, "-W", "error::UserWarning", "-W", "error::ResourceWarning", "-c", FORKED, subject.url]
    run = subprocess.run(code, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["async", "motor"])
def test_cancelled_calls(subject, kind):
    """Calls that are cancelled under way take nothing with them: the store goes on, within its pool."""

    async def run(port):
        url = f"{subject.url.replace('mongodb', SCHEMES[kind], 1)}&maxPoolSize=4"
        head, _, tail = url.partition("://")
        async with idemstore.open_async(f"{head}://127.0.0.1:{port}/{tail.partition('/')[2]}") as store:
            await store.ping()
            proxy.latency = 50.0
            for wait in (0.0, 0.01, 0.03, 0.06):
                tasks = [asyncio.create_task(store.claim(f"{wait}-{n}")) for n in range(6)]
                await asyncio.sleep(wait)
                for task in tasks:
                    task.cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(answer, asyncio.CancelledError | Claimed) for answer in answers), answers
            proxy.latency = 0.0
            assert isinstance(await store.claim("after"), Claimed)
            assert isinstance(await store.claim("after"), InFlight)

    host, _, port = subject.url.partition("://")[2].partition("/")[0].partition(":")
    with Proxy(host, int(port)) as proxy:
        asyncio.run(run(proxy.port))


def test_cancelled_while_connecting(subject):
    """A call that is cancelled while its connection is made leaves no socket behind, and no task."""

    async def run():
        async with idemstore.open_async(subject.url) as store:
            await store.ping()
            for wait in (0.0, 0.001, 0.003):
                tasks = [asyncio.create_task(store.claim(f"{wait}-{n}")) for n in range(10)]
                await asyncio.sleep(wait)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(await store.claim("after"), Claimed)
            mine = asyncio.current_task()
        assert not [task for task in asyncio.all_tasks() if task is not mine and "_execute" in repr(task)]

    asyncio.run(run())
    gc.collect()
