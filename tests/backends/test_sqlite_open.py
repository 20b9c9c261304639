"""SQLite URLs, files and tables: what is refused, when, and that nothing is changed by it."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from urllib.parse import quote

import pytest

import idemstore
from idemstore.backends.sqlite.session import Session
from idemstore.errors import (
    ConfigurationError,
    IdemstoreError,
    InvalidUrl,
    SchemaError,
    StoreMisbehaved,
    StoreUnavailable,
    UnknownOption,
)
from idemstore.outcomes import Claimed, Completed, Done
from idemstore.testing.contract_lab import Lab
from idemstore.testing.families.sqlite import SqliteSubject


class File:
    """A path that is not a store yet, as a subject for ``Lab``."""

    def __init__(self, path, options=""):
        self.path, self.url = path, f"sqlite:///{path}{options}"


@pytest.fixture(params=["sync", "async"])
def mode(request):
    """Both modes."""
    return request.param


@pytest.fixture
def path(tmp_path):
    """Where a file could be."""
    return tmp_path / "idem.db"


def execute(path, *statements):
    """Another program."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements]


# -- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_", [idemstore.open, idemstore.open_async])
@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://idem.db", "sqlite:///idem.db"),
        ("sqlite://localhost/idem.db", "sqlite:///idem.db"),
        ("sqlite://user:secret@/idem.db", "sqlite:///idem.db"),
        ("sqlite:////tmp/", "slash"),
        ("sqlite:////tmp/a%00b", "NUL"),
    ],
)
def test_bad_urls(open_, url, hint):
    """Each says what to write instead."""
    with pytest.raises(InvalidUrl) as caught:
        open_(url)
    assert hint in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "table=",
        "table=sqlite_x",
        "table=Orders",
        "table=a.b",
        "table=a%22b",
        "table=1a",
        "table=" + "a" * 51,
        "synchronous=never",
        "synchronous=",
        "pool=0",
        "pool=65",
        "max_result=0",
        "max_result=1000000000",
        "timeout=0",
        "cache=shared",
    ],
)
def test_bad_options(path, option):
    """Refused by ``open``, with nothing created."""
    with pytest.raises(UnknownOption):
        idemstore.open(f"sqlite:///{path}?{option}")
    assert not path.exists()


def test_relative_path_is_fixed_at_open(tmp_path, monkeypatch):
    """A change of directory after ``open`` does not lead to another file."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with idemstore.open("sqlite:///idem.db") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.ping()
    assert (tmp_path / "idem.db").exists()
    assert not (tmp_path / "elsewhere" / "idem.db").exists()


@pytest.mark.parametrize(
    "name", ["with space.db", "q?x=1#y%41.db", "ünïcödé-鍵.db", "file:x.db", "'\";--.db", ":memory:x"]
)
def test_odd_file_names(tmp_path, name):
    """A path is a path: percent-escapes are read once, and nothing in it means anything else."""
    with idemstore.open(f"sqlite:///{tmp_path}/{quote(name)}") as store:
        assert isinstance(store.claim("k"), Claimed)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("open_", [idemstore.open, idemstore.open_async])
def test_open_creates_nothing(open_, tmp_path):
    """A store that is never used leaves no trace."""
    open_(f"sqlite:///{tmp_path}/idem.db")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("open_", [idemstore.open, idemstore.open_async])
def test_misplaced_files(open_, tmp_path):
    """A directory that is not there, or something else where the file should be: known without touching anything."""
    os.mkfifo(tmp_path / "pipe")
    for end in ("missing/idem.db", "pipe"):
        with pytest.raises(ConfigurationError) as caught:
            open_(f"sqlite:///{tmp_path}/{end}")
        assert end.split("/")[0] in str(caught.value)
    with pytest.raises(ConfigurationError):
        open_(f"sqlite:///{tmp_path}")


def test_too_old_a_library_is_refused(path, monkeypatch):
    """Without STRICT tables, or without thread safety, it does not begin."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(ConfigurationError, match=r"3\.37"):
        idemstore.open(f"sqlite:///{path}")
    monkeypatch.undo()
    monkeypatch.setattr(sqlite3, "threadsafety", 0)
    with pytest.raises(ConfigurationError, match="thread"):
        idemstore.open(f"sqlite:///{path}")


# -- files ------------------------------------------------------------------------------------------------------------


def test_directory_that_has_gone(tmp_path, mode):
    """It was there at ``open``: the call says that it is missing, and works once it is back."""
    (tmp_path / "data").mkdir()
    with Lab(File(tmp_path / "data" / "idem.db"), mode) as lab:
        (tmp_path / "data").rmdir()
        with pytest.raises(StoreUnavailable, match="does not exist"):
            lab.store.claim("k")
        (tmp_path / "data").mkdir()
        assert isinstance(lab.store.claim("k"), Claimed)


@pytest.mark.parametrize(
    "content", [b"x", b"not a database\n" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"\0" * 512]
)
def test_file_that_is_no_database(path, mode, content):
    """It is refused, and not one byte of it changes."""
    path.write_bytes(content)
    with Lab(File(path), mode) as lab:
        for call in (lab.store.ping, lab.store.migrate, lambda: lab.store.claim("k"), lambda: lab.store.get("k")):
            with pytest.raises(SchemaError, match=r"idem\.db"):
                call()
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["idem.db"]


def test_damaged_database(path, mode):
    """Pages full of nonsense: a clear error, for every operation, and no claim."""
    with idemstore.open(f"sqlite:///{path}") as store:
        for number in range(200):
            store.claim(f"key-{number}")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x55" * (len(content) - 4096))
    with Lab(File(path), mode) as lab:
        for call in (lambda: lab.store.claim("key-1"), lambda: lab.store.get("key-1"), lambda: lab.store.claim("new")):
            with pytest.raises(StoreMisbehaved, match="backup"):
                call()


def test_damaged_schema(path, mode):
    """The text of a table's definition is no text any more: one of our errors, not Python's."""
    with idemstore.open(f"sqlite:///{path}") as store:
        store.claim("key")
    content = path.read_bytes()
    assert b"CREATE TABLE" in content
    path.write_bytes(content.replace(b"CREATE TABLE", b"CREATE TABL\xff"))
    with Lab(File(path), mode) as lab, pytest.raises(IdemstoreError):
        lab.store.claim("key")


AS_NOBODY = """
import os, sys
import idemstore
import idemstore.backends.sqlite  # now: afterwards the standard library may be out of reach
from idemstore.errors import IdemstoreError
path, again = sys.argv[1:]
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)

def chmod(mode):
    for file in (path, path + "-wal", path + "-shm"):  # SQLite gives all the same rights
        if os.path.exists(file):
            os.chmod(file, mode)

def attempt(store, call):
    try:
        print(call, store.claim("k") if call == "claim" else store.ping())
    except IdemstoreError as error:
        print(call, type(error).__name__, error)

for call in ("claim", "ping"):
    with idemstore.open(f"sqlite:///{path}") as store:
        attempt(store, call)
        if again:
            chmod(0o644)
            attempt(store, call)
            chmod(0o444)
"""


def as_nobody(path, again=""):
    """What a process without rights is told; ``again``: also once it has given itself the right."""
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, path, again], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def public():
    """A directory that other users can reach."""
    directory = tempfile.mkdtemp(prefix="idemstore-test-")
    os.chmod(directory, 0o777)
    yield directory
    os.chmod(directory, 0o777)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("directory_mode", "file_mode"), [(0o555, None), (0o777, 0o444), (0o555, 0o444), (0o555, 0o666), (0o777, 0o000)]
)
def test_no_permission(public, directory_mode, file_mode):
    """A directory or file that may not be written: denied, by name, for a ping as for a claim."""
    path = f"{public}/idem.db"
    if file_mode is not None:
        with idemstore.open(f"sqlite:///{path}") as store:
            store.claim("other")
        os.chmod(path, file_mode)
    os.chmod(public, directory_mode)
    claim, ping = as_nobody(path)
    assert claim.startswith("claim AccessDenied"), claim
    assert ping.startswith("ping AccessDenied"), ping
    assert "idem.db" in claim


def test_permission_that_comes_back(public):
    """A store that was refused asks anew at its next call."""
    path = f"{public}/idem.db"
    with idemstore.open(f"sqlite:///{path}") as store:
        store.claim("other")
    os.chmod(path, 0o444)
    if os.getuid() == 0:
        os.chown(path, 65534, 65534)
    denied, claimed, denied_ping, ping = as_nobody(path, "again")
    assert denied.startswith("claim AccessDenied"), denied
    assert claimed.startswith("claim Claimed"), claimed
    assert denied_ping.startswith("ping AccessDenied"), denied_ping
    assert ping.split()[1].isdigit(), ping


def test_deleted_file_is_left(path, mode):
    """Whoever deletes the file begins anew: the store does not go on with the one that nobody else can see."""
    with Lab(File(path), mode) as lab:
        first = lab.store.claim("k")
        assert isinstance(first, Claimed)
        for file in path.parent.iterdir():
            file.unlink()
        assert lab.store.get("k") is None
        assert isinstance(lab.store.claim("k"), Claimed)
        with idemstore.open(f"sqlite:///{path}") as other:
            assert not isinstance(other.claim("k"), Claimed)


def test_replaced_file_is_followed(path, tmp_path, mode):
    """A backup that was moved into place is used at the next call."""
    backup = tmp_path / "backup.db"
    with idemstore.open(f"sqlite:///{backup}") as store:
        claim = store.claim("k")
        assert store.complete("k", claim.token, b"from the backup") == Done()
    with Lab(File(path), mode) as lab:
        assert isinstance(lab.store.claim("k"), Claimed)
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink()
        backup.rename(path)
        assert lab.store.claim("k") == Completed(b"from the backup")


def test_file_that_is_replaced_while_it_is_opened(path, tmp_path, mode, monkeypatch):
    """The connection is let go: it would be to a file that nobody else can see."""
    backup, prepare = tmp_path / "backup.db", Session._prepare
    SqliteSubject(path)
    with idemstore.open(f"sqlite:///{backup}") as store:
        store.complete("k", store.claim("k").token, b"from the backup")

    def replacing(session, connection):
        prepare(session, connection)
        if backup.exists():
            backup.rename(path)

    monkeypatch.setattr(Session, "_prepare", replacing)
    with Lab(File(path), mode) as lab:
        assert lab.store.claim("k") == Completed(b"from the backup")


# -- tables -----------------------------------------------------------------------------------------------------------


def schema(path):
    """Everything that the file defines."""
    return execute(path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")[0]


def test_tables_are_made_once(path, mode):
    """By the first call, whatever it is; ``migrate`` may be repeated."""
    with Lab(File(path), mode) as lab:
        assert lab.store.get("k") is None
        before = schema(path)
        assert {name for kind, name, _, _ in before if kind == "table"} == {"idemstore", "idemstore_meta"}
        lab.store.migrate()
        lab.store.migrate()
        assert schema(path) == before


def test_table_option(path):
    """Stores with tables of their own in one file know nothing of each other."""
    with (
        idemstore.open(f"sqlite:///{path}?table=order") as one,
        idemstore.open(f"sqlite:///{path}?table=select") as two,
    ):
        assert isinstance(one.claim("k"), Claimed)
        assert isinstance(two.claim("k"), Claimed)
    assert execute(path, 'SELECT count(*) FROM "order"', 'SELECT count(*) FROM "select"') == [[(1,)], [(1,)]]


def test_beside_the_tables_of_others(path):
    """An application's own file: its tables stay as they are."""
    execute(path, "CREATE TABLE orders (id INTEGER PRIMARY KEY)", "INSERT INTO orders VALUES (7)")
    with idemstore.open(f"sqlite:///{path}") as store:
        store.ping()
    assert execute(path, "SELECT id FROM orders", "PRAGMA integrity_check") == [[(7,)], [("ok",)]]


FOREIGN = [
    ("CREATE TABLE idemstore (key TEXT PRIMARY KEY, value TEXT)",),
    ("CREATE TABLE IDEMSTORE (x)",),
    ("CREATE VIEW idemstore AS SELECT 1 AS key",),
    ("CREATE TABLE idemstore_meta (id INTEGER)",),
    ("CREATE TABLE t (x)", "CREATE INDEX idemstore_expires ON t (x)"),
]


@pytest.mark.parametrize("statements", FOREIGN)
def test_tables_of_another_shape_are_refused(path, mode, statements):
    """Never altered: the file stays as it is, journal mode included."""
    execute(path, *statements)
    before = path.read_bytes()
    with Lab(File(path), mode) as lab:
        for call in (lambda: lab.store.claim("k"), lab.store.migrate):
            with pytest.raises(SchemaError, match="another shape"):
                call()
    assert path.read_bytes() == before


CHANGES = [
    "ALTER TABLE idemstore ADD COLUMN extra TEXT",
    "ALTER TABLE idemstore RENAME COLUMN token TO owner",
    "DROP INDEX idemstore_expires",
    "DROP TABLE idemstore",
    "DROP TABLE idemstore_meta",
    "DELETE FROM idemstore_meta",
    "UPDATE idemstore_meta SET version = 0",
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_tables_are_refused(path, mode, change):
    """Something is missing or different: refused, nothing is put right on the quiet."""
    SqliteSubject(path)
    execute(path, change)
    before = schema(path)
    with Lab(File(path), mode) as lab:
        for call in (lambda: lab.store.claim("k"), lab.store.migrate):
            with pytest.raises(SchemaError):
                call()
    assert schema(path) == before


def test_newer_tables_are_refused(path, mode):
    """A file of a later idemstore, before the first call and in the middle of use."""
    SqliteSubject(path)
    with Lab(File(path), mode) as lab:
        assert isinstance(lab.store.claim("k"), Claimed)
        execute(path, "UPDATE idemstore_meta SET version = 2")
        for call in (lambda: lab.store.claim("k"), lambda: lab.store.claim("new"), lab.store.migrate):
            with pytest.raises(SchemaError, match="upgrade idemstore"):
                call()
        with pytest.raises(SchemaError, match="upgrade idemstore"):
            lab.open().claim("k")
    assert execute(path, "SELECT count(*) FROM idemstore")[0] == [(1,)]


def test_synchronous(path, monkeypatch):
    """The option reaches the connection; the default is normal, and the log is a write-ahead log."""
    seen = []
    prepare = Session._prepare

    def watched(session, connection):
        prepare(session, connection)
        seen.append(connection.execute("PRAGMA synchronous").fetchone()[0])

    monkeypatch.setattr(Session, "_prepare", watched)
    for option in ("", "?synchronous=full", "?synchronous=normal", "?synchronous=off"):
        with idemstore.open(f"sqlite:///{path}{option}") as store:
            store.ping()
    assert seen == [1, 2, 1, 0]
    assert execute(path, "PRAGMA journal_mode")[0] == [("wal",)]
