"""The pure parts of the SQLite family: dialect, rows, statements, errors, patience."""

import itertools
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemstore.backends.sqlite import rows, schema
from idemstore.backends.sqlite.dialect import PURGED_AT_ONCE, Apply, Forget, Look, Ping, Purge, SqliteDialect
from idemstore.backends.sqlite.patience import LAST_PAUSE, Patience
from idemstore.backends.sqlite.translate import Busy, translate
from idemstore.errors import (
    AccessDenied,
    CorruptRecord,
    IdemstoreError,
    SchemaError,
    StoreFull,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
)
from idemstore.exchange import Exchange
from idemstore.machine import Claim, Complete, Record, Release, State

DIALECT = SqliteDialect(1000)


def test_requests_say_what_is_asked():
    """Each operation is a value that names its key and its event."""
    claim, complete, release = Claim(b"f", "t", 1, 2), Complete("t", b"r", None), Release("t")
    assert DIALECT.claim("k", claim).request == Apply("k", claim)
    assert DIALECT.complete("k", complete).request == Apply("k", complete)
    assert DIALECT.release("k", release).request == Apply("k", release)
    assert DIALECT.get("k").request == Look("k")
    assert DIALECT.forget("k").request == Forget("k")
    assert DIALECT.ping().request == Ping()
    assert DIALECT.limits.value_bytes == 1000


def purged(limit, replies):
    """What a purge of ``limit`` answers, the replies being given; and the limits of its transactions."""
    answer, sizes = DIALECT.purge(limit), []
    for reply in replies:
        assert isinstance(answer, Exchange), "the purge ended early"
        sizes.append(answer.request)
        answer = answer.parse(reply)
    return answer, [size.limit for size in sizes]


def test_large_purge_goes_in_pieces():
    """No transaction deletes more than a thousand records, and all of them add up."""
    assert purged(2500, [1000, 1000, 500]) == (2500, [1000, 1000, 500])
    assert purged(2500, [1000, 7]) == (1007, [1000, 1000])
    assert purged(PURGED_AT_ONCE, [PURGED_AT_ONCE]) == (PURGED_AT_ONCE, [PURGED_AT_ONCE])
    assert purged(3, [0]) == (0, [3])
    assert DIALECT.purge(5).request == Purge(5)


def text(value):
    """A text as a connection brings it."""
    return bytearray(value, "utf-8")


def from_table(record):
    """The row of a record as a connection would bring it: texts as bytearrays."""
    return tuple(text(item) if isinstance(item, str) else item for item in rows.encode("key", record)[:-1])


MOMENTS = st.one_of(st.none(), st.integers(0, 2**60))
VALUES = st.one_of(st.none(), st.binary(max_size=5))
TOKENS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128)


@st.composite
def records(draw):
    """Records as the machine makes them."""
    state = draw(st.sampled_from(State))
    running, failed = state is State.IN_FLIGHT, state is State.FAILED
    return Record(
        state,
        draw(TOKENS),
        draw(st.integers(0, 2**60)),
        draw(st.integers(1, 1000)),
        draw(VALUES),
        draw(st.integers(0, 2**60)) if running else None,
        draw(MOMENTS),
        draw(MOMENTS) if failed else None,
        None if running else draw(st.binary(max_size=5)),
        None if state is State.COMPLETED else draw(VALUES),
    )


@given(records())
def test_records_come_back_as_they_were(record):
    """Every record survives its row."""
    assert rows.decode(from_table(record)) == record


GOOD = from_table(Record(State.FAILED, "token", 5, 1, b"f", None, 9, 9, b"r", b"c"))
RUNNING = from_table(Record(State.IN_FLIGHT, "token", 5, 1, b"f", 9, 9))
DONE = from_table(Record(State.COMPLETED, "token", 5, 1, b"f", None, 9, None, b"r"))
BAD = [
    *((0, value) for value in (None, 1, b"failed", text(""), text("FAILED"), text("absent"), bytearray(b"\xff"))),
    *((1, value) for value in (None, 1, b"token", text(""), text("é"), text("x" * 129))),
    *((2, value) for value in (None, b"5", text("5"), 5.0, -1)),
    *((3, value) for value in (None, b"1", 1.0, 0, -1)),
    *((4, value) for value in (1, 1.5, text("f"))),
    *((5, value) for value in (1, b"9", 1.5)),
    *((6, value) for value in (b"9", 9.0)),
    *((7, value) for value in (b"9", 9.0)),
    *((8, value) for value in (None, 1, text("r"))),
    *((9, value) for value in (1, 1.5)),
]


@pytest.mark.parametrize(("column", "value"), BAD)
def test_damaged_columns_are_found(column, value):
    """A wrong type, an unknown state, a missing value, a number out of range: never a record, and never none."""
    damaged = (*GOOD[:column], value, *GOOD[column + 1 :])
    with pytest.raises(CorruptRecord) as caught:
        rows.decode(damaged)
    assert "forget" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [(RUNNING, 5, None), (RUNNING, 7, 1), (RUNNING, 8, b"r"), (DONE, 5, 1), (DONE, 7, 1), (DONE, 9, b"c")],
)
def test_columns_of_another_state_are_found(row, column, value):
    """A lease without a claim, a result of a running claim: another program was here."""
    rows.decode(row)
    with pytest.raises(CorruptRecord):
        rows.decode((*row[:column], value, *row[column + 1 :]))


def test_row_of_nothing_is_no_record():
    """A row whose every column is NULL is there all the same."""
    with pytest.raises(CorruptRecord):
        rows.decode((None,) * 10)


def test_statements_are_named_and_bare():
    """Each statement of the file is one statement, without its comment, on the table that was asked for."""
    for text in schema.statements("orders"):
        assert "--" not in text
        assert ";" not in text
        assert '"orders' in text
        assert "{table}" not in text


CODES = {
    sqlite3.SQLITE_BUSY: Busy,
    sqlite3.SQLITE_BUSY_SNAPSHOT: Busy,
    sqlite3.SQLITE_BUSY_RECOVERY: Busy,
    sqlite3.SQLITE_LOCKED: Busy,
    sqlite3.SQLITE_PROTOCOL: Busy,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: AccessDenied,
    sqlite3.SQLITE_READONLY_DIRECTORY: AccessDenied,
    sqlite3.SQLITE_PERM: AccessDenied,
    sqlite3.SQLITE_AUTH: AccessDenied,
    sqlite3.SQLITE_CANTOPEN: StoreUnavailable,
    sqlite3.SQLITE_IOERR: StoreUnavailable,
    sqlite3.SQLITE_IOERR_FSYNC: StoreUnavailable,
    sqlite3.SQLITE_NOTADB: SchemaError,
    sqlite3.SQLITE_CORRUPT: StoreMisbehaved,
    sqlite3.SQLITE_ERROR: SchemaError,
    sqlite3.SQLITE_CONSTRAINT_CHECK: StoreMisbehaved,
    sqlite3.SQLITE_MISUSE: StoreMisbehaved,
}


@pytest.mark.parametrize(("code", "kind"), CODES.items())
def test_codes_become_errors(code, kind, tmp_path):
    """Extended result codes, too; each message names the file."""
    error = sqlite3.OperationalError("text that nobody reads")
    error.sqlite_errorcode = code
    ours = translate(error, str(tmp_path / "idem.db"))
    assert type(ours) is kind
    assert "idem.db" in str(ours)


def test_error_without_a_code_is_still_ours():
    """What Python's module refuses by itself has no code."""
    assert isinstance(translate(sqlite3.ProgrammingError("closed"), "idem.db"), IdemstoreError)


def test_patience_ends():
    """Pauses grow to a bound and fit into the time that is left; then it is a time-out, and no longer ``Busy``."""
    patience = Patience(60)
    pauses = [patience.pause(Busy("locked")) for _ in range(40)]
    assert pauses[0] < 0.001
    assert all(0 < pause <= LAST_PAUSE * 1.5 for pause in pauses)
    with pytest.raises(StoreTimeout) as caught:
        Patience(0).pause(Busy("idem.db is locked"))
    assert type(caught.value) is StoreTimeout
    assert "idem.db is locked" in str(caught.value)


def test_patience_tries_until_it_works():
    """An attempt that meets a lock is repeated; any other error ends the call."""
    count = itertools.count()

    def attempt(request, left):
        assert request == "request"
        assert 0 < left <= 60
        if next(count) < 3:
            raise Busy("locked")
        return "done"

    assert Patience(60).run(attempt, "request") == "done"
    assert next(count) == 4

    def broken(request, left):
        raise StoreFull("full")

    with pytest.raises(StoreFull):
        Patience(60).run(broken, "request")
