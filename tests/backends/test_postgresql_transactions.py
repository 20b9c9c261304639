"""PostgreSQL: ``store.on(connection)``, inside the caller's own transaction, by each client."""

import asyncio
import re
import time
from functools import partial
from pathlib import Path

import asyncpg
import psycopg
import pytest

import idemstore
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import (
    InvalidInput,
    SchemaError,
    StoreTimeout,
    StoreUnavailable,
    TransactionConflict,
    UnsupportedMode,
)
from idemstore.outcomes import LEASE_LOST, Claimed, Completed, Done, InFlight
from idemstore.testing.contract_lab import Lab, claimed, done, expect, raises
from idemstore.testing.families.postgresql import PostgresqlSubject, places

LEVELS = ("read committed", "repeatable read", "serializable")


@pytest.fixture(scope="module", params=places(), ids="-".join)
def place(request):
    """A server, and the driver that reaches it."""
    return request.param


@pytest.fixture(scope="module")
def subject(place, server_pool):
    """A table, and one of the application beside it."""
    made = PostgresqlSubject("postgresql", server_pool.get(place[0]))
    made.execute("CREATE TABLE IF NOT EXISTS orders (name text PRIMARY KEY)")
    yield made
    made.close()


class SyncCaller:
    """A program's own psycopg connection."""

    def __init__(self, lab):
        self.lab = lab
        self.connection = psycopg.connect(lab.subject._server)

    def store(self):
        """The store over the connection."""
        return self.lab.store.on(self.connection)

    def begin(self, level="read committed"):
        """Psycopg begins by itself, at the first statement."""
        self.connection.isolation_level = psycopg.IsolationLevel[level.replace(" ", "_").upper()]

    def execute(self, text, *args):
        """A statement of the program."""
        return self.connection.execute(text.replace("$1", "%s"), args)

    def commit(self):
        self.connection.commit()

    def rollback(self):
        self.connection.rollback()

    def close(self):
        self.connection.close()


class AsyncPsycopgCaller(SyncCaller):
    """The same, async, on the loop of the store."""

    def __init__(self, lab):
        self.lab = lab
        self.connection = self.run(psycopg.AsyncConnection.connect(lab.subject._server))

    def run(self, work):
        return self.lab.store.thread.call(work)

    def begin(self, level="read committed"):
        self.run(self.connection.set_isolation_level(psycopg.IsolationLevel[level.replace(" ", "_").upper()]))

    def execute(self, text, *args):
        return self.run(self.connection.execute(text.replace("$1", "%s"), args))

    def commit(self):
        self.run(self.connection.commit())

    def rollback(self):
        self.run(self.connection.rollback())

    def close(self):
        self.run(self.connection.close())


class AsyncpgCaller(AsyncPsycopgCaller):
    """A program's own asyncpg connection, with a transaction begun by hand."""

    def __init__(self, lab):
        self.lab = lab
        self.connection = self.run(asyncpg.connect(lab.subject._server))

    def begin(self, level="read committed"):
        self.run(self.connection.execute(f"BEGIN ISOLATION LEVEL {level}"))

    def execute(self, text, *args):
        return self.run(self.connection.execute(text, *args))

    def commit(self):
        self.run(self.connection.execute("COMMIT"))

    def rollback(self):
        self.run(self.connection.execute("ROLLBACK"))

    def close(self):
        self.run(self.connection.close(timeout=5))


CALLERS = {"psycopg": SyncCaller, "asyncpg": AsyncpgCaller, "psycopg-async": AsyncPsycopgCaller}


@pytest.fixture
def lab(place, subject):
    """A store by that driver."""
    with Lab(*subject.by(place[1])) as made:
        made.driver = place[1]
        yield made


@pytest.fixture
def caller(lab):
    """A program that uses that client."""
    made = CALLERS[lab.driver](lab)
    yield made
    made.close()


def ordered(subject, name):
    """Whether the application's own row is there."""
    return bool(subject.execute("SELECT 1 FROM orders WHERE name = %(name)s", name=name))


def test_commits_together(lab, caller):
    """Claim, effect and completion in one transaction: nobody sees any of it before the commit, all of it after."""
    key = lab.key()
    caller.begin()
    store = caller.store()
    token = claimed(store.claim(key)).token
    caller.execute("INSERT INTO orders VALUES ($1)", key)
    done(store.complete(key, token, b"r"))
    assert store.claim(key) == Completed(b"r")
    assert lab.store.get(key) is None
    caller.commit()
    assert lab.store.claim(key) == Completed(b"r")
    assert ordered(lab.subject, key)


def test_rollback_leaves_no_trace(lab, caller):
    """After a rollback there is no record and no effect; the key is free at once."""
    key = lab.key()
    caller.begin()
    token = claimed(caller.store().claim(key)).token
    caller.execute("INSERT INTO orders VALUES ($1)", key)
    done(caller.store().complete(key, token, b"r"))
    caller.rollback()
    assert not lab.exists(key)
    assert not ordered(lab.subject, key)
    assert claimed(lab.store.claim(key)).attempt == 1


def test_completion_rolls_back_to_the_claim(lab, caller):
    """Claimed outside, completed inside: a rollback leaves the claim as it was, and the owner may try again."""
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=60)).token
    before = lab.store.get(key).record
    for end in (caller.rollback, caller.commit):
        caller.begin()
        done(caller.store().complete(key, token, b"r"))
        end()
        assert (lab.store.get(key).record == before) == (end == caller.rollback)
    assert lab.store.claim(key) == Completed(b"r")


def test_every_operation_joins(lab, caller):
    """Renew, fail, release, forget, batches and looks are part of the transaction, too."""
    keys = [lab.key() for _ in range(4)]
    caller.begin()
    store = caller.store()
    tokens = [expect(Claimed, answer).token for answer in store.claim_many(keys)]
    done(store.renew(keys[0], tokens[0], checkpoint=b"cp"))
    done(store.fail(keys[1], tokens[1], b"no"))
    done(store.release(keys[2], tokens[2]))
    assert store.complete_many([(keys[3], tokens[3], b"r"), (keys[0], "stranger", b"r")]) == [Done(), LEASE_LOST]
    assert store.forget(keys[1])
    assert store.get(keys[0]).record.checkpoint == b"cp"
    assert store.ping()
    caller.rollback()
    assert not any(map(lab.exists, keys))


def test_answers_of_a_batch_without_values(lab, caller):
    """Items without bytes, numbers or flags: arrays of nothing but NULL are arrays still."""
    key = lab.key()
    caller.begin()
    store = caller.store()
    tokens = [claimed(answer).token for answer in store.claim_many([key, lab.key()], retention=None)]
    done(store.complete_many([(key, tokens[0], b"")], retention=None)[0])
    caller.commit()
    assert lab.store.claim(key) == Completed(b"")


@pytest.mark.parametrize("level", LEVELS[1:])
def test_conflict_of_a_stricter_caller(lab, caller, level):
    """A record that appeared after the caller's snapshot is a conflict that says: run it again. It helps."""
    key = lab.key()
    caller.begin(level)
    caller.execute("SELECT 1 WHERE 'x' = $1", "y")
    token = claimed(lab.store.claim(key)).token
    error = raises(TransactionConflict, partial(caller.store().claim, key))
    assert error.retryable
    assert "again" in str(error)
    raises(TransactionConflict, partial(caller.store().claim, lab.key()))
    caller.rollback()
    caller.begin(level)
    expect(InFlight, caller.store().claim(key))
    caller.rollback()
    done(lab.store.complete(key, token, b"r"))


@pytest.mark.parametrize("level", LEVELS[1:])
def test_conflict_of_a_completion(lab, caller, level):
    """A record that changed after the caller's snapshot cannot be completed in it: a conflict, never a lost update."""
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=60)).token
    caller.begin(level)
    caller.store().get(key)
    done(lab.store.renew(key, token, lease=90))
    raises(TransactionConflict, partial(caller.store().complete, key, token, b"r"))
    caller.rollback()
    expect(InFlight, lab.store.claim(key))


@pytest.mark.parametrize("level", LEVELS)
def test_whole_execution_at_every_level(lab, caller, level):
    """Claim and complete work at every isolation level."""
    key = lab.key()
    caller.begin(level)
    token = claimed(caller.store().claim(key)).token
    done(caller.store().complete(key, token, b"r"))
    caller.commit()
    assert lab.store.claim(key) == Completed(b"r")


def test_old_snapshot_is_read_only(lab, caller):
    """A caller whose snapshot is old may see an old answer, but cannot take over what has been taken over since."""
    key = lab.key()
    claimed(lab.store.claim(key))
    lab.age(key, 100)
    caller.begin("repeatable read")
    caller.store().get(key)
    successor = claimed(lab.store.claim(key))
    raises(TransactionConflict, partial(caller.store().claim, key))
    caller.rollback()
    assert lab.store.get(key).record.token == successor.token


def test_read_only_transaction(lab, caller):
    """In a caller's read-only transaction replays are answered; what would write is one error, and changes nothing."""
    finished, free = lab.key(), lab.key()
    done(lab.store.complete(finished, claimed(lab.store.claim(finished)).token, b"r"))
    caller.begin()
    caller.execute("SET TRANSACTION READ ONLY")
    mine = caller.store()
    assert mine.claim(finished) == Completed(b"r")
    assert "read-only" in str(raises(StoreUnavailable, partial(mine.claim, free)))
    caller.rollback()
    assert not lab.exists(free)


def test_uncommitted_claim_is_waited_for(lab, caller):
    """Whoever claims a key that an open transaction has claimed waits for its end: rolled back, the key is theirs."""
    key = lab.key()
    caller.begin()
    claimed(caller.store().claim(key))
    call = lab.background(partial(lab.store.claim, key))
    waits(lab)
    caller.rollback()
    assert claimed(call.result()).attempt == 1


def waits(lab):
    """Return once a call of ours waits for a lock."""
    text = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idemstore' AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 20
    while not lab.subject.execute(text)[0][0]:
        assert time.monotonic() < deadline, "nobody waits for a lock"
        time.sleep(0.005)


def test_deadlock_is_a_conflict(lab, caller):
    """Two transactions that claim two keys in opposite order: one of them is told to run again."""
    one, two = lab.key(), lab.key()
    other = CALLERS[lab.driver](lab)
    try:
        caller.begin()
        other.begin()
        claimed(caller.store().claim(one))
        claimed(other.store().claim(two))
        first = lab.background(partial(attempt, partial(caller.store().claim, two)))
        second = lab.background(partial(attempt, partial(other.store().claim, one)))
        answers = [first.result(), second.result()]
        assert [type(answer) for answer in answers].count(TransactionConflict) == 1
        assert [type(answer) for answer in answers].count(Claimed) == 1
        caller.rollback()
        other.rollback()
    finally:
        other.close()


def attempt(call):
    """What the call answers or raises."""
    try:
        return call()
    except TransactionConflict as error:
        return error


def test_joined_call_keeps_its_time(lab, caller):
    """A call that waits for somebody's row longer than the time-out ends; then the caller can roll back and go on."""
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=600)).token
    impatient = lab.open(f"{lab.subject.url}&timeout=0.5")
    with lab.subject.connect() as other:
        other.autocommit = False
        other.execute(f"SELECT 1 FROM {lab.subject.table} WHERE key = %s FOR UPDATE", (key,))
        caller.begin()
        caller.execute("INSERT INTO orders VALUES ($1)", key)
        began = time.monotonic()
        raises(StoreTimeout, partial(impatient.on(caller.connection).complete, key, token, b"r"))
        assert 0.4 <= time.monotonic() - began < 4.5
        other.rollback()
    caller.rollback()
    assert not ordered(lab.subject, key)
    caller.begin()
    done(caller.store().complete(key, token, b"r"))
    caller.commit()
    assert lab.store.claim(key) == Completed(b"r")


def test_lost_connection(lab, caller):
    """A connection that the server ended is StoreUnavailable; nothing is sent again behind the caller's back."""
    key = lab.key()
    caller.begin()
    claimed(caller.store().claim(key))
    lab.subject.execute(
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE state = 'idle in transaction' AND query LIKE %(q)s""",
        q=f"%{lab.subject.table}%",
    )
    raises(StoreUnavailable, partial(caller.store().claim, key))
    assert not lab.exists(key)


def test_missing_schema_inside_a_transaction(lab, caller):
    """A missing table is a SchemaError that names the command, although nothing can be asked any more."""
    bare = lab.open(lab.subject.url.replace(lab.subject.table, "no_such_table"))
    caller.begin()
    error = raises(SchemaError, partial(bare.on(caller.connection).claim, "k"))
    assert "idemstore migrate" in str(error)
    caller.rollback()


def test_wrong_connection(lab):
    """Anything but a connection of this mode is refused, naming what is taken."""
    for wrong in (object(), None, "postgresql://h/db"):
        error = raises(UnsupportedMode, partial(lab.store.on(wrong).claim, "k"))
        assert "psycopg" in str(error)


def test_bad_input_inside_a_transaction(lab, caller):
    """Bad arguments are refused before anything is sent: the transaction goes on."""
    key = lab.key()
    caller.begin()
    raises(InvalidInput, partial(caller.store().claim, "nul\0"))
    raises(InvalidInput, partial(caller.store().claim, key, lease=0))
    claimed(caller.store().claim(key))
    caller.rollback()


def test_connections_of_a_pool(lab):
    """A connection out of asyncpg's pool will do, for either async driver's store."""
    if lab.mode == "sync":
        pytest.skip("async only")
    key = lab.key()

    async def use(store):
        async with (
            asyncpg.create_pool(lab.subject._server, min_size=1, max_size=1) as pool,
            pool.acquire() as connection,
            connection.transaction(),
        ):
            claim = claimed(await store.on(connection).claim(key))
            done(await store.on(connection).complete(key, claim.token, b"r"))

    lab.store.thread.call(use(lab.store.inner))
    assert lab.store.claim(key) == Completed(b"r")


def test_autocommit_connection(subject):
    """On a connection without a transaction each call is one of its own."""
    with idemstore.open(subject.url) as store, subject.connect() as connection:
        token = claimed(store.on(connection).claim("auto")).token
        assert isinstance(store.claim("auto"), InFlight)
        done(store.on(connection).complete("auto", token, b"r"))
        assert store.claim("auto") == Completed(b"r")


def test_waiting_inside_a_transaction(lab, caller):
    """A waiter inside a transaction gets what was committed meanwhile (read committed)."""
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    caller.begin()
    call = lab.background(partial(caller.store().claim, key, wait=20))
    asked = "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE %(q)s"
    while not lab.subject.execute(asked, q=f"%{lab.subject.table}_claim_%"):
        time.sleep(0.005)
    done(lab.store.complete(key, token, b"r"))
    assert call.result() == Completed(b"r")
    caller.rollback()


def test_exactly_once(lab, caller):
    """The pattern of the docs: claim, effect, completion in one transaction, run again after every conflict."""
    key = lab.key()

    def run():
        caller.begin("serializable")
        try:
            outcome = caller.store().claim(key)
            if isinstance(outcome, Claimed):
                caller.execute("INSERT INTO orders VALUES ($1)", key)
                done(caller.store().complete(key, outcome.token, b"r"))
            caller.commit()
        except TransactionConflict:
            caller.rollback()
            return run()
        return outcome

    expect(Claimed, run())
    assert run() == Completed(b"r")


def test_the_example_of_the_docs(subject):
    """The function on the page of PostgreSQL orders once, however often it is called."""
    page = (Path(__file__).parents[2] / "docs" / "postgresql.md").read_text()
    (example,) = [
        block for block in re.findall(r"^```py\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "def order" in block
    ]
    names = {"psycopg": psycopg, "idemstore": idemstore}
    exec(compile(example, "docs/postgresql.md", "exec"), names)
    with idemstore.open(subject.url) as store:
        answers = {names["order"](store, subject._server, f"docs-{subject.table}") for _ in range(3)}
    assert answers == {b"ordered"}
    assert ordered(subject, f"docs-{subject.table}")


def test_the_grants_of_the_docs():
    """The page says what the errors say (and what the test of the grants has found to be enough)."""
    page = (Path(__file__).parents[2] / "docs" / "postgresql.md").read_text()
    said = Schema("public", "idemstore").grants.partition(" (and")[0].replace('"', "")
    assert all(f"{grant};\n" in page for grant in said.split("; "))


def test_a_guard_leaves_the_callers_connection_alone(lab):
    """Its heartbeat would come between the caller's statements, and asyncpg refuses two at a time."""
    if lab.mode == "sync":
        pytest.skip("async only")
    key = lab.key()

    async def use(store):
        connection = await asyncpg.connect(lab.subject._server)

        async def work():
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                await connection.fetch("SELECT 1")
                await asyncio.sleep(0)

        guard = idemstore.AsyncGuard(store.on(connection), idemstore.Policy(lease=0.03))
        async with connection.transaction():
            await guard.call(key, work)
        await connection.close()

    lab.store.thread.call(use(lab.store.inner))
    assert isinstance(lab.store.claim(key), Completed)


def test_a_guard_refuses_a_connection_without_a_transaction(lab):
    """Autocommit: nothing would hold the claim while the function runs. Within a transaction it works, and a psycopg
    connection begins one by itself.
    """
    key, ran = lab.key(), []
    if lab.mode == "sync":
        with psycopg.connect(lab.subject._server, autocommit=True) as connection:
            guard = idemstore.Guard(lab.store.on(connection))
            with pytest.raises(idemstore.errors.ConfigurationError, match="open transaction"):
                guard.call(key, lambda: ran.append("autocommit"))
            assert lab.store.get(key) is None
            with connection.transaction():
                guard.call(key, lambda: ran.append("begun"))
        with psycopg.connect(lab.subject._server) as connection:
            idemstore.Guard(lab.store.on(connection)).call(lab.key(), lambda: ran.append("by itself"))
        assert ran == ["begun", "by itself"]
        return

    async def use(store):
        async def work():
            ran.append("begun")

        if lab.driver == "asyncpg":
            connection = await asyncpg.connect(lab.subject._server)
        else:
            connection = await psycopg.AsyncConnection.connect(lab.subject._server, autocommit=True)
        guard = idemstore.AsyncGuard(store.on(connection))
        with pytest.raises(idemstore.errors.ConfigurationError, match="open transaction"):
            await guard.call(key, work)
        assert await store.get(key) is None
        async with connection.transaction():
            await guard.call(key, work)
        await connection.close()

    lab.store.thread.call(use(lab.store.inner))
    assert ran == ["begun"]
    assert isinstance(lab.store.claim(key), Completed)
