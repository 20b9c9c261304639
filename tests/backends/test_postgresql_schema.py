"""PostgreSQL: what is installed, by whom, for whom; and everything that can be wrong with it."""

import os
from functools import partial
from urllib.parse import quote, urlsplit

import pytest
from psycopg import sql

import idemstore
from idemstore.backends.postgresql.schema import FUNCTIONS, VERSION, Schema
from idemstore.errors import (
    AccessDenied,
    CorruptRecord,
    InvalidKey,
    SchemaError,
    StoreUnavailable,
)
from idemstore.outcomes import Claimed, Completed
from idemstore.testing.contract_input import every_call
from idemstore.testing.contract_lab import Lab, claimed, done, raises
from idemstore.testing.families.postgresql import DRIVERS, PostgresqlSubject


@pytest.fixture(scope="module")
def subject(server_pool):
    """A table."""
    made = PostgresqlSubject("postgresql", server_pool.get("postgresql"))
    yield made
    made.close()


@pytest.fixture(params=DRIVERS)
def lab(request, subject):
    """A store by each driver."""
    with Lab(*subject.by(request.param)) as made:
        yield made


@pytest.fixture
def schema(subject):
    """A schema of one test's own, and its quoted name."""
    name = f"s_{os.getpid()}_{os.urandom(4).hex()}"
    with subject.connect() as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    yield name
    with subject.connect() as connection:
        connection.execute(f"DROP SCHEMA {name} CASCADE")


def at(url, **changed):
    """The URL with other options, and perhaps another user, password or database."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    user = changed.pop("user", parts.username)
    password = changed.pop("password", None)
    database = changed.pop("database", parts.path[1:])
    secret = "" if password is None else f":{quote(password)}"
    options = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in changed.items())
    return f"{parts.scheme}://{user}{secret}@{place}/{database}?{options}"


def all_refused(lab, store, kind):
    """Every operation on a record raises the error; a batch has it for each item."""
    for call in every_call(store, lab.key())[:-1]:
        error = raises(kind, call)
    assert all(isinstance(answer, kind) for answer in store.claim_many([lab.key(), lab.key()]))
    return error


# -- migration --------------------------------------------------------------------------------------------------------


def test_nothing_is_installed_silently(lab, schema):
    """A missing schema is an error that names the command, from every call; and still nothing is there."""
    store = lab.open(at(lab.subject.url, schema=schema))
    error = all_refused(lab, store, SchemaError)
    assert "idemstore migrate" in str(error)
    raises(SchemaError, store.ping)
    assert not lab.subject.execute("SELECT 1 FROM pg_class WHERE relnamespace = %(s)s::regnamespace", s=schema)


def test_migrate_at_open(lab, schema):
    """``?migrate=1`` installs before the first call, whichever it is; the next store finds it done, writes nothing."""
    url = at(lab.subject.url, schema=schema, migrate=1)
    store = lab.open(url)
    assert isinstance(store.claim_many(["a", "b"])[0], Claimed)
    count = "SELECT oid, xmin::text FROM pg_proc WHERE pronamespace = %(s)s::regnamespace ORDER BY oid"
    before = lab.subject.execute(count, s=schema)
    assert len(before) == len(FUNCTIONS)
    claimed(lab.open(url).claim("c"))
    assert lab.subject.execute(count, s=schema) == before


def test_a_new_schema_is_created(lab):
    """A schema that does not exist is created by the migration."""
    name = f"made_{os.getpid()}_{os.urandom(4).hex()}"
    try:
        store = lab.open(at(lab.subject.url, schema=name))
        store.migrate()
        claimed(store.claim(lab.key()))
    finally:
        lab.subject.execute(f"DROP SCHEMA {name} CASCADE")


def test_migrations_at_once(lab, schema):
    """Many processes that migrate at the same time do it one after the other."""
    url = at(lab.subject.url, schema=schema, migrate=1)
    stores = [lab.open(url) for _ in range(8)]
    calls = [lab.background(partial(store.claim, "one")) for store in stores]
    calls += [lab.background(store.migrate) for store in stores]
    answers = [call.result() for call in calls]
    assert sum(isinstance(answer, Claimed) for answer in answers) == 1


def test_strange_names(lab, schema):
    """Any name is a name: created, used, and nothing else happens."""
    for table in ('quo"te', "space and ünïcode", "$body$", "back\\slash", "{table}", "Select", "a'b", "%s"):
        use(lab, schema, table)


def use(lab, schema, table):
    """Migrate and call a table; it is the only one that is there then."""
    store = lab.open(at(lab.subject.url, schema=schema, table=table, migrate=1))
    token = claimed(store.claim("k")).token
    done(store.complete("k", token, b"r"))
    assert store.claim("k") == Completed(b"r")
    assert isinstance(store.claim_many(["k", "l"])[1], Claimed)
    assert store.purge() == 0
    assert store.ping()
    there = "SELECT relname FROM pg_class WHERE relnamespace = %(s)s::regnamespace AND relkind = 'r'"
    assert lab.subject.execute(there, s=schema) == [(table,)]
    with lab.subject.connect() as connection:
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(schema, table)))


def test_two_tables_in_one_schema(lab, schema):
    """Tables with different names know nothing of each other."""
    one, two = (lab.open(at(lab.subject.url, schema=schema, table=name, migrate=1)) for name in ("one", "two"))
    claimed(one.claim("k"))
    claimed(two.claim("k"))


def test_outdated_schema(lab, schema):
    """Functions of this version are missing: the error names the command, and the command mends it."""
    url = at(lab.subject.url, schema=schema)
    store = lab.open(url)
    store.migrate()
    token = claimed(store.claim("k")).token
    for name in ("claim", "many"):
        (routine,) = lab.subject.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = %(s)s::regnamespace AND proname = %(n)s",
            s=schema,
            n=f"idemstore_{name}_v{VERSION}",
        )
        lab.subject.execute(f"DROP FUNCTION {routine[0]}")
    fresh = lab.open(url)
    assert "idemstore migrate" in str(raises(SchemaError, partial(fresh.claim, "k")))
    assert all("idemstore migrate" in str(answer) for answer in fresh.claim_many(["k", "l"]))
    raises(SchemaError, fresh.ping)
    fresh.migrate()
    done(fresh.complete("k", token, b"r"))


@pytest.mark.parametrize("options", [{}, {"pgbouncer": 1}], ids=["prepared", "pooled"])
def test_a_function_of_our_name_with_other_parameters(lab, schema, options):
    """It stays what it is, and no call of ours takes it for ours, or finds that it cannot tell."""
    store = lab.open(at(lab.subject.url, schema=schema, **options))
    function = f"{schema}.idemstore_claim_v1(text, text, bytea, bigint, bigint, boolean)"
    with lab.subject.connect() as connection:
        connection.execute(f"CREATE FUNCTION {function} RETURNS bytea LANGUAGE sql AS $$ SELECT 'theirs'::bytea $$")
        store.migrate()
        for outcome in (store.claim("one"), *store.claim_many(["two", "three"])):
            claimed(outcome)
        (theirs,) = connection.execute(f"SELECT {schema}.idemstore_claim_v1('', '', '', 1, 1, true)").fetchone()
    assert theirs == b"theirs"


def test_newer_schema(lab, schema):
    """A database of a newer idemstore is left alone; while our functions are there they work, without them the error
    says to upgrade.
    """
    url = at(lab.subject.url, schema=schema)
    lab.open(url).migrate()
    lab.subject.execute(f"COMMENT ON TABLE {schema}.idemstore IS 'idemstore schema {VERSION + 1}'")
    store = lab.open(f"{url}&migrate=1")
    claimed(store.claim("k"))
    assert "upgrade idemstore" in str(raises(SchemaError, store.migrate))
    lab.subject.execute(f"DROP FUNCTION {schema}.idemstore_claim_v{VERSION}")
    for call in (partial(lab.open(url).claim, "k"), lab.open(url).ping, partial(lab.open(f"{url}&migrate=1").get, "k")):
        assert "upgrade idemstore" in str(raises(SchemaError, call))


def test_foreign_table(lab, schema):
    """A table of somebody else by our name is left alone, by every call and by the migration."""
    lab.subject.execute(f"CREATE TABLE {schema}.idemstore (key text PRIMARY KEY, note text)")
    store = lab.open(at(lab.subject.url, schema=schema))
    for call in (partial(store.claim, "k"), store.ping, store.migrate):
        assert "has not made" in str(raises(SchemaError, call))
    assert lab.subject.execute("SELECT count(*) FROM pg_proc WHERE pronamespace = %(s)s::regnamespace", s=schema) == [
        (0,)
    ]


def test_table_of_another_shape(lab, schema):
    """A column that somebody dropped or changed is a SchemaError, not a crash."""
    url = at(lab.subject.url, schema=schema)
    for change in ("DROP COLUMN retry_at", "ALTER COLUMN state TYPE text"):
        lab.open(url).migrate()
        claimed(lab.open(url).claim("k"))
        lab.subject.execute(f"ALTER TABLE {schema}.idemstore {change}")
        assert "another shape" in str(raises(SchemaError, partial(lab.open(url).claim, "k")))
        lab.subject.execute(f"DROP TABLE {schema}.idemstore")


def test_dump_and_restore_keeps_it_ours(lab, schema):
    """A table that lost its comment but has its functions is still ours."""
    url = at(lab.subject.url, schema=schema)
    lab.open(url).migrate()
    lab.subject.execute(f"COMMENT ON TABLE {schema}.idemstore IS NULL")
    store = lab.open(url)
    store.migrate()
    store.ping()


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(subject, schema):
    """A role that may log in and nothing else."""
    name = f"r_{os.getpid()}_{os.urandom(4).hex()}"
    subject.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    subject.execute(f"DROP OWNED BY {name}")
    subject.execute(f"DROP ROLE {name}")


def test_grants(lab, schema, role):
    """Each missing permission is AccessDenied naming the GRANTs; what it names is enough, and all of it is needed."""
    owner, url = lab.open(at(lab.subject.url, schema=schema)), at(lab.subject.url, user=role, schema=schema)
    owner.migrate()
    words = Schema(schema, "idemstore").grants
    error = raises(AccessDenied, partial(lab.open(url).claim, "k"))
    assert words in str(error)
    first, second = words.partition(" (and")[0].replace("TO role", f"TO {role}").split("; ")
    lab.subject.execute(first, second)
    store = lab.open(url)
    assert store.ping()
    for call in at_once(store, "k"):
        call()
    raises(AccessDenied, store.migrate)
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
        lab.subject.execute(f"REVOKE {right} ON {schema}.idemstore FROM {role}")
        assert words in str(raises(AccessDenied, store.ping))
        refused = [call for call in at_once(store, lab.key()) if isinstance(attempt(call), AccessDenied)]
        assert refused, right
        lab.subject.execute(second)
    lab.subject.execute(f"REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC")
    assert words in str(raises(AccessDenied, store.ping))
    all_refused(lab, store, AccessDenied)


def at_once(store, key):
    """Every call but the one that would wait for another's execution."""
    return [call for call in every_call(store, key) if "wait" not in call.keywords]


def attempt(call):
    """What the call answers or raises."""
    try:
        return call()
    except idemstore.IdemstoreError as error:
        return error


def test_migration_needs_create(lab, schema, role):
    """A role that may not create gets AccessDenied naming what the migration needs; with it, it owns what it made."""
    lab.subject.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    store = lab.open(at(lab.subject.url, user=role, schema=schema))
    assert "CREATE ON SCHEMA" in str(raises(AccessDenied, store.migrate))
    lab.subject.execute(f"GRANT CREATE ON SCHEMA {schema} TO {role}")
    store.migrate()
    claimed(store.claim("k"))


def test_wrong_password(lab, server_pool):
    """AccessDenied from the first call; the message shows neither password."""
    guarded = server_pool.get("postgresql").endpoints["auth"]
    parts = urlsplit(guarded)
    scheme = lab.subject.url.partition("://")[0]
    url = f"{scheme}://{parts.netloc}{parts.path}"
    right = lab.open(f"{url}?table={lab.subject.table}")
    assert not isinstance(attempt(partial(right.get, "k")), StoreUnavailable)
    wrong = lab.open(url.replace(f":{parts.password}@", ":not-the-password@"))
    error = raises(AccessDenied, partial(wrong.claim, "k"))
    assert "password" in str(error)
    assert "not-the-password" not in str(error)
    assert "not-the-password" not in repr(wrong)


def test_unknown_role_and_database(lab):
    """An unknown role is AccessDenied, an unknown database a SchemaError that says so."""
    raises(AccessDenied, partial(lab.open(at(lab.subject.url, user="nobody_knows")).claim, "k"))
    error = raises(SchemaError, partial(lab.open(at(lab.subject.url, database="no_such_db")).claim, "k"))
    assert "does not exist" in str(error)


# -- keys and encodings -----------------------------------------------------------------------------------------------


def test_longest_key(lab):
    """A key of the limit's size fits the index, however badly it compresses."""
    key = os.urandom(3000).hex()[: lab.store.limits.key_bytes]
    token = claimed(lab.store.claim(key)).token
    done(lab.store.complete(key, token, b"r"))
    assert lab.store.claim(key) == Completed(b"r")
    raises(InvalidKey, partial(lab.store.claim, f"{key}x"))


def test_keys_are_compared_by_their_bytes(lab):
    """No collation folds case, accents or white space."""
    keys = ["key", "KEY", "kéy", "ke\u0301y", "key ", " key", "k\u200bey"]
    base = lab.key()
    for key in keys:
        claimed(lab.store.claim((base, key)))


def test_database_of_another_encoding(lab, subject):
    """A key that the database's encoding cannot hold is InvalidKey, alone and in a batch; all others work."""
    name = f"latin_{os.getpid()}_{os.urandom(4).hex()}"
    with subject.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        store = lab.open(at(lab.subject.url, database=name, migrate=1))
        claimed(store.claim("kéy"))
        raises(InvalidKey, partial(store.claim, "ключ"))
        answers = store.claim_many(["a", "ключ", "b"])
        assert [type(answer) for answer in answers] == [Claimed, InvalidKey, Claimed]
        store.close()
    finally:
        with subject.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "state = 0",
        "state = -1",
        "lease_until = NULL",
        "result = 'x'",
        "attempt = 0",
        "fence = -5",
        "token = ''",
        "state = 2",
        "state = 3",
        "retry_at = 5",
        "state = 2, lease_until = NULL, result = 'x', retry_at = 1",
    ],
)
def test_every_damage_is_seen(lab, damage):
    """Whatever does not fit together is CorruptRecord for everyone, the owner included, until it is forgotten."""
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=60)).token
    lab.subject.execute(f"UPDATE {{table}} SET {damage} WHERE key = %(key)s", key=key)
    before = lab.subject.execute("SELECT t.*, t.xmin::text FROM {table} t WHERE key = %(key)s", key=key)
    for call in [
        *every_call(lab.store, key)[:-1],
        partial(lab.store.complete, key, token, b"r"),
        partial(lab.store.release, key, token),
    ]:
        raises(CorruptRecord, call)
    assert lab.subject.execute("SELECT t.*, t.xmin::text FROM {table} t WHERE key = %(key)s", key=key) == before
    assert lab.store.forget(key)
    claimed(lab.store.claim(key))


def test_damage_beyond_its_end(lab):
    """A damaged record whose end is over is damaged still: neither given away nor purged."""
    key = lab.key()
    claimed(lab.store.claim(key, lease=10, retention=10))
    lab.age(key, 100)
    lab.subject.damage(key)
    raises(CorruptRecord, partial(lab.store.claim, key))
    raises(CorruptRecord, partial(lab.store.get, key))
    lab.store.purge()
    assert lab.exists(key)


def test_server_is_told_of_us(lab):
    """Sessions carry the name that the URL gives them."""
    store = lab.open(at(lab.subject.url, table=lab.subject.table, application_name="shop", timeout=3))
    claimed(store.claim(lab.key()))
    assert lab.subject.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'") == [(1,)]
