"""Calls that travel together on real servers: who holds up whom, and in which order a batch is applied."""

import asyncio
import sqlite3
import time
from contextlib import closing

import psycopg
import pytest

import idemstore
from idemstore.backends.sqlite.dialect import Apply
from idemstore.backends.sqlite.session import PENDING, Place, Session
from idemstore.coalesce import Coalescer
from idemstore.errors import CorruptRecord, UnknownOption
from idemstore.machine import Claim, Complete, Fail, Release
from idemstore.outcomes import DONE, LEASE_LOST, MISMATCH, Claimed, Completed, Failed, InFlight
from idemstore.testing import families

SECOND = 1_000_000
FAMILIES = ("sqlite", "redis", "postgresql", "postgresql15-psycopg")


@pytest.fixture(params=[name for name in FAMILIES if name in families.names()])
def subject(request, make_subject):
    """Each family that coalesces."""
    return make_subject(request.param)


@pytest.fixture
def postgresql(make_subject):
    """PostgreSQL alone."""
    return make_subject("postgresql")


@pytest.fixture
def sqlite(make_subject):
    """SQLite alone."""
    return make_subject("sqlite")


async def carried(store, asks):
    """What a batch of exchanges answers, carried as coalesced calls are."""
    driver = store._live()
    assert isinstance(driver, Coalescer)
    replies = await driver._carry([ask.request for ask in asks], 5)
    return [ask.parse(reply) for ask, reply in zip(asks, replies, strict=True)]


def test_the_option_of_each_family():
    """On where it wins, unless the URL says something else; families that have no form of it say so."""

    async def coalesces(url):
        store = idemstore.open_async(url)
        driver = store._live()
        await store.close()
        return isinstance(driver, Coalescer)

    for url in ("redis://localhost:1", "postgresql://localhost:1/db"):
        assert asyncio.run(coalesces(f"{url}?coalesce=1"))
        assert not asyncio.run(coalesces(f"{url}?coalesce=0"))
        assert asyncio.run(coalesces(url))
    for url in ("mongodb://localhost:1/db?", "dynamodb+http://localhost:1/table?region=us-east-1&"):
        assert not asyncio.run(coalesces(f"{url}coalesce=0&local_cache=3"))
        with pytest.raises(UnknownOption, match="coalesce"):
            idemstore.open_async(f"{url}coalesce=1")


def test_a_batch_applies_the_calls_of_one_key_in_order(subject):
    """Whatever is done at once, and whatever is looked at before it is written: none overtakes another on its key."""

    def claim(token, takeover=True, fingerprint=None):
        return Claim(fingerprint, token, 30 * SECOND, 60 * SECOND, takeover)

    async def main():
        async with idemstore.open_async(subject.url) as store:
            await asyncio.gather(*(store.claim(key, token="owner") for key in ("k1", "k2", "k3", "k4")))
            await store.claim("k5", token="owner", fingerprint=b"f")
            for settle in (store.complete, store.fail):  # a server may have to learn the scripts first
                await settle("nobody's", "owner", b"r")
            await store.release("nobody's", "owner")
            say = store._dialect
            asks = [
                say.complete("k1", Complete("owner", b"r", 60 * SECOND)),
                say.claim("k1", claim("other")),
                say.claim("k2", claim("other")),
                say.complete("k2", Complete("owner", b"r", 60 * SECOND)),
                say.release("k3", Release("owner")),
                say.claim("k3", claim("other")),
                say.release("new", Release("nobody")),
                say.claim("new", claim("mine")),
                say.claim("new", claim("other")),
                say.complete("new", Complete("mine", b"n", 60 * SECOND)),
                say.complete("new", Complete("other", b"x", 60 * SECOND)),
                say.fail("k4", Fail("owner", b"no", 60 * SECOND, None)),
                say.complete("k4", Complete("owner", b"r", 60 * SECOND)),
                say.claim("k4", claim("other")),
                say.claim("k5", claim("other", fingerprint=b"g")),
            ]
            answers = await carried(store, asks)
            for key in ("k1", "k2", "k3", "k4", "k5", "new"):
                await store.forget(key)
            return answers

    one, other, busy, done, released, taken, absent, new, late, own, stranger, failed, lost, replay, odd = asyncio.run(
        main()
    )
    assert (one, other) == (DONE, Completed(b"r"))
    assert isinstance(busy, InFlight)
    assert done == released == absent == own == failed == DONE
    assert isinstance(taken, Claimed)
    assert isinstance(new, Claimed)
    assert isinstance(late, InFlight)
    assert stranger == lost == LEASE_LOST
    assert replay == Failed(b"no")
    assert odd == MISMATCH


def test_a_batch_of_different_keys(subject):
    """What is done all at once, and what is left to go item by item, are told apart rightly."""

    async def main():
        async with idemstore.open_async(subject.url) as store:
            say, none = store._dialect, "nobody's-2"
            for key in ("d-done", "d-own", "d-busy", "d-theirs", "d-gone"):
                await store.claim(key, token="owner", fingerprint=b"f")
            await store.complete("d-done", "owner", b"first")
            await store.release(none, "owner")
            asks = [
                say.complete("d-own", Complete("owner", b"r", None)),
                say.claim("d-new-1", Claim(b"f", "one", 30 * SECOND, None)),
                say.claim("d-done", Claim(b"f", "x", 30 * SECOND, None)),
                say.claim("d-new-2", Claim(None, "two", 30 * SECOND, 60 * SECOND)),
                say.claim("d-busy", Claim(b"g", "x", 30 * SECOND, None)),
                say.complete("d-theirs", Complete("stranger", b"r", None)),
                say.complete("d-nothing", Complete("owner", b"r", None)),
                say.release("d-gone", Release("owner")),
            ]
            answers = await carried(store, asks)
            seen = [await store.get(key) for key in ("d-own", "d-new-1", "d-new-2")]
            for key in ("d-done", "d-own", "d-busy", "d-theirs", "d-gone", "d-new-1", "d-new-2"):
                await store.forget(key)
            return answers, [found.record for found in seen if found is not None]

    (own, one, replay, two, mismatch, theirs, nothing, gone), (completed, first, second) = asyncio.run(main())
    assert own == gone == DONE
    assert replay == Completed(b"first")
    assert mismatch == MISMATCH
    assert theirs == nothing == LEASE_LOST
    assert (completed.result, completed.fingerprint, completed.expires_at) == (b"r", b"f", None)
    assert one == Claimed("one", first.fence, 1)
    assert two == Claimed("two", second.fence, 1)
    assert (first.fingerprint, first.expires_at, second.fingerprint) == (b"f", None, None)
    assert second.lease_until is not None
    assert second.expires_at == second.lease_until + 60 * SECOND
    assert abs(second.lease_until - second.fence - 30 * SECOND) < SECOND


def test_a_key_that_a_transaction_holds_delays_no_other(postgresql):
    """Somebody's transaction has locked a key and does not end: who coalesces with a call on it is answered anyway."""

    async def main(connection):
        async with idemstore.open_async(f"{postgresql.url}&timeout=20") as store:
            assert isinstance(await store.claim("held", token="owner", lease=30), Claimed)
            with connection.transaction():
                connection.execute(f"UPDATE {postgresql.table} SET attempt = attempt WHERE key = 'held'")
                calls = [asyncio.create_task(store.claim(f"free-{number}")) for number in range(30)]
                stuck = asyncio.create_task(store.complete("held", "owner", b"r"))
                calls += [asyncio.create_task(store.claim(f"free-{number}")) for number in range(30, 60)]
                began = time.monotonic()
                answers = await asyncio.gather(*calls)
                assert time.monotonic() - began < 5
                assert {type(answer) for answer in answers} == {Claimed}
                assert not stuck.done()
            assert await stuck == DONE

    with closing(psycopg.connect(postgresql._server, autocommit=True)) as connection:
        asyncio.run(main(connection))


def test_replays_pass_writes_that_wait_for_the_file(sqlite, monkeypatch):
    """Another process has the write lock: replays that left together with claims are answered; the claims try on."""
    began: list[int] = []
    run = Session.run

    def noting(session, requests, timeout):
        began.append(len(requests))
        return run(session, requests, timeout)

    async def main(other):
        async with idemstore.open_async(sqlite.url) as store:
            claim = await store.claim("finished")
            await store.complete("finished", claim.token, b"r")
            other.execute("BEGIN IMMEDIATE")
            monkeypatch.setattr(Session, "run", noting)
            claims = [asyncio.create_task(store.claim(f"c{number}")) for number in range(10)]
            replays = [asyncio.create_task(store.claim("finished")) for _ in range(10)]
            assert await asyncio.gather(*replays) == [Completed(b"r")] * 10
            assert max(began) > 1
            assert not any(task.done() for task in claims)
            other.execute("COMMIT")
            assert {type(answer) for answer in await asyncio.gather(*claims)} == {Claimed}

    with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
        asyncio.run(main(other))


def test_a_look_without_the_lock_lets_nothing_overtake(sqlite):
    """What stands behind a write on the same key waits with it; others are answered."""
    with idemstore.open(sqlite.url) as store:
        for key in ("mine", "theirs"):
            store.claim(key, token="owner")
    session = Session(Place(str(sqlite.path)))
    claim = Claim(None, "other", SECOND, SECOND)
    complete = Apply("mine", Complete("owner", b"r", SECOND))
    answers = session.look([complete, Apply("mine", claim), Apply("theirs", claim)], 5)
    session.close()
    assert answers[:2] == [PENDING, PENDING]
    assert isinstance(answers[2], InFlight)


def test_a_row_that_cannot_be_written_spoils_no_other(sqlite):
    """Its fence leads beyond what a column holds: that request alone is refused, the rows of its batch are written."""
    keys = [f"row-{number}" for number in range(8)]
    with idemstore.open(sqlite.url) as store:
        store.claim(keys[3], token="owner")
        sqlite.execute("UPDATE idemstore SET fence = 9223372036854775807 WHERE key = ?", keys[3])
        sqlite.age(keys[3], 100)
        answers = store.claim_many(keys, tokens=[f"token-{key}" for key in keys])
        assert [type(answer) for answer in answers] == [Claimed] * 3 + [CorruptRecord] + [Claimed] * 4
        owners = [found.record.token for found in map(store.get, keys) if found is not None]
        assert owners == [f"token-{key}" if key != keys[3] else "owner" for key in keys]


def test_a_batch_sees_its_own_writes(sqlite):
    """What is read at the beginning of a batch is not taken for what is there after its own writes and deletions."""
    with idemstore.open(sqlite.url) as store:
        keys = [f"own-{number}" for number in range(6)]
        first = store.claim_many(keys, tokens=["a"] * 6)
        assert {type(answer) for answer in first} == {Claimed}
        again = store.claim_many([*keys, "new", *keys, "new"], tokens=["b"] * 14)
        assert [type(answer) for answer in again] == [InFlight] * 6 + [Claimed] + [InFlight] * 6 + [Claimed]
        assert again[-1] == again[6]
        driver, say = store._live(), store._dialect
        asks = [
            ask
            for key in keys
            for ask in (
                say.release(key, Release("a")),
                say.claim(key, Claim(None, "c", SECOND, SECOND)),
                say.complete(key, Complete("c", b"r", SECOND)),
                say.claim(key, Claim(None, "d", SECOND, SECOND)),
            )
        ]
        answers = driver.execute_many([ask.request for ask in asks], 5)
        claims = [answer for answer in answers if isinstance(answer, Claimed)]
        assert len(claims) == 6
        assert all(claim.fence > one.fence for claim, one in zip(claims, first, strict=True))
        assert answers[3::4] == [Completed(b"r")] * 6
