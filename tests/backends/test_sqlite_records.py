"""What an SQLite file holds: fences and clocks, damaged rows, the collection in passing, and the machine as a model."""

import itertools
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import idemstore
from idemstore.backends.sqlite import session
from idemstore.backends.sqlite.dialect import SqliteDialect
from idemstore.backends.sqlite.driver import SqliteDriver
from idemstore.backends.sqlite.session import COLLECT_EVERY, HIGHEST_FENCE, Place
from idemstore.errors import CorruptRecord
from idemstore.machine import MICROSECONDS, Claim, Complete, Fail, Phase, Record, Release, Renew, phase, step
from idemstore.outcomes import Abandoned, Claimed, Done
from idemstore.store import Store
from idemstore.testing.contract_lab import Lab
from idemstore.testing.families.sqlite import SqliteSubject
from idemstore.testing.storm import perform

SECOND = MICROSECONDS


@pytest.fixture(params=["sync", "async"])
def mode(request):
    """Both modes."""
    return request.param


@pytest.fixture
def subject(tmp_path):
    """A file of its own."""
    return SqliteSubject(tmp_path / "idem.db")


class Clock:
    """A clock that a test sets."""

    def __init__(self, now=10**15):
        self.now = now

    def __call__(self):
        return self.now


def clocked(subject, clock, connections=1):
    """A store that goes by a clock of ours."""
    place = Place(str(subject.path), clock=clock)
    return Store(SqliteDialect(1000), lambda: SqliteDriver(place, connections), timeout=5, name="clocked")


# -- fences and clocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["release", "forget", "purge", "collect", "expire"])
@pytest.mark.parametrize("drift", [0, -5 * SECOND, -3600 * SECOND])
def test_fence_grows_across_deleted_lives(subject, end, drift):
    """However a record goes, its key's next fence is greater, even where the clock stood still or was set back."""
    clock, fences = Clock(), []
    with clocked(subject, clock) as store:
        for _ in range(5):
            claim = store.claim("k", lease=1, retention=1)
            assert isinstance(claim, Claimed)
            assert claim.attempt == 1
            fences.append(claim.fence)
            if end == "release":
                store.release("k", claim.token)
            elif end == "forget":
                store.forget("k")
            else:
                clock.now += 3 * SECOND
            if end == "purge":
                assert store.purge() == 1
            elif end == "collect":
                for _ in range(COLLECT_EVERY + 1):
                    store.claim("other", retention=None)
                    store.forget("other")
            if end != "expire":
                assert not subject.exists("k")
                clock.now += drift
    assert fences == sorted(set(fences))


def test_leases_do_not_follow_the_fence(subject):
    """After the clock was set back, fences go on from where they were, but leases count from the clock's now."""
    clock = Clock()
    with clocked(subject, clock) as store:
        first = store.claim("k")
        store.release("k", first.token)
        clock.now -= 3600 * SECOND
        second = store.claim("k", lease=10)
        assert second.fence == first.fence + 1
        assert store.get("k").record.lease_until == clock.now + 10 * SECOND


def test_fence_is_the_clock_where_nothing_was_deleted(subject):
    """The usual case: microseconds since the epoch."""
    clock = Clock()
    with clocked(subject, clock) as store:
        assert store.claim("k").fence == clock.now


def test_damaged_fence_spoils_no_other_key(subject):
    """A nonsense fence that is forgotten does not push up every later fence."""
    with idemstore.open(subject.url) as store:
        store.claim("k")
        subject.execute(f"UPDATE idemstore SET fence = {2**63 - 1}")
        assert store.forget("k") is True
        assert store.claim("k").fence < HIGHEST_FENCE


# -- damage -----------------------------------------------------------------------------------------------------------


def loosened(subject):
    """Take the types and checks off the table, as a program that rewrites the schema could."""
    with closing(sqlite3.connect(subject.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'STRICT', '') WHERE name = 'idemstore'")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'idemstore'")
        connection.execute("PRAGMA writable_schema = OFF")


DAMAGE = {
    "unknown state": "state = 'cancelled'",
    "attempt": "attempt = -1",
    "no attempt": "attempt = 0",
    "no lease": "lease_until = NULL",
    "result of a running claim": "result = x'00'",
    "negative fence": "fence = -5",
    "empty token": "token = ''",
    "state NULL": "state = NULL",
    "token NULL": "token = NULL",
    "all NULL": "state = NULL, token = NULL, fence = NULL, attempt = NULL, lease_until = NULL, expires_at = NULL",
    "text for a number": "fence = 'many'",
    "text for a time": "expires_at = 'tomorrow'",
    "text for bytes": "fingerprint = 'abc'",
    "bytes for text": "state = x'FF'",
    "not UTF-8": "token = CAST(x'FFFE' AS TEXT)",
}

ROW = f"SELECT {', '.join(f'typeof({name}), hex({name})' for name in Record._fields)} FROM idemstore WHERE key = 'k'"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_record(subject, mode, damage):
    """Whatever another program left: never absent, never handed out, never overwritten; ``forget`` heals it."""
    with Lab(subject, mode) as lab:
        token = lab.store.claim("k", fingerprint=b"f", lease=60).token
        lab.store.claim("neighbour")
        loosened(subject)
        subject.execute(f"UPDATE idemstore SET {damage} WHERE key = 'k'")
        before = subject.execute(ROW)
        calls = [
            lambda: lab.store.claim("k"),
            lambda: lab.store.claim("k", token=token),
            lambda: lab.store.complete("k", token, b"r"),
            lambda: lab.store.fail("k", token, b"r"),
            lambda: lab.store.renew("k", token),
            lambda: lab.store.release("k", token),
            lambda: lab.store.get("k"),
        ]
        for call in calls:
            with pytest.raises(CorruptRecord):
                call()
        assert [type(item) for item in lab.store.claim_many(["k", "new"])] == [CorruptRecord, Claimed]
        assert subject.execute(ROW) == before
        assert lab.store.forget("k") is True
        assert isinstance(lab.store.claim("k"), Claimed)


def test_numbers_out_of_range(subject):
    """Numbers that a step would push beyond what SQLite can hold: damage, too."""
    with idemstore.open(subject.url) as store:
        store.claim("k", lease=10)
        subject.age("k", 20)
        subject.execute(f"UPDATE idemstore SET fence = {2**63 - 1}")
        with pytest.raises(CorruptRecord, match="out of range"):
            store.claim("k")


def test_purge_leaves_damage(subject):
    """A row that is no record of ours stays for people to look at, though its time seems over."""
    with idemstore.open(subject.url) as store:
        for key in ("good", "bad"):
            store.claim(key, lease=1, retention=1)
            subject.age(key, 10)
        subject.damage("bad")
        assert store.purge() == 1
        assert subject.exists("bad")
        assert store.purge() == 0


# -- collection -------------------------------------------------------------------------------------------------------


def test_file_does_not_grow_for_ever(subject):
    """Without any purge, writes delete what has expired, a little at a time and faster than they add to it."""
    clock = Clock()
    with clocked(subject, clock) as store:
        for number in range(2000):
            clock.now += SECOND
            claim = store.claim(f"key-{number}", lease=1, retention=10)
            store.complete(f"key-{number}", claim.token, b"r", retention=10)
    (left,) = subject.execute("SELECT count(*) FROM idemstore")[0]
    assert left <= 10 + COLLECT_EVERY


def test_collection_is_bounded(subject):
    """A backlog goes bit by bit: no single call deletes it all."""
    clock = Clock()
    with clocked(subject, clock) as store:
        store.claim_many([f"key-{number}" for number in range(500)], lease=1, retention=1)
        clock.now += 10 * SECOND
        counts = []
        for number in range(200):
            store.claim(f"new-{number}")
            counts.append(subject.execute("SELECT count(*) FROM idemstore WHERE key LIKE 'key-%'")[0][0])
        drops = [before - after for before, after in itertools.pairwise([500, *counts]) if before != after]
        assert 1 < len(drops) < 10
        assert max(drops) <= COLLECT_EVERY * 4
        assert counts[-1] == 0


def test_first_write_of_a_process_collects(subject):
    """A program that writes but once a day cleans up, too."""
    with idemstore.open(subject.url) as store:
        store.claim("old", lease=1, retention=1)
        subject.age("old", 10)
    with idemstore.open(subject.url) as store:
        store.claim("new")
    assert not subject.exists("old")


def test_collection_spares_the_living(subject):
    """Records without an end, records whose end is to come, and records that lapsed but are still kept."""
    clock = Clock()
    with clocked(subject, clock) as store:
        kept = {"for ever": None, "long": 10**6, "lapsed": 100}
        for key, retention in kept.items():
            store.claim(key, lease=1, retention=retention)
        clock.now += 50 * SECOND
        for _ in range(2 * COLLECT_EVERY):
            store.claim("other")
            store.forget("other")
        assert all(store.get(key) for key in kept)
        assert store.purge() == 0


def test_purge_deletes_what_it_reports(subject):
    """No collection in passing goes with a purge, be it due (the first write of a process)."""
    dialect = SqliteDialect(1000)
    with idemstore.open(subject.url) as store:
        keys = [f"key-{number}" for number in range(10)]
        store.claim_many(keys, lease=1, retention=1)
        for key in keys:
            subject.age(key, 10)
    with closing(SqliteDriver(Place(str(subject.path)), 1)) as driver:
        claim = dialect.claim("new", Claim(None, "t", SECOND, SECOND))
        _, gone = driver.execute_many([claim.request, dialect.purge(3).request], 5)
    assert gone == 3
    assert sum(subject.exists(key) for key in keys) == 7


def test_purge_counts_over_transactions(subject):
    """More than one transaction's worth, and no more than was asked for."""
    with idemstore.open(subject.url) as store:
        subject.execute(
            "INSERT INTO idemstore (key, state, token, fence, attempt, expires_at, result) "
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3500) "
            "SELECT 'key-' || i, 'completed', 't', i, 1, 1, x'' FROM n"
        )
        assert store.purge(1500) == 1500
        assert store.purge(5000) == 2000
        assert store.purge(5000) == 0


# -- the model --------------------------------------------------------------------------------------------------------

WHO = st.sampled_from(["owner", "owner", "former", "stranger"])
DURATIONS = st.sampled_from([SECOND, 10 * SECOND])
RETENTIONS = st.sampled_from([None, SECOND, 20 * SECOND])
KEYS = st.sampled_from(["a", "b"])
RESULTS = st.sampled_from([b"", b"r"])


class ClockedModel(RuleBasedStateMachine):
    """A store and the machine on one clock, which stands still, goes on, or is set back."""

    subject: SqliteSubject

    @initialize()
    def start(self):
        """An empty table, nothing ever deleted."""
        self.subject.execute("DELETE FROM idemstore")
        self.subject.execute("UPDATE idemstore_meta SET fence = 0")
        self.clock = Clock()
        self.store = clocked(self.subject, self.clock, connections=2)
        self.records = {"a": None, "b": None}
        self.fences = {"a": [0], "b": [0]}
        self.tokens = {"a": ["none"], "b": ["none"]}
        self.serial = itertools.count(1)

    def teardown(self):
        """Close the store."""
        if hasattr(self, "store"):
            self.store.close()

    def token(self, key, who):
        """Of the last claim, the first, or nobody."""
        return {"owner": self.tokens[key][-1], "former": self.tokens[key][0], "stranger": "stranger"}[who]

    def both(self, key, event):
        """The same event on both sides: same outcome, same record, but for the number of a new fence."""
        before = self.records[key]
        after, expected = step(before, event, self.clock.now)
        if after is None and phase(before, self.clock.now) is Phase.ABSENT:
            after = before  # to delete what counts as absent is left to the purge
        outcome = perform(self.store, key, event)
        if isinstance(outcome, (Claimed, Abandoned)):
            fence = outcome.fence
            if after is not before:
                assert fence > max(self.fences[key])
                assert fence >= self.clock.now
                self.fences[key].append(fence)
                after = after._replace(fence=fence)
            assert fence == after.fence
            expected = replace(expected, fence=fence)
        assert outcome == expected
        self.records[key] = after
        found = self.store.get(key)
        if phase(after, self.clock.now) is Phase.ABSENT:
            assert found is None
        else:
            assert found.record == after

    @rule(key=KEYS, digest=st.sampled_from([None, b"f", b"g"]), lease=DURATIONS, kept=RETENTIONS, take=st.booleans())
    def claim(self, key, digest, lease, kept, take):
        """A new caller."""
        token = f"token-{next(self.serial)}"
        self.both(key, Claim(digest, token, lease, kept, take))
        if self.records[key].token == token:
            self.tokens[key].append(token)

    @rule(key=KEYS, who=WHO, lease=DURATIONS, kept=RETENTIONS)
    def claim_again(self, key, who, lease, kept):
        """A claim that is sent once more."""
        self.both(key, Claim(None, self.token(key, who), lease, kept))

    @rule(key=KEYS, who=WHO, result=RESULTS, kept=RETENTIONS)
    def complete(self, key, who, result, kept):
        """A result."""
        self.both(key, Complete(self.token(key, who), result, kept))

    @rule(key=KEYS, who=WHO, result=RESULTS, kept=RETENTIONS, back_off=st.sampled_from([None, 0, SECOND]))
    def fail(self, key, who, result, kept, back_off):
        """A failure."""
        self.both(key, Fail(self.token(key, who), result, kept, back_off))

    @rule(key=KEYS, who=WHO, lease=DURATIONS, checkpoint=st.sampled_from([None, b"", b"half"]))
    def renew(self, key, who, lease, checkpoint):
        """A renewal."""
        self.both(key, Renew(self.token(key, who), lease, checkpoint))

    @rule(key=KEYS, who=WHO)
    def release(self, key, who):
        """A release."""
        self.both(key, Release(self.token(key, who)))

    @rule(seconds=st.sampled_from([1, 1, 5, 11, 30, -5]))
    def tick(self, seconds):
        """Time passes, to the very end of a lease, too; or the clock is set back."""
        self.clock.now += seconds * SECOND

    @rule(key=KEYS)
    def forget(self, key):
        """An operator deletes a record."""
        found = self.store.forget(key)
        assert found or phase(self.records[key], self.clock.now) is Phase.ABSENT
        self.records[key] = None

    @rule()
    def purge(self):
        """What is expired goes. The model forgets it, too: should the clock be set back, it must not be there again."""
        self.store.purge()
        for key, record in self.records.items():
            if phase(record, self.clock.now) is Phase.ABSENT:
                self.records[key] = None


def test_model(subject, monkeypatch):
    """Any sequence, by any clock, is answered as the machine answers it; and fences never fall."""
    monkeypatch.setattr(session, "COLLECT_EVERY", 10**9)  # the model would have to know what was collected
    model = type("Model", (ClockedModel,), {"subject": subject})
    run_state_machine_as_test(model, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))


def test_long_keys_and_any_unicode(subject, mode):
    """Keys are equal when their bytes are: no case, no normal form, no trailing blanks; up to 65,536 bytes."""
    keys = [
        "k",
        "K",
        "k ",
        " k",
        "é",
        "e\u0301",
        "ﬁ",
        "fi",
        "ß",
        "SS",
        "\u200b",
        "\U0010ffff",
        "x" * 65536,
        "鍵" * 21845,
    ]
    with Lab(subject, mode) as lab:
        tokens = {key: lab.store.claim(key).token for key in keys}
        assert len(set(tokens.values())) == len(keys)
        for key, token in tokens.items():
            assert lab.store.complete(key, token, key.encode()[:100]) == Done()
        for key in keys:
            assert lab.store.claim(key).result == key.encode()[:100]
