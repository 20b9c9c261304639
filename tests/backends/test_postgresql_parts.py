"""The PostgreSQL family without a server: URLs, texts, frames, refusals, batches, pools, the wire."""

import asyncio
import gc
import json
import struct
import subprocess
import sys
import threading
import time
import weakref
from contextvars import ContextVar
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

import idemstore
from idemstore.backends.postgresql import batches, dialing, frames, refusals
from idemstore.backends.postgresql.alarm import Alarm
from idemstore.backends.postgresql.dialect import Call, PostgresqlDialect
from idemstore.backends.postgresql.options import read_target
from idemstore.backends.postgresql.pool import MAX_IDLE, AsyncPool, Pool
from idemstore.backends.postgresql.refusals import LOST, Refusal, Remedy, remedy
from idemstore.backends.postgresql.resolve import resolve
from idemstore.backends.postgresql.schema import FUNCTIONS, MAX_TABLE, VERSION, Schema, identifier, literal
from idemstore.backends.postgresql.wire import encode
from idemstore.errors import (
    AccessDenied,
    CorruptRecord,
    IdemstoreError,
    InvalidUrl,
    SchemaError,
    StoreClosed,
    StoreFull,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
    TransactionConflict,
    UnknownOption,
    UnsupportedMode,
)
from idemstore.exchange import ALONE, Exchange
from idemstore.machine import Claim, Complete, Fail, Record, Release, Renew, State
from idemstore.outcomes import DONE, LEASE_LOST, MISMATCH, Abandoned, Claimed, Completed, Failed, InFlight
from idemstore.resolve import named
from idemstore.url import parse_url

# -- URLs -------------------------------------------------------------------------------------------------------------


def target(url):
    """The URL, read."""
    return read_target(parse_url(url))[0]


@pytest.mark.parametrize(
    ("url", "hosts", "ports", "database"),
    [
        ("postgresql://h/db", ("h",), (5432,), "db"),
        ("postgres://h:1/db", ("h",), (1,), "db"),
        ("postgresql+asyncpg://[::1]:7/db", ("::1",), (7,), "db"),
        ("postgresql+psycopg://a:1,b:2/db", ("a", "b"), (1, 2), "db"),
        ("postgresql:///db?host=/run/postgresql", ("/run/postgresql",), (), "db"),
        ("postgresql://", (), (), None),
    ],
)
def test_urls(url, hosts, ports, database):
    """Hosts, ports and database; what is not there is left to the environment."""
    read = target(url)
    assert (read.hosts, read.ports, read.database) == (hosts, ports, database)


def test_defaults():
    """What a bare URL means."""
    options = target("postgresql://h/db").options
    assert (options.table, options.schema, options.pool, options.timeout) == ("idemstore", "public", 10, 5.0)
    assert not options.migrate
    assert not options.pgbouncer


def test_credentials_are_unquoted_and_hidden():
    """User and password come from the URL, %-escapes undone; no repr shows the password."""
    read = target("postgresql://us%40er:p%3Aw@h/db")
    assert (read.user, read.password) == ("us@er", "p:w")
    assert "p:w" not in repr(read)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://h/db?tabel=x", UnknownOption),
        ("postgresql://h/db?sslmode=maybe", UnknownOption),
        ("postgresql://h/db?target_session_attrs=prefer-standby", UnknownOption),
        ("postgresql://h/db?pool=0", UnknownOption),
        ("postgresql://h/db?notify=1&pgbouncer=1", InvalidUrl),
        ("postgresql://h/db?host=/run", InvalidUrl),
        ("postgresql://h/d%00b", InvalidUrl),
        ("postgresql://u%00@h/db", InvalidUrl),
        ("postgresql://h/db?table=", InvalidUrl),
        (f"postgresql://h/db?table={'x' * (MAX_TABLE + 1)}", InvalidUrl),
        (f"postgresql://h/db?schema={'x' * 64}", InvalidUrl),
        ("postgresql://h/db?table=a%00b", InvalidUrl),
    ],
)
def test_bad_urls(url, error):
    """Each mistake is found by ``open``, before anything connects."""
    for opener in (idemstore.open, idemstore.open_async):
        with pytest.raises(error):
            opener(url)


def test_sync_asyncpg_is_refused():
    """A sync store on asyncpg there is not; the error names the driver that has one."""
    with pytest.raises(UnsupportedMode, match="psycopg"):
        idemstore.open("postgresql+asyncpg://h/db")


def test_clients_are_imported_when_asked_for():
    """Opening a store imports the client that it uses, and no other."""
    script = """
import sys, idemstore
idemstore.schemes()
assert not {"asyncpg", "psycopg"} & set(sys.modules)
idemstore.open_async("postgresql://h/db")
assert "asyncpg" in sys.modules and "psycopg" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    script = """
import sys, idemstore
idemstore.open("postgresql://h/db")
assert "psycopg" in sys.modules and "asyncpg" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_missing_clients_are_named():
    """Without the client, ``open`` says which command installs it; also where psycopg lacks libpq."""
    script = """
import sys, idemstore
sys.modules["asyncpg"] = None
from importlib import abc
class NoPq(abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "psycopg":
            raise ImportError("no pq wrapper available")
sys.meta_path.insert(0, NoPq())
for opener, url in ((idemstore.open_async, "postgresql://h/db"), (idemstore.open, "postgresql://h/db")):
    try:
        opener(url)
    except idemstore.errors.MissingPackage as error:
        assert "pip install 'idemstore[postgresql]'" in str(error), error
    else:
        raise AssertionError(url)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_startup_settings():
    """The session ends statements itself, reads what is committed and follows indexes; a pooler is sent none of it."""
    assert target("postgresql://h/db").startup(2.5) == (
        "-c statement_timeout=2500 -c default_transaction_isolation=read\\ committed -c enable_seqscan=off"
    )
    assert target("postgresql://h/db?options=-c%20synchronous_commit=off").startup(1).endswith("synchronous_commit=off")
    assert target("postgresql://h/db?pgbouncer=1").startup(2.5) == ""


# -- texts ------------------------------------------------------------------------------------------------------------


def test_names_are_quoted():
    """Whatever a table is called, it stays a name: in statements, in literals and inside dollar quotes."""
    schema = Schema('s"ch', "t$body$'\\{table}")
    assert '"s""ch"."t$body$\'\\{table}_claim_v1"($1' in schema.claim.sql
    text = schema.migrate.sql
    assert "$body_$" in text
    assert "{" not in text.replace("{table}", "").replace("{1,6}", "")
    assert " E's\"ch'" not in text
    assert r" E't$body$''\\{table}'" in text


def test_every_text_is_filled_in():
    """No placeholder is left, and every function is created and called by its versioned name."""
    schema = Schema("public", "idemstore")
    for name in FUNCTIONS:
        assert f'CREATE OR REPLACE FUNCTION "public"."idemstore_{name}_v{VERSION}"' in schema.migrate.sql
    for statement in (schema.migrate, schema.inspect, schema.claim, schema.many):
        assert "{" not in statement.sql.replace("{1,6}", "")


def test_tables_have_locks_of_their_own():
    """The same key in two tables is two locks."""
    one, two = Schema("public", "one"), Schema("public", "two")
    assert one._seed != two._seed
    assert str(one._seed) in one.migrate.sql


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_literals_and_identifiers(text):
    """Quotes are doubled, backslashes escaped only where they would count."""
    assert identifier(text)[1:-1].replace('""', "") == text.replace('"', "")
    quoted = literal(text)
    assert quoted.startswith((" E'", "'"))
    assert quoted.startswith(" E'") == ("\\" in text)


# -- frames -----------------------------------------------------------------------------------------------------------

FRAMES = [
    (struct.pack(">cqi", b"C", 7, 2), Claimed("token", 7, 2)),
    (struct.pack(">cqi", b"C", 7, 2) + b"+", Claimed("token", 7, 2, b"")),
    (struct.pack(">cqi", b"C", 7, 2) + b"+abc", Claimed("token", 7, 2, b"abc")),
    (struct.pack(">cq", b"B", 1_500_000), InFlight(1.5)),
    (b"R", Completed(b"")),
    (b"R\x00+RX", Completed(b"\x00+RX")),
    (b"Fno", Failed(b"no")),
    (struct.pack(">cq", b"W", 250_000) + b"no", Failed(b"no", 0.25)),
    (b"M", MISMATCH),
    (struct.pack(">cqii", b"A", 7, 2, 5) + b"owner+cp", Abandoned("owner", 7, 2, b"cp")),
    (struct.pack(">cqii", b"A", 7, 2, 5) + b"owner", Abandoned("owner", 7, 2)),
]


@pytest.mark.parametrize(("frame", "outcome"), FRAMES)
def test_claim_frames(frame, outcome):
    """Every answer of the claim function."""
    assert frames.claim(frame, "token") == outcome


def test_settled_frames():
    """Every answer of the others."""
    assert frames.settled(b"D") == DONE
    assert frames.settled(b"L") == LEASE_LOST
    assert frames.number(struct.pack(">q", 12)) == 12
    assert frames.flag(b"Y") is True
    assert frames.flag(b"N") is False
    for read in (frames.settled, partial(frames.claim, token="token")):
        with pytest.raises(CorruptRecord):
            read(b"X")


@given(st.binary(max_size=40))
def test_foreign_frames(frame):
    """Bytes that our functions never answer are an error of ours, never an accident of Python."""
    for read in (partial(frames.claim, token="t"), frames.settled, frames.number, frames.flag):
        try:
            read(frame)
        except (StoreMisbehaved, CorruptRecord):
            continue


def test_snapshots():
    """A look at a record, live, expired, and damaged."""
    fields = {
        "now": 100,
        "sound": True,
        "state": 3,
        "token": "t",
        "fence": 9,
        "attempt": 2,
        "lease_until": None,
        "expires_at": 101,
        "retry_at": 50,
    }
    read = partial(frames.snapshot, fingerprint=b"f", result=b"r", checkpoint=None)
    found = read(json.dumps(fields).encode())
    assert found is not None
    assert found.record == Record(State.FAILED, "t", 9, 2, b"f", None, 101, 50, b"r", None)
    assert found.now == 100
    assert read(json.dumps(fields | {"expires_at": 100}).encode()) is None
    assert read(json.dumps(fields | {"expires_at": None}).encode()) is not None
    with pytest.raises(CorruptRecord):
        read(json.dumps(fields | {"sound": False}).encode())


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sqlstate", "kind", "retryable"),
    [
        ("40001", TransactionConflict, True),
        ("40P01", TransactionConflict, True),
        ("25P02", TransactionConflict, True),
        ("25006", StoreUnavailable, True),
        ("57014", StoreTimeout, True),
        ("57P03", StoreUnavailable, True),
        ("53300", StoreUnavailable, True),
        ("53100", StoreFull, True),
        ("08P01", StoreUnavailable, True),
        ("28P01", AccessDenied, False),
        ("28000", AccessDenied, False),
        ("42501", AccessDenied, False),
        ("3D000", SchemaError, False),
        ("XX001", CorruptRecord, False),
        ("99999", StoreMisbehaved, False),
    ],
)
def test_refusals(sqlstate, kind, retryable):
    """Each SQLSTATE is one documented error; it says what the server said, and what to do."""
    error = refusals.error(Refusal(sqlstate, "the server's words"), "postgresql://h/db", "GRANT this")
    assert type(error) is kind
    assert error.retryable is retryable
    assert "the server's words" in str(error)
    assert ("GRANT this" in str(error)) == (sqlstate == "42501")


def test_remedies():
    """What a driver does by itself: again after a lost race, elsewhere after a lost connection, nothing else."""
    wanted = {"40001": Remedy.REPEAT, "40P01": Remedy.REPEAT, LOST: Remedy.RECONNECT, "57P01": Remedy.RECONNECT}
    wanted |= {"25006": Remedy.RECONNECT, "08P01": Remedy.RECONNECT, "42501": Remedy.NONE, "57014": Remedy.NONE}
    assert {state: remedy(Refusal(state, "")) for state in wanted} == wanted


# -- dialect ----------------------------------------------------------------------------------------------------------

SCHEMA = Schema("public", "idemstore")
DIALECT = PostgresqlDialect(SCHEMA, "postgresql://h/db", 1000)
LOOK = {
    "now": 5,
    "read_only": False,
    "table": True,
    "comment": "idemstore schema 1",
    "functions": len(FUNCTIONS),
    "allowed": True,
}


def look(**changed):
    """A reply of ``inspect``."""
    return [json.dumps(LOOK | changed).encode()]


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"table": False, "comment": None, "functions": 0, "allowed": False}, SchemaError, "idemstore migrate"),
        ({"functions": 0}, SchemaError, "idemstore migrate"),
        ({"functions": 0, "comment": "idemstore schema 2"}, SchemaError, "upgrade idemstore"),
        ({"functions": 0, "comment": "my table"}, SchemaError, "has not made"),
        ({"functions": 0, "comment": None}, SchemaError, "has not made"),
        ({"allowed": False}, AccessDenied, "GRANT SELECT, INSERT, UPDATE, DELETE"),
        ({"read_only": True}, StoreUnavailable, "read-only"),
        ({}, SchemaError, "another shape"),
    ],
)
def test_what_is_missing_is_found_out(changed, kind, words):
    """A refusal that something is missing leads to a look, and the look to an error that says what to do."""
    exchange = DIALECT.claim("k", Claim(None, "t", 1, 1))
    follow = exchange.parse(Refusal("42883", "no such function"))
    assert isinstance(follow, Exchange)
    assert follow.request == Call(SCHEMA.inspect)
    with pytest.raises(kind, match=words):
        follow.parse(look(**changed))


def test_missing_inside_a_broken_transaction():
    """Where nothing can be asked any more, the error still names the command."""
    follow = DIALECT.get("k").parse(Refusal("42P01", "no such table"))
    assert isinstance(follow, Exchange)
    with pytest.raises(SchemaError, match="idemstore migrate"):
        follow.parse(Refusal("25P02", "current transaction is aborted"))


def test_ping_checks_what_calls_need():
    """A ping is the clock, or says why calls would fail."""
    assert DIALECT.ping().parse(look()) == 5
    assert DIALECT.ping().parse(look(comment="idemstore schema 2", functions=len(FUNCTIONS))) == 5
    with pytest.raises(SchemaError):
        DIALECT.ping().parse(look(functions=10))


def test_ensure_migrates_only_where_something_is_missing():
    """A complete schema is left alone; an incomplete one is migrated."""
    assert DIALECT.ensure().parse(look()) is None
    follow = DIALECT.ensure().parse(look(functions=3))
    assert isinstance(follow, Exchange)
    assert follow.request.statement.slow
    assert follow.parse([]) is None


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        (Refusal("ID001", "7"), SchemaError, "schema 7"),
        (Refusal("ID002", "not ours"), SchemaError, "has not made"),
        (Refusal("ID003", "PostgreSQL 11.2"), SchemaError, "11.2"),
        (Refusal("42501", "permission denied"), AccessDenied, "CREATE ON SCHEMA"),
    ],
)
def test_refused_migrations(refusal, kind, words):
    """Why a migration was refused."""
    with pytest.raises(kind, match=words):
        DIALECT.migrate().parse(refusal)


def test_empty_replies():
    """A function that answers nothing is not ours."""
    for exchange in (DIALECT.claim("k", Claim(None, "t", 1, 1)), DIALECT.release("k", Release("t")), DIALECT.purge(1)):
        for reply in ([], [None]):
            with pytest.raises(StoreMisbehaved):
                exchange.parse(reply)


# -- batches ----------------------------------------------------------------------------------------------------------


def run(requests, serve, *, strangers=False):
    """Run a batch; what was sent, and the answers."""
    sent = []
    steps = batches.together(requests, SCHEMA, strangers=strangers)
    try:
        call = next(steps)
        while True:
            sent.append(call)
            call = steps.send(serve(call))
    except StopIteration as stop:
        return sent, stop.value


def calls():
    """One of each operation."""
    return [
        DIALECT.claim("a", Claim(b"f", "ta", 1, 2, False)).request,
        DIALECT.complete("b", Complete("tb", b"r", 3)).request,
        DIALECT.fail("c", Fail("tc", b"no", 4, 5)).request,
        DIALECT.renew("d", Renew("td", 6, b"cp")).request,
        DIALECT.release("e", Release("te")).request,
    ]


def test_a_batch_is_one_call():
    """Operations of all kinds travel as one call, each argument in its column."""
    sent, answers = run(calls(), lambda call: [b"1", b"2", b"3", b"4", b"5"])
    assert len(sent) == 1
    assert sent[0].statement is SCHEMA.many
    assert sent[0].args == (
        ["claim", "complete", "fail", "renew", "release"],
        ["a", "b", "c", "d", "e"],
        ["ta", "tb", "tc", "td", "te"],
        [b"f", b"r", b"no", b"cp", None],
        [1, 3, 4, 6, None],
        [2, None, 5, None, None],
        [False, None, None, None, None],
    )
    assert answers == [[b"1"], [b"2"], [b"3"], [b"4"], [b"5"]]


def test_one_call_needs_no_batch():
    """A batch of one is the call itself."""
    sent, answers = run(calls()[:1], lambda call: [b"1"])
    assert sent == calls()[:1]
    assert answers == [[b"1"]]


def test_large_results_are_spread():
    """No message grows beyond its bound."""
    large = bytes(batches.MAX_BYTES // 2)
    requests = [DIALECT.complete(f"k{n}", Complete("t", large, 1)).request for n in range(5)]
    sent, answers = run(requests, lambda call: [b"D"] * (len(call.args[0]) if call.statement is SCHEMA.many else 1))
    assert [len(call.args[0]) if call.statement is SCHEMA.many else 1 for call in sent] == [2, 2, 1]
    assert answers == [[b"D"]] * 5


def test_large_results_are_no_company_for_strangers():
    """Who brings one goes alone, and so does whoever is behind on its key; whoever was before on that key does not."""
    large = bytes(batches.HEAVY + 1)
    requests = [
        DIALECT.renew("a", Renew("ta", 6)).request,
        DIALECT.complete("a", Complete("ta", large, 1)).request,
        DIALECT.complete("b", Complete("tb", large[1:], 1)).request,
        DIALECT.claim("a", Claim(None, "tc", 1, 2)).request,
    ]
    sent, answers = run(requests, lambda call: [b"1", b"2"], strangers=True)
    assert [call.args[1] for call in sent] == [["a", "b"]]
    assert answers == [[b"1"], ALONE, [b"2"], ALONE]
    assert run(requests[1:2], None, strangers=True) == ([], [ALONE])


def test_equal_questions_are_asked_once():
    """The looks that follow a batch of refusals are one."""
    requests = [Call(SCHEMA.inspect) for _ in range(4)]
    sent, answers = run([*requests, calls()[0]], lambda call: look() if call.statement is SCHEMA.inspect else [b"1"])
    assert len(sent) == 2
    assert answers == [look()] * 4 + [[b"1"]]


@pytest.mark.parametrize("sqlstate", ["22P05", "P0001"])
def test_an_item_that_the_database_cannot_take(sqlstate: str):
    """A refusal that one item may have caused: each is sent alone, and keeps its own answer."""
    bad = Refusal(sqlstate, "no equivalent")

    def serve(call):
        return bad if call.statement is SCHEMA.many or call.args[0] == "c" else [b"ok"]

    sent, answers = run(calls(), serve)
    assert len(sent) == 6
    assert answers == [[b"ok"], [b"ok"], bad, [b"ok"], [b"ok"]]


def test_a_refusal_that_ends_the_transaction():
    """In a caller's own transaction each item is told what ended it, not that it has ended."""
    first = Refusal("P0001", "a trigger objects")
    _, answers = run(
        calls(), lambda call: first if call.statement is SCHEMA.many else Refusal("25P02", "transaction is aborted")
    )
    assert answers == [first] * 5


@pytest.mark.parametrize("sqlstate", ["22P05", "P0001", "55P03", "40001", "40P01"])
def test_strangers_do_not_share_what_one_of_them_met(sqlstate: str):
    """Data, triggers, locks and conflicts of one: the batch was not applied, and each of its calls goes alone."""
    sent, answers = run(calls(), lambda call: Refusal(sqlstate, "not so"), strangers=True)
    assert [call.statement for call in sent] == [SCHEMA.many_briefly]
    assert answers == [ALONE] * 5


def test_a_refusal_of_all():
    """Any other refusal, and any error, is everybody's."""
    for reply in (Refusal("42501", "permission denied"), StoreUnavailable("gone")):
        sent, answers = run(calls(), lambda call, reply=reply: reply)
        assert len(sent) == 1
        assert answers == [reply] * 5


def test_a_batch_with_too_few_replies():
    """A function that forgets an item is not ours."""
    _, answers = run(calls(), lambda call: [b"1"])
    assert all(isinstance(answer, StoreMisbehaved) for answer in answers)


# -- the wire ---------------------------------------------------------------------------------------------------------


def test_arguments():
    """Each type as libpq takes it; arrays in binary form, NULLs marked."""
    assert encode(None, "b") is None
    assert encode("é", "t") == "é".encode()
    assert encode(b"\x00", "b") == b"\x00"
    assert encode(-5, "i") == b"-5"
    assert encode(True, "f") == b"t"
    assert encode([], "T") == struct.pack(">iii", 0, 0, 25)
    assert encode([1, None], "I") == struct.pack(">iiiii", 1, 1, 20, 2, 1) + struct.pack(">iqi", 8, 1, -1)
    assert encode([b"ab"], "B") == struct.pack(">iiiii", 1, 1, 17, 1, 1) + struct.pack(">i", 2) + b"ab"
    assert encode([False], "F") == struct.pack(">iiiii", 1, 1, 16, 1, 1) + struct.pack(">ib", 1, 0)


def test_which_hosts_are_looked_up():
    """Names are; addresses, socket directories and the environment's default are not."""
    assert named("db.example")
    assert not any(map(named, (None, "/run/postgresql", "@abstract", "127.0.0.1", "::1", "fe80::1%eth0")))
    assert "127.0.0.1" in resolve("localhost", time.monotonic() + 5)
    with pytest.raises(StoreUnavailable, match="cannot be resolved"):
        resolve("no-such-host.invalid", time.monotonic() + 20)


def test_hosts_share_the_time():
    """Every host gets its share of what is left; the one that answered comes first from then on."""
    hosts = dialing.Hosts(target("postgresql://a,b,c/db"))
    deadline = time.monotonic() + 3
    found = [(host.name, round(until - time.monotonic())) for host, until in hosts.shares(deadline)]
    assert found == [("a", 1), ("b", 2), ("c", 3)] or found == [("a", 1), ("b", 1), ("c", 3)]
    third = [host for host, _ in hosts.shares(deadline)][2]
    hosts.answered(third)
    assert [host.name for host, _ in hosts.shares(deadline)] == ["c", "a", "b"]


def test_the_telling_error_is_raised():
    """Of several hosts' errors: what a server said, rather than that another is down."""
    down, denied = StoreUnavailable("down"), AccessDenied("wrong password")
    assert dialing.telling(None, down) is down
    assert dialing.telling(down, denied) is denied
    assert dialing.telling(denied, down) is denied


# -- pools ------------------------------------------------------------------------------------------------------------


class FakeLine:
    """A line that counts."""

    def __init__(self):
        self.used = time.monotonic()
        self.closed = False

    def close(self):
        self.closed = True

    async def say(self, call, deadline):
        raise NotImplementedError


def soon(seconds=0.05):
    """A deadline."""
    return time.monotonic() + seconds


def test_pool_reuses_the_last():
    """The connection used last is handed out first; none is opened beyond need."""
    pool = Pool(3, "store", lambda deadline: FakeLine())
    one, two = pool.take(soon()), pool.take(soon())
    pool.give(one)
    pool.give(two)
    assert pool.take(soon()) is two
    assert pool.take(soon()) is one


def test_pool_is_bounded():
    """Beyond its size a caller waits until its deadline, and is told what to do."""
    pool = Pool(1, "store", lambda deadline: FakeLine())
    line = pool.take(soon())
    with pytest.raises(StoreTimeout, match=r"\?pool="):
        pool.take(soon())
    assert not line.closed


def test_pool_counts_what_was_torn_off():
    """A connection that nobody has any more, since its call was interrupted as it got it, gives its place back."""
    pool = Pool(1, "store", lambda deadline: FakeLine())
    pool.take(soon())
    pool.give(pool.take(soon()))
    assert pool.take(soon())


def test_pool_hands_over():
    """Who waits gets what is given back, in the order of coming; a dropped connection is a place for a new one."""
    pool = Pool(1, "store", lambda deadline: FakeLine())
    line, got = pool.take(soon()), []
    threads = [threading.Thread(target=lambda: got.append(pool.take(soon(10)))) for _ in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(pool._waiters) <= number:
            time.sleep(0.001)
    pool.give(line)
    threads[0].join(10)
    assert got == [line]
    pool.drop(line)
    threads[1].join(10)
    assert got[1] is not line
    assert line.closed


def test_pool_recovers_a_place():
    """A connection that could not be opened does not count."""

    def connect(deadline):
        raise StoreUnavailable("refused")

    pool = Pool(1, "store", connect)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            pool.take(soon())


def test_pool_forgets_what_is_old():
    """A connection that was idle for long is closed, not used; a broken one takes the idle ones with it."""
    pool = Pool(2, "store", lambda deadline: FakeLine())
    line = pool.take(soon())
    pool.give(line)
    line.used -= MAX_IDLE
    assert pool.take(soon()) is not line
    assert line.closed
    pool = Pool(2, "store", lambda deadline: FakeLine())
    one, two = pool.take(soon()), pool.take(soon())
    pool.give(one)
    pool.drop(two, all_idle=True)
    assert one.closed
    assert pool.take(soon()) is not one
    assert pool.take(soon()) is not one


def test_closed_pool():
    """Nothing is opened behind close; what comes back is closed."""
    pool = Pool(2, "store", lambda deadline: FakeLine())
    one, two = pool.take(soon()), pool.take(soon())
    pool.give(one)
    pool.close()
    assert one.closed
    pool.give(two)
    assert two.closed
    with pytest.raises(StoreClosed):
        pool.take(soon())


async def fake():
    """An async connect."""
    return FakeLine()


def test_async_pool():
    """The same rules for tasks, and a task that is cancelled in the moment of its grant passes it on."""

    async def main():
        pool = AsyncPool(1, "store", lambda deadline: fake())
        line = await pool.take(soon())
        with pytest.raises(StoreTimeout):
            await pool.take(soon())
        first, second = (asyncio.create_task(pool.take(soon(10))) for _ in range(2))
        await asyncio.sleep(0)
        pool.give(line)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second is line
        third = asyncio.create_task(pool.take(soon(10)))
        await asyncio.sleep(0)
        pool.drop(line)
        assert await third is not line
        pool.give(await third)
        pool.close()
        with pytest.raises(StoreClosed):
            await pool.take(soon())

    asyncio.run(main())


def test_async_pool_after_cancelled_waiters():
    """Cancelled waiters leave no hole: the place goes to the next."""

    async def main():
        pool = AsyncPool(1, "store", lambda deadline: fake())
        line = await pool.take(soon())
        waiters = [asyncio.create_task(pool.take(soon(10))) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        waiters[1].cancel()
        await asyncio.sleep(0)
        pool.drop(line)
        taken = await waiters[2]
        pool.give(taken)
        assert await pool.take(soon()) is taken

    asyncio.run(main())


def test_errors_are_ours():
    """Whatever the code, a refusal is an error of idemstore."""
    for sqlstate in ("00000", "42601", "P0001", "HV000"):
        assert isinstance(refusals.error(Refusal(sqlstate, ""), "name"), IdemstoreError)


# -- alarms -----------------------------------------------------------------------------------------------------------


def test_alarm():
    """One timer for many calls: it rings for the call that is late, at its own deadline, and for no other."""

    async def main():
        rung = []
        alarm = Alarm(lambda: rung.append(time.monotonic()))
        for _ in range(50):
            alarm.set(soon(10))
            first = alarm._timer
            alarm.clear()
        alarm.set(soon(10))
        assert alarm._timer is first
        due = soon(0.05)
        alarm.set(due)
        await asyncio.sleep(0.15)
        assert len(rung) == 1
        assert rung[0] >= due
        alarm.set(soon(0.03))
        alarm.clear()
        await asyncio.sleep(0.08)
        alarm.set(soon(0.02))
        alarm.clear()
        later = soon(0.12)
        alarm.set(later)
        await asyncio.sleep(0.2)
        assert len(rung) == 2
        assert rung[1] >= later
        alarm.set(soon(0.01))
        alarm.stop()
        await asyncio.sleep(0.03)
        assert len(rung) == 2

    asyncio.run(main())


def test_an_alarm_keeps_nothing_of_its_caller():
    """Its timer outlives the call that set it: what that had in its context must not live as long."""
    mine = ContextVar("mine")

    async def call(alarm):
        payload = partial(call)
        mine.set(payload)
        alarm.set(soon(60))
        await asyncio.sleep(0)
        alarm.clear()
        return weakref.ref(payload)

    async def main():
        alarm = Alarm(lambda: None)
        alive = await asyncio.create_task(call(alarm))
        await asyncio.sleep(0)  # the loop has let go of the task
        gc.collect()
        assert alive() is None
        alarm.stop()

    asyncio.run(main())
