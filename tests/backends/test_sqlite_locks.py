"""SQLite and its locks: what needs none, how long a call waits for one, and what a full disk does."""

import os
import sqlite3
import subprocess
import threading
import time
from contextlib import closing, contextmanager

import pytest

import idemstore
from idemstore.backends.sqlite.session import Session
from idemstore.errors import CorruptRecord, StoreClosed, StoreFull, StoreMisbehaved, StoreTimeout
from idemstore.outcomes import LEASE_LOST, MISMATCH, Abandoned, Claimed, Completed, Done, Failed, InFlight
from idemstore.testing.contract_lab import Lab
from idemstore.testing.families.sqlite import SqliteSubject

SLACK = 4.0
"""Seconds by which a call may outlive its time-out on a slow machine."""


@pytest.fixture(params=["sync", "async"])
def mode(request):
    """Both modes."""
    return request.param


@pytest.fixture
def subject(tmp_path):
    """A file of its own."""
    return SqliteSubject(tmp_path / "idem.db")


@pytest.fixture
def lab(subject, mode):
    """A store on it, patient for a fifth of a second."""
    with Lab(subject, mode) as lab:
        lab.quick = lab.open(f"{subject.url}?timeout=0.2")
        yield lab


@contextmanager
def held(subject, how="IMMEDIATE"):
    """Another program holds the write lock."""
    with closing(sqlite3.connect(subject.path, isolation_level=None)) as connection:
        connection.execute(f"BEGIN {how}")
        yield connection
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def test_answers_that_write_nothing_take_no_lock(subject, lab):
    """Replay, busy, mismatch, final failure, back-off, abandoned, lost and re-sent calls: all while another writes."""
    keys = {name: lab.key(name) for name in ("run", "done", "failed", "later", "lapsed")}
    tokens = {name: lab.store.claim(key, fingerprint=b"f", lease=60).token for name, key in keys.items()}
    lab.store.complete(keys["done"], tokens["done"], b"r")
    lab.store.fail(keys["failed"], tokens["failed"], b"no")
    lab.store.fail(keys["later"], tokens["later"], b"no", retry_after=60)
    lab.age(keys["lapsed"], 61)
    with held(subject):
        assert lab.quick.claim(keys["done"], fingerprint=b"f") == Completed(b"r")
        assert isinstance(lab.quick.claim(keys["run"], fingerprint=b"f"), InFlight)
        assert lab.quick.claim(keys["run"], fingerprint=b"g") == MISMATCH
        assert isinstance(lab.quick.claim(keys["failed"]), Failed)
        assert isinstance(lab.quick.claim(keys["later"]), Failed)
        assert isinstance(lab.quick.claim(keys["lapsed"], takeover=False), Abandoned)
        assert isinstance(lab.quick.claim(keys["run"], token=tokens["run"]), Claimed)
        assert lab.quick.complete(keys["done"], tokens["done"], b"r") == Done()
        assert lab.quick.complete(keys["run"], "stranger", b"r") == LEASE_LOST
        assert lab.quick.release("nothing", "stranger") == Done()
        assert lab.quick.get(keys["run"]) is not None
        assert lab.quick.forget("nothing") is False
        assert lab.quick.purge() == 0
        assert lab.quick.claim_many(list(keys.values())[1:3])[0] == Completed(b"r")


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_lock_that_is_never_given_back(subject, lab, how):
    """Whatever must write gives up in time, with nothing stored; and works at once when the lock is free again."""
    token = lab.store.claim("mine").token
    calls = {
        "claim": lambda: lab.quick.claim("new"),
        "complete": lambda: lab.quick.complete("mine", token, b"r"),
        "renew": lambda: lab.quick.renew("mine", token),
        "release": lambda: lab.quick.release("mine", token),
        "forget": lambda: lab.quick.forget("mine"),
        "ping": lambda: lab.quick.ping(),
        "claim_many": lambda: lab.quick.claim_many(["new", "newer"]),
    }
    with held(subject, how):
        for name, call in calls.items():
            start = time.monotonic()
            with pytest.raises(StoreTimeout, match=r"idem\.db") as caught:
                call()
            assert 0.15 < time.monotonic() - start < 0.2 + SLACK, name
            assert type(caught.value) is StoreTimeout
    assert isinstance(lab.quick.claim("new"), Claimed)
    assert lab.quick.complete("mine", token, b"r") == Done()


def test_locked_before_the_first_call(subject, mode):
    """Opening the file is part of the call, and of its time."""
    with closing(sqlite3.connect(subject.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE idemstore_meta SET fence = fence")
        other.execute("COMMIT")
        with Lab(subject, mode) as lab:
            quick, start = lab.open(f"{subject.url}?timeout=0.3"), time.monotonic()
            with pytest.raises(StoreTimeout):
                quick.get("k")
            assert time.monotonic() - start < 0.3 + SLACK


def test_lock_that_is_given_back_in_time(subject, lab):
    """A call that met a lock goes on as soon as it is free."""
    with held(subject):
        later = lab.background(lambda: lab.store.claim("k"))
        reading = lab.quick.get("other")
        assert reading is None
        assert later.running()
    assert isinstance(later.result(), Claimed)


def test_waiter_for_a_lock_does_not_keep_others_from_reading(subject, lab):
    """While one call waits for the lock, the same store answers replays."""
    token = lab.store.claim("done").token
    lab.store.complete("done", token, b"r")
    with held(subject):
        later = lab.background(lambda: lab.store.claim("k"))
        for _ in range(20):
            assert lab.store.claim("done") == Completed(b"r")
        assert later.running()
    assert isinstance(later.result(), Claimed)


def test_deadline_is_kept_while_another_thread_is_stuck(subject, monkeypatch):
    """A disk that hangs under one call: the others of the store give up in time, and replays go on."""
    stuck, inside, run = threading.Event(), threading.Event(), Session.run

    def hanging(session, requests, timeout):
        inside.set()
        stuck.wait(30)
        return run(session, requests, timeout)

    with Lab(subject, "sync") as lab:
        store = lab.open(f"{subject.url}?timeout=0.3")
        store.complete("done", store.claim("done").token, b"r")
        with monkeypatch.context() as patch:
            patch.setattr(Session, "run", hanging)
            later = lab.background(lambda: store.claim("a"))
            assert inside.wait(30)
            start = time.monotonic()
            with pytest.raises(StoreTimeout, match="other calls of this process"):
                store.claim("b")
            assert time.monotonic() - start < 0.3 + SLACK
            assert store.claim("done") == Completed(b"r")
            stuck.set()
            assert isinstance(later.result(), Claimed)
        assert isinstance(store.claim("b"), Claimed)


def test_closed_while_a_call_waits_for_a_lock(subject):
    """The call is told so, and does not open the file again."""
    with Lab(subject, "sync") as lab:
        store, quick = lab.open(f"{subject.url}?timeout=30"), lab.open(f"{subject.url}?timeout=0.2")
        with held(subject):
            later = lab.background(lambda: store.claim("k"))
            with pytest.raises(StoreTimeout):
                quick.claim("k")
            assert later.running()
            store.close()
            with pytest.raises(StoreClosed):
                later.result()
        assert quick.get("k") is None


def test_what_another_wrote_meanwhile_is_seen(subject, lab):
    """A claim that waited for the lock reads again once it has it: the key is somebody else's by then."""
    with held(subject) as other:
        later = lab.background(lambda: lab.store.claim("k", fingerprint=b"f"))
        with pytest.raises(StoreTimeout):
            lab.quick.claim("k")
        now = time.time_ns() // 1000
        other.execute(
            "INSERT INTO idemstore (key, state, token, fence, attempt, expires_at, result) "
            "VALUES ('k', 'completed', 't', 1, 1, ?, x'41')",
            (now + 10**9,),
        )
        other.execute("COMMIT")
    assert later.result() == Completed(b"A")


def test_clock_is_read_after_the_lock(subject, lab):
    """A claim that waited for the lock has its whole lease before it."""
    with held(subject):
        later = lab.background(lambda: lab.store.claim("k", lease=60))
        with pytest.raises(StoreTimeout):
            lab.quick.ping()
        released = time.time_ns() // 1000
    later.result()
    assert lab.store.get("k").record.lease_until >= released + 60 * 10**6


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batch_is_one_transaction(subject, lab, monkeypatch):
    """However many items, one commit; with a damaged neighbour, too."""
    begun = []
    settle = Session._settle

    def watched(session, connection, requests, answers):
        begun.append(len(requests))
        settle(session, connection, requests, answers)

    monkeypatch.setattr(Session, "_settle", watched)
    subject.damage("bad")
    outcomes = lab.store.claim_many(["a", "bad", "b", "a"])
    assert [type(outcome) for outcome in outcomes] == [Claimed, CorruptRecord, Claimed, InFlight]
    assert begun == [4]
    assert type(lab.store.get("b").record.token) is str


def test_item_that_sqlite_refuses(subject, lab):
    """A trigger of another program aborts one item: its neighbours are stored."""
    subject.execute(
        "CREATE TRIGGER no BEFORE INSERT ON idemstore WHEN new.key = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    first, second, third = lab.store.claim_many(["a", "bad", "b"])
    assert isinstance(first, Claimed)
    assert isinstance(second, idemstore.IdemstoreError)
    assert isinstance(third, Claimed)
    assert subject.exists("a")
    assert subject.exists("b")
    assert not subject.exists("bad")


def test_trigger_that_ends_the_transaction(subject, lab):
    """It takes the write lock away in the middle of a batch: nobody is told of a success, nothing is stored."""
    subject.execute(
        "CREATE TRIGGER no BEFORE INSERT ON idemstore WHEN new.key = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    )
    with pytest.raises(StoreMisbehaved, match="trigger"):
        lab.store.claim_many(["a", "bad", "b"])
    assert not subject.exists("a")
    assert not subject.exists("b")


# -- room -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    where = tmp_path / "small"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(where)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def fill(store):
    """Complete one key after the other, until there is no room."""
    for number in range(1000):
        claim = store.claim(f"key-{number}")
        store.complete(f"key-{number}", claim.token, b"r" * 500)


def test_full_disk(small_disk, mode):
    """No room: said so, nothing stored, replays go on, the file stays whole; and with room again, so does the rest."""
    subject = SqliteSubject(small_disk / "idem.db")
    with Lab(subject, mode) as lab:
        (small_disk / "ballast").write_bytes(b"x" * 65536)
        with pytest.raises(StoreFull):
            fill(lab.store)
        assert lab.store.claim("key-0") == Completed(b"r" * 500)
        with pytest.raises(StoreFull, match="nothing was stored"):
            lab.store.claim("new")
        with pytest.raises(StoreFull):
            lab.store.claim_many(["newer", "newest"])
        assert lab.store.get("new") is None
        (small_disk / "ballast").unlink()
        assert isinstance(lab.store.claim("new"), Claimed)
    assert subject.execute("PRAGMA integrity_check") == [("ok",)]


def test_page_limit(subject, lab, monkeypatch):
    """The same, wherever no file system can be mounted: a database that may not grow."""
    prepare = Session._prepare

    def limited(session, connection):
        prepare(session, connection)
        connection.execute("PRAGMA max_page_count = 40")

    monkeypatch.setattr(Session, "_prepare", limited)
    store = lab.open()
    with pytest.raises(StoreFull, match="nothing was stored"):
        fill(store)
    assert store.claim("key-0") == Completed(b"r" * 500)
    assert subject.execute("PRAGMA integrity_check") == [("ok",)]


# -- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["BEGIN IMMEDIATE", "INSERT", "COMMIT"])
def test_interrupted_call_leaves_no_lock(subject, point, monkeypatch):
    """Ctrl-C at any point of a transaction: rolled back, the lock is free, the store goes on."""
    real = sqlite3.connect

    class Interrupted(sqlite3.Connection):
        armed = False

        def execute(self, sql, *parameters):
            cursor = None if point == "COMMIT" and sql == point else super().execute(sql, *parameters)
            if self.armed and sql.startswith(point):
                type(self).armed = False
                raise KeyboardInterrupt
            return super().execute(sql) if cursor is None else cursor

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: real(*args, factory=Interrupted, **options))
    with idemstore.open(subject.url) as store:
        store.ping()
        Interrupted.armed = True
        with pytest.raises(KeyboardInterrupt):
            store.claim("k")
        monkeypatch.undo()
        with idemstore.open(f"{subject.url}?timeout=0.5") as other:
            assert isinstance(other.claim("other"), Claimed)
        assert store.get("k") is None
        assert isinstance(store.claim("k"), Claimed)
