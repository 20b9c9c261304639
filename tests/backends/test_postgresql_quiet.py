"""PostgreSQL: what calls leave behind and wait for: dead rows, locks, index entries, stale clocks."""

import time
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest

from idemstore.backends.postgresql.schema import INSTANT, Schema
from idemstore.machine import MICROSECONDS
from idemstore.outcomes import LEASE_LOST, Completed, Failed, InFlight, Mismatch
from idemstore.testing.contract_lab import Lab, claimed, done, expect
from idemstore.testing.families.postgresql import PostgresqlSubject, places

NOW = "SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint"
STATISTICS = """
    SELECT idx_scan, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, n_dead_tup, seq_scan
    FROM pg_stat_user_tables WHERE relname = %(table)s
"""


@pytest.fixture(scope="module", params=places(), ids="-".join)
def place(request):
    """A server, and the driver that reaches it."""
    return request.param


@pytest.fixture(scope="module")
def subject(place, server_pool):
    """A table."""
    made = PostgresqlSubject("postgresql", server_pool.get(place[0]))
    made.execute("ALTER TABLE {table} SET (autovacuum_enabled = off)")
    yield made
    made.close()


@pytest.fixture
def lab(place, subject):
    """A store by that driver."""
    with Lab(*subject.by(place[1])) as made:
        yield made


class Counts(dict):
    """The server's statistics of the table."""

    def since(self, before):
        """What was added."""
        return {name: self[name] - before[name] for name in self}


def counts(subject, scans=0):
    """Statistics as they are once ``scans`` index scans are in them: sessions report when they end."""
    names = ("scans", "inserts", "updates", "hot", "deletes", "dead", "sequential")
    deadline = time.monotonic() + 20
    while True:
        (row,) = subject.execute(STATISTICS, table=subject.table)
        found = Counts(zip(names, (value or 0 for value in row), strict=True))
        if found["scans"] >= scans or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@contextmanager
def transaction(subject):
    """A transaction of another program; it is rolled back unless it was committed."""
    with subject.connect() as connection:
        connection.autocommit = False
        yield connection
        connection.rollback()


def lock(subject, key):
    """The advisory lock of a key."""
    return Schema("public", subject.table)._fill("lock", "%(key)s::text", {})


def waiting(subject, number=1):
    """Return once that many sessions of ours wait for a lock."""
    text = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idemstore' AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 20
    while subject.execute(text)[0][0] < number:
        assert time.monotonic() < deadline, "nobody waits for a lock"
        time.sleep(0.005)


def later(subject, seconds):
    """Return once the server's clock is that much further."""
    end = subject.execute(NOW)[0][0] + seconds * MICROSECONDS
    while subject.execute(NOW)[0][0] < end:
        time.sleep(0.005)


# -- reading leaves nothing -------------------------------------------------------------------------------------------


def test_answers_that_change_nothing_write_nothing(lab):
    """A thousand replays, busy answers, mismatches and repeated calls: no row version, no dead row."""
    finished, running = lab.key("finished"), lab.key("running")
    done(lab.store.complete(finished, claimed(lab.store.claim(finished, fingerprint=b"f")).token, b"r"))
    owner = claimed(lab.store.claim(running)).token
    before = settled(lab)
    store = lab.open()
    for _ in range(100):
        assert store.claim(finished) == Completed(b"r")
        expect(InFlight, store.claim(running))
        assert store.claim(finished, fingerprint=b"g") == Mismatch()
        claimed(store.claim(running, token=owner))
        assert store.complete(running, "stranger", b"x") == LEASE_LOST
        assert store.renew(finished, "stranger") == LEASE_LOST
        store.get(finished)
    assert store.claim_many([finished, running] * 50)[:1] == [Completed(b"r")]
    store.close()
    found = counts(lab.subject, before["scans"] + 700).since(before)
    assert found["scans"] >= 700
    assert {name: found[name] for name in ("inserts", "updates", "hot", "deletes", "dead")} == {
        "inserts": 0,
        "updates": 0,
        "hot": 0,
        "deletes": 0,
        "dead": 0,
    }


def settled(lab):
    """Statistics once everything so far is in them."""
    lab.subject.rest()
    lab.store.ping()
    scans = counts(lab.subject)["scans"]
    probe = lab.open()
    probe.get("nothing")
    probe.close()
    lab.store.close()
    found = counts(lab.subject, scans + 1)
    stable = counts(lab.subject)
    while stable != found:
        found, stable = stable, counts(lab.subject)
    return stable


def test_answers_that_change_nothing_wait_for_nobody(lab):
    """While others hold the key's lock and its row, replays and busy answers come at once."""
    finished, running = lab.key("finished"), lab.key("running")
    done(lab.store.complete(finished, claimed(lab.store.claim(finished)).token, b"r"))
    claimed(lab.store.claim(running))
    with transaction(lab.subject) as other:
        for key in (finished, running):
            other.execute(f"SELECT pg_advisory_xact_lock({lock(lab.subject, key)})", {"key": key})
            other.execute(f"SELECT 1 FROM {lab.subject.table} WHERE key = %(key)s FOR UPDATE", {"key": key})
        assert lab.store.claim(finished) == Completed(b"r")
        expect(InFlight, lab.store.claim(running))
        assert lab.store.complete(running, "stranger", b"x") == LEASE_LOST
        assert lab.store.get(finished) is not None


def test_a_takeover_takes_the_lock(lab):
    """The lock that the test above holds is the one that takeovers queue for."""
    key = lab.key()
    claimed(lab.store.claim(key))
    lab.age(key, 100)
    with transaction(lab.subject) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({lock(lab.subject, key)})", {"key": key})
        call = lab.background(partial(lab.store.claim, key))
        waiting(lab.subject)
        assert call.running()
        other.rollback()
        assert claimed(call.result()).attempt == 2


# -- writing leaves little --------------------------------------------------------------------------------------------


def test_executions_are_hot_updates(lab):
    """A completion, failure or renewal within minutes adds no index entry."""
    before = settled(lab)
    store = lab.open()
    for number in range(60):
        key = lab.key()
        token = claimed(store.claim(key)).token
        done(store.renew(key, token))
        done(store.fail(key, token, b"no") if number % 3 == 0 else store.complete(key, token, b"r" * 100))
    store.close()
    found = counts(lab.subject, before["scans"] + 180).since(before)
    assert found["inserts"] == 60
    assert 120 <= found["updates"] <= 190, (
        "on a slow machine inserts correct their fences, and a few writes their times"
    )
    assert found["hot"] >= found["updates"] - 6, "only where a page was full may a row have moved"


def test_purge_follows_the_index(lab):
    """Among many live rows a purge reads those that are due, never the whole table."""
    lab.subject.execute(
        """
        INSERT INTO {table} (key, state, token, fence, attempt, result, expires_at, due)
        SELECT %(base)s || n, 2, 't', 1, 1, '', e, e
        FROM (SELECT n, %(now)s + 1000000::bigint * CASE WHEN n <= 30 THEN -n ELSE 86400 + n END AS e
              FROM generate_series(1, 20000) n) AS rows
        """,
        base=lab.key("bulk"),
        now=lab.store.ping(),
    )
    lab.subject.execute("ANALYZE {table}")
    before = settled(lab)
    store = lab.open()
    gone = [store.purge(10) for _ in range(5)]
    store.close()
    assert sum(gone) >= 30
    assert max(gone) <= 10
    found = counts(lab.subject, before["scans"] + 5).since(before)
    assert found["sequential"] == 0
    assert found["deletes"] == sum(gone)
    lab.subject.execute("DELETE FROM {table} WHERE key LIKE 'bulk%%'", unused=None)


def test_calls_follow_the_index_since_the_table_was_empty(lab):
    """A session keeps its plans: those that it made for an empty table must do when the table has grown."""
    subject = lab.subject
    keys = [lab.key() for _ in range(3)]
    with subject.connect() as connection:
        connection.autocommit = True
        connection.execute(f"DELETE FROM {subject.table}")
        connection.execute(f"VACUUM ANALYZE {subject.table}")
    store = lab.open(f"{subject.url}&pool=1")
    before = counts(subject)
    for _ in range(8):
        whole_lives(store, keys)
    subject.execute(
        "INSERT INTO {table} (key, state, token, fence, attempt, lease_until, expires_at, due) "
        "SELECT g, 1, 'more', 1, 1, e, e, e FROM generate_series(1, 5000) g, (SELECT 9e17::bigint AS e) ends"
    )
    whole_lives(store, keys)
    store.close()
    added = counts(subject, before["scans"] + 9 * 8 * len(keys)).since(before)
    subject.execute("DELETE FROM {table}")
    assert added["sequential"] <= 1, added  # the DELETE's own, before


def whole_lives(store, keys):
    """Claimed, found busy, completed and replayed, taken away; each key by itself."""
    for key in keys:
        token = claimed(store.claim(key)).token
        expect(InFlight, store.claim(key))
        done(store.renew(key, token))
        done(store.complete(key, token, b"r"))
        expect(Completed, store.claim(key))
        assert store.get(key) is not None
        assert store.forget(key)
    store.purge(10)


def test_purge_waits_for_nobody(lab):
    """A row that somebody holds is left for the next purge."""
    held, free = lab.key("held"), lab.key("free")
    for key in (held, free):
        claimed(lab.store.claim(key, lease=10, retention=10))
        lab.age(key, 100)
    with transaction(lab.subject) as other:
        other.execute(f"SELECT 1 FROM {lab.subject.table} WHERE key = %s FOR UPDATE", (held,))
        lab.store.purge()
        assert lab.exists(held)
        assert not lab.exists(free)
    lab.store.purge()
    assert not lab.exists(held)


def test_purge_leaves_a_key_that_is_claimed_anew(lab):
    """A row that becomes a new life in the moment of the purge is live: it stays."""
    key = lab.key()
    claimed(lab.store.claim(key, lease=10, retention=10))
    lab.age(key, 100)
    claim = claimed(lab.store.claim(key, lease=10, retention=1000))
    lab.subject.execute("UPDATE {table} SET due = 1 WHERE key = %(key)s", key=key)
    lab.store.purge()
    found = lab.store.get(key)
    assert found is not None
    assert found.record.fence == claim.fence


# -- the clock is read after the wait ---------------------------------------------------------------------------------


def holding(subject, text, key):
    """A transaction of another program that has written the key's row."""
    manager = transaction(subject)
    connection = manager.__enter__()
    connection.execute(text.replace("{table}", subject.table), {"key": key})
    return manager, connection


def after_a_wait(lab, text, key, call):
    """What the call answers that had to wait for a transaction which then rolled back; and when that was."""
    manager, connection = holding(lab.subject, text, key)
    try:
        later_call = lab.background(call)
        waiting(lab.subject)
        later(lab.subject, 0.1)
        (freed,) = lab.subject.execute(NOW)[0]
        connection.rollback()
    finally:
        manager.__exit__(None, None, None)
    return later_call.result(), freed


INSERT = "INSERT INTO {table} (key, state, token, fence, attempt, lease_until) VALUES (%(key)s, 1, 'x', 1, 1, 1)"
TOUCH = "UPDATE {table} SET attempt = attempt WHERE key = %(key)s"


def test_claim_that_waited_for_an_insert(lab):
    """The lease of a claim counts from its end, not from before the wait."""
    key = lab.key()
    answer, freed = after_a_wait(lab, INSERT, key, partial(lab.store.claim, key, lease=10, retention=20))
    claimed(answer)
    record = lab.store.get(key).record
    assert record.lease_until >= freed + 10 * MICROSECONDS
    assert record.expires_at >= freed + 30 * MICROSECONDS


STALL = (
    "CREATE FUNCTION {table}_stall() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$",
    "CREATE TRIGGER stall BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.token = 'stalled') "
    "EXECUTE FUNCTION {table}_stall()",
)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("end", ["release", "forget"])
def test_fence_grows_across_a_life_that_came_between(lab, end, many):
    """A claim stands between its clock and its insert while another is granted and deleted: its fence is greater. So
    does one in a batch. The other one comes from another store: in one store it would wait for the first.
    """
    key, store = lab.key(), lab.open()
    calls = [partial(lab.store.claim, key, token="stalled", lease=10)]
    if many:
        keys, tokens = [lab.key(), key, lab.key()], [None, "stalled", None]
        calls = [lambda: lab.store.claim_many(keys, tokens=tokens, lease=10)[1]]
    lab.subject.execute(*STALL)
    try:
        with transaction(lab.subject) as other:
            other.execute("SELECT pg_advisory_xact_lock(42)")
            call = lab.background(calls[0])
            waiting(lab.subject)
            between = claimed(store.claim(key))
            store.forget(key) if end == "forget" else done(store.release(key, between.token))
    finally:
        late = claimed(call.result())
        lab.subject.execute("DROP TRIGGER stall ON {table}", "DROP FUNCTION {table}_stall")
    assert late.fence > between.fence
    record = lab.store.get(key).record
    assert record.fence == late.fence
    assert record.lease_until >= late.fence + 10 * MICROSECONDS


@pytest.mark.parametrize("end", ["release_v1(%(key)s || n, 't')", "forget_v1(%(key)s || n)"])
def test_no_life_is_shorter_than_an_instant(subject, end):
    """Claimed and deleted in one statement, which is as fast as it can be: what claims rely on holds still."""
    claim = "{table}_claim_v1(%(key)s || n, 't', NULL, 1000000, 1000000, true, NULL)"
    text = f"SELECT {claim}, {{table}}_{end}, {NOW.removeprefix('SELECT ')} FROM generate_series(1, 200) AS n"
    for frame, answer, after in subject.execute(text, key="instant"):
        assert bytes(answer) in (b"D", b"Y")
        assert after - int.from_bytes(frame[1:9], "big") > INSTANT


@contextmanager
def stalled_between_clock_and_record(subject):
    """Whoever claims a key that is there comes to its record only when the transaction handed out is over."""
    name = f"{subject.table}_claim_v1"
    (original,) = subject.execute("SELECT pg_get_functiondef(%(name)s::regproc)", name=name)[0]
    looks = "SELECT * INTO r"
    assert original.count(looks) == 1
    with transaction(subject) as other:
        other.execute("SELECT pg_advisory_xact_lock(42)")
        subject.execute(original.replace(looks, f"PERFORM pg_advisory_xact_lock(42); {looks}").replace("%", "%%"))
        try:
            yield other
        finally:
            subject.execute(original.replace("%", "%%"))


@pytest.mark.parametrize("retry_after", [0, 5])
def test_claim_that_read_the_clock_before_a_failure(lab, retry_after):
    """It sees the record after the failure: what may be retried at once is, and nobody waits beyond the back-off."""
    key, store = lab.key(), lab.open()
    first = claimed(lab.store.claim(key, lease=10))
    lab.age(key, 50)
    with stalled_between_clock_and_record(lab.subject) as other:
        call = lab.background(partial(store.claim, key))
        waiting(lab.subject)
        done(lab.store.fail(key, first.token, b"no", retry_after=retry_after))
        other.rollback()
        answer = call.result()
    if retry_after:
        assert 0 < expect(Failed, answer).retry_after <= retry_after
    else:
        assert claimed(answer).attempt == 2


def test_takeover_that_waited_for_a_row(lab):
    """So does that of a takeover."""
    key = lab.key()
    claimed(lab.store.claim(key, lease=10))
    lab.age(key, 50)
    answer, freed = after_a_wait(lab, TOUCH, key, partial(lab.store.claim, key, lease=10))
    assert claimed(answer).attempt == 2
    assert lab.store.get(key).record.lease_until >= freed + 10 * MICROSECONDS


def test_settlements_that_waited_for_a_row(lab):
    """So do retention, back-off and renewed lease."""
    for name in ("complete", "fail", "renew"):
        key = lab.key(name)
        token = claimed(lab.store.claim(key, lease=10)).token
        calls = {
            "complete": partial(lab.store.complete, key, token, b"r", retention=10),
            "fail": partial(lab.store.fail, key, token, b"r", retention=10, retry_after=5),
            "renew": partial(lab.store.renew, key, token, lease=10),
        }
        answer, freed = after_a_wait(lab, TOUCH, key, calls[name])
        done(answer)
        record = lab.store.get(key).record
        assert record.expires_at >= freed + 10 * MICROSECONDS
        assert name != "fail" or record.retry_at >= freed + 5 * MICROSECONDS
        assert name != "renew" or record.lease_until >= freed + 10 * MICROSECONDS


def test_completion_that_waited_for_a_takeover(lab):
    """An owner that waited behind its successor's commit is told that it lost; the successor's claim stands."""
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    taken = "UPDATE {table} SET token = 'other', fence = fence + 1, attempt = 2 WHERE key = %(key)s"
    manager, connection = holding(lab.subject, taken, key)
    try:
        call = lab.background(partial(lab.store.complete, key, token, b"r"))
        waiting(lab.subject)
        connection.commit()
    finally:
        manager.__exit__(None, None, None)
    assert call.result() == LEASE_LOST
    assert lab.store.get(key).record.token == "other"


def test_takeover_that_waited_for_the_owner(lab):
    """A claimer that waited behind the late owner's completion gets the result, not the key."""
    key = lab.key()
    claimed(lab.store.claim(key))
    lab.age(key, 100)
    finished = "UPDATE {table} SET state = 2, lease_until = NULL, result = 'r' WHERE key = %(key)s"
    manager, connection = holding(lab.subject, finished, key)
    try:
        call = lab.background(partial(lab.store.claim, key))
        waiting(lab.subject)
        connection.commit()
    finally:
        manager.__exit__(None, None, None)
    assert call.result() == Completed(b"r")


def test_claim_that_waited_for_a_claim(lab):
    """A claimer that waited for an insert which was committed sees it: busy, and no row of its own."""
    key = lab.key()
    claim = INSERT.replace("1, 1, 1)", "1, 1, 32503680000000000)")
    manager, connection = holding(lab.subject, claim, key)
    try:
        call = lab.background(partial(lab.store.claim, key))
        waiting(lab.subject)
        connection.commit()
    finally:
        manager.__exit__(None, None, None)
    expect(InFlight, call.result())
    assert lab.store.get(key).record.token == "x"


def test_psycopg_is_the_observer(subject):
    """The other program of these tests is none of ours: its session has no name."""
    with subject.connect() as connection:
        assert isinstance(connection, psycopg.Connection)
        assert connection.execute("SHOW application_name").fetchone() == ("",)
