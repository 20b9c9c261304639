"""What the scripts do to a real server: records, time to live, damage, read-only answers, forgotten scripts."""

import re
from functools import partial
from pathlib import Path

import pytest

from idemstore.backends.redis import script
from idemstore.errors import AccessDenied, CorruptRecord, IdemstoreError
from idemstore.machine import MICROSECONDS
from idemstore.outcomes import Claimed, Completed, Done, Failed, InFlight, LeaseLost
from idemstore.testing.contract_lab import MODES, Lab, claimed, done, raises
from idemstore.testing.families.redis import RedisSubject

SERVERS = ["redis", "valkey", "redis8"]
WRITES = {"hset", "hdel", "del", "pexpireat", "persist", "hsetnx", "pexpire", "set", "unlink"}
MARGIN = 10.0
SLACK = 60.0


@pytest.fixture(params=SERVERS, scope="module")
def subject(request, server_pool):
    """A prefix on each kind of server."""
    made = RedisSubject(request.param, server_pool.get(request.param).url)
    yield made
    made.close()


@pytest.fixture(params=MODES)
def lab(request, subject):
    """A store in each mode."""
    with Lab(subject, request.param) as made:
        yield made


def fields(subject, key):
    """The record as it is stored."""
    return subject.client.hgetall(subject.stored(key))


def counts(subject):
    """How often each command ran on the server, inside scripts too."""
    stats = subject.client.info("commandstats")
    return {name.removeprefix("cmdstat_"): value["calls"] for name, value in stats.items()}


def ran(subject, call):
    """The commands that a call makes the server run."""
    before = counts(subject)
    answer = call()
    after = counts(subject)
    names = {name for name in after if after[name] != before.get(name, 0)}
    return answer, {name: after[name] - before.get(name, 0) for name in names - {"info"}}


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_a_record_is_one_hash(lab, subject):
    """The fields of each state, with the words of the design; nothing beside the one key."""
    key = lab.key()
    claim = claimed(lab.store.claim(key, lease=10, retention=20, fingerprint=b"\xff\x00"))
    stored = fields(subject, key)
    assert set(stored) == {b"state", b"token", b"fence", b"attempt", b"fingerprint", b"lease_until", b"expires_at"}
    assert stored[b"state"] == b"in-flight"
    assert stored[b"token"].decode() == claim.token
    assert int(stored[b"fence"]) == claim.fence
    assert stored[b"fingerprint"] == b"\xff\x00"
    assert int(stored[b"expires_at"]) - int(stored[b"lease_until"]) == 20 * MICROSECONDS
    done(lab.store.renew(key, claim.token, checkpoint=b"half"))
    assert fields(subject, key)[b"checkpoint"] == b"half"
    done(lab.store.complete(key, claim.token, b"r"))
    stored = fields(subject, key)
    assert set(stored) == {b"state", b"token", b"fence", b"attempt", b"fingerprint", b"result", b"expires_at"}
    assert list(subject.client.scan_iter(match=f"{subject.prefix}{key}*")) == [subject.stored(key)]


def test_a_release_deletes_the_key(lab, subject):
    """Nothing stays behind."""
    key = lab.key()
    done(lab.store.release(key, claimed(lab.store.claim(key)).token))
    assert not subject.exists(key)


def test_numbers_are_whole(lab, subject):
    """The longest durations there are: no exponent, no fraction, no loss of a microsecond."""
    century = 36525 * 86400.0
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=century, retention=century)).token
    stored = fields(subject, key)
    for name in (b"fence", b"lease_until", b"expires_at"):
        assert re.fullmatch(rb"[0-9]{16}", stored[name])
    assert int(stored[b"expires_at"]) - int(stored[b"lease_until"]) == century * MICROSECONDS
    assert int(stored[b"lease_until"]) - int(stored[b"fence"]) == century * MICROSECONDS
    done(lab.store.renew(key, token, lease=century))
    assert isinstance(lab.store.claim(key), InFlight)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 5_000_000])
def test_results_are_bytes(lab, size):
    """Byte for byte, whatever the size: as result, as failure and as checkpoint."""
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    done(lab.store.renew(key, token, checkpoint=data))
    assert lab.store.get(key).record.checkpoint == data
    done(lab.store.fail(key, token, data, retry_after=0))
    again = claimed(lab.store.claim(key))
    assert again.checkpoint == data
    done(lab.store.complete(key, again.token, data))
    assert lab.store.claim(key) == Completed(data)
    done(lab.store.complete(key, again.token, data))


def test_largest_default_result(lab):
    """A result of the default limit, 64 MiB."""
    data = bytes(64 * 2**20)
    key = lab.key()
    store = lab.open(lab.subject.url + "&timeout=60")
    done(store.complete(key, claimed(store.claim(key)).token, data))
    assert store.claim(key) == Completed(data)
    assert store.forget(key)


# -- time to live -----------------------------------------------------------------------------------------------------


def left(subject, key):
    """Seconds until the server reclaims the key; None: never."""
    milliseconds = subject.client.pttl(subject.stored(key))
    return None if milliseconds == -1 else milliseconds / 1000


def test_time_to_live_only_reclaims(lab, subject):
    """It ends a little after the retention, never before, through a whole life."""
    key = lab.key()

    def kept(low, high):
        assert low < left(subject, key) <= high + 1  # whole milliseconds, rounded up

    token = claimed(lab.store.claim(key, lease=1000, retention=500)).token
    kept(1495 + MARGIN, 1500 + MARGIN)
    done(lab.store.renew(key, token, lease=2000))
    kept(2495 + MARGIN, 2500 + MARGIN)
    done(lab.store.fail(key, token, b"r", retention=5000, retry_after=0))
    kept(4995 + MARGIN, 5000 + MARGIN)
    token = claimed(lab.store.claim(key, lease=1000, retention=500)).token
    kept(1495 + MARGIN, 1500 + MARGIN)
    done(lab.store.complete(key, token, b"r", retention=1480))
    kept(1475 + MARGIN, 1480 + MARGIN + SLACK)
    assert lab.store.get(key).expires_in <= 1480


def test_for_ever_has_no_time_to_live(lab, subject):
    """Retention None: the key is never reclaimed, in whatever state; a later retention brings an end again."""
    key = lab.key()
    token = claimed(lab.store.claim(key, lease=10, retention=None)).token
    assert left(subject, key) is None
    done(lab.store.renew(key, token, lease=10))
    assert left(subject, key) is None
    done(lab.store.fail(key, token, b"", retention=100, retry_after=0))
    assert left(subject, key) > 100
    token = claimed(lab.store.claim(key, lease=10, retention=None)).token
    assert left(subject, key) is None
    assert b"expires_at" not in fields(subject, key)
    subject.age(key, 1000)
    again = claimed(lab.store.claim(key, lease=10, retention=50))
    assert again.attempt == 3
    assert left(subject, key) > 60
    done(lab.store.complete(key, again.token, b"r", retention=None))
    assert left(subject, key) is None
    assert lab.store.get(key).expires_in is None
    key = lab.key()
    done(lab.store.fail(key, claimed(lab.store.claim(key, retention=9)).token, b"r", retention=None))
    assert left(subject, key) is None
    assert lab.store.claim(key) == Failed(b"r")


def test_expiry_is_decided_by_the_record(lab, subject):
    """A record whose retention is over counts as absent though the server still has it; its fence is outgrown."""
    key = lab.key()
    claim = claimed(lab.store.claim(key, lease=10, retention=20, fingerprint=b"a"))
    done(lab.store.renew(key, claim.token, lease=10, checkpoint=b"c"))
    subject.client.hset(subject.stored(key), "fence", claim.fence + 10**12)
    subject.client.persist(subject.stored(key))
    subject.age(key, 31)
    assert subject.exists(key)
    assert lab.store.get(key) is None
    assert lab.store.complete(key, claim.token, b"r") == LeaseLost()
    assert lab.store.release(key, claim.token) == Done()
    again = claimed(lab.store.claim(key, fingerprint=b"b"))
    assert (again.attempt, again.checkpoint, again.fence) == (1, None, claim.fence + 10**12 + 1)
    assert fields(subject, key)[b"fingerprint"] == b"b"
    assert b"checkpoint" not in fields(subject, key)
    assert left(subject, key) is not None


# -- what writes ------------------------------------------------------------------------------------------------------


def test_replays_and_refusals_write_nothing(lab, subject):
    """Busy answers, replays, mismatches, abandonments, re-deliveries and looks run no write command."""
    busy, lapsed, finished, failed, backing = (lab.key() for _ in range(5))
    token = claimed(lab.store.claim(busy, fingerprint=b"f")).token
    owner = claimed(lab.store.claim(lapsed, lease=1, retention=1000)).token
    lab.age(lapsed, 10)
    last = claimed(lab.store.claim(finished, fingerprint=b"f")).token
    done(lab.store.complete(finished, last, b"r"))
    done(lab.store.fail(failed, claimed(lab.store.claim(failed)).token, b"r"))
    late = claimed(lab.store.claim(backing)).token
    done(lab.store.fail(backing, late, b"r", retry_after=1000))
    calls = [
        partial(lab.store.claim, busy),
        partial(lab.store.claim, busy, token=token),
        partial(lab.store.claim, busy, fingerprint=b"g"),
        partial(lab.store.claim, lapsed, takeover=False),
        partial(lab.store.claim, lapsed, token=owner),
        partial(lab.store.claim, finished),
        partial(lab.store.claim, finished, fingerprint=b"g"),
        partial(lab.store.claim, failed),
        partial(lab.store.claim, backing),
        partial(lab.store.complete, finished, last, b"r"),
        partial(lab.store.complete, finished, last, b"other"),
        partial(lab.store.complete, busy, "stranger", b"r"),
        partial(lab.store.fail, backing, late, b"r", retry_after=5),
        partial(lab.store.renew, finished, last),
        partial(lab.store.release, lab.key(), "nobody"),
        partial(lab.store.release, busy, "stranger"),
        partial(lab.store.get, busy),
        partial(lab.store.get, lab.key()),
        lab.store.ping,
        lab.store.purge,
    ]
    for call in calls:
        answer, commands = ran(subject, call)
        assert not isinstance(answer, IdemstoreError)
        assert not WRITES & set(commands), (call, answer, commands)


def test_one_command_each(lab, subject):
    """Every operation is one command from the client; what it runs inside is a handful."""
    key = lab.key()
    lab.store.get(key)
    claim, commands = ran(subject, partial(lab.store.claim, key, token="t"))
    assert isinstance(claim, Claimed)
    assert commands == {"evalsha": 1, "time": 1, "hmget": 1, "exists": 1, "hset": 1, "pexpireat": 1}
    _, commands = ran(subject, partial(lab.store.claim, key))
    assert commands == {"evalsha": 1, "time": 1, "hmget": 1}
    _, commands = ran(subject, partial(lab.store.complete, key, "t", b"r"))
    assert commands == {"evalsha": 1, "time": 1, "hmget": 1, "hset": 1, "hdel": 1, "publish": 1}
    _, commands = ran(subject, partial(lab.store.claim, key))
    assert commands == {"evalsha": 1, "time": 1, "hmget": 1, "hget": 1}


def test_the_clock_is_read_once():
    """One TIME in each script: Redis 7.0 would give a second one another value."""
    for use in (script.CLAIM, script.RENEW, script.GET, script.PING, *script.TELLING, *script.SILENT):
        assert use.source.count(b"'TIME'") == 1
        assert not use.source.startswith(b"#!")
        assert not re.search(rb"cjson|cmsgpack|os\.|SCRIPT", use.source)


# -- damage -----------------------------------------------------------------------------------------------------------

GOOD = {"state": "in-flight", "token": "t", "fence": "7", "attempt": "1", "lease_until": "9007199254740991"}
DAMAGED = {
    "no fields of ours": {"field": "value"},
    "no state": {name: value for name, value in GOOD.items() if name != "state"},
    "unknown state": GOOD | {"state": "done"},
    "empty state": GOOD | {"state": ""},
    "no token": {name: value for name, value in GOOD.items() if name != "token"},
    "empty token": GOOD | {"token": ""},
    "no fence": {name: value for name, value in GOOD.items() if name != "fence"},
    "fence of words": GOOD | {"fence": "seven"},
    "fractional fence": GOOD | {"fence": "7.5"},
    "negative fence": GOOD | {"fence": "-7"},
    "fence with an exponent": GOOD | {"fence": "1e3"},
    "hexadecimal fence": GOOD | {"fence": "0x10"},
    "fence that is too long": GOOD | {"fence": "9" * 17},
    "fence with spaces": GOOD | {"fence": " 7"},
    "no attempt": {name: value for name, value in GOOD.items() if name != "attempt"},
    "attempt nan": GOOD | {"attempt": "nan"},
    "attempt 0": GOOD | {"attempt": "0"},
    "no lease": {name: value for name, value in GOOD.items() if name != "lease_until"},
    "lease inf": GOOD | {"lease_until": "inf"},
    "expiry of words": GOOD | {"expires_at": "never"},
    "empty expiry": GOOD | {"expires_at": ""},
    "retry time of words": GOOD | {"state": "failed", "result": "r", "retry_at": "later"},
    "completed without result": GOOD | {"state": "completed"},
    "failed without result": GOOD | {"state": "failed"},
    "binary": {b"state": b"\xff\x00"},
}


def put_damage(subject, key, what):
    """Something under the key that is no record."""
    name = subject.stored(key)
    if isinstance(what, dict):
        subject.client.hset(name, mapping=what)
    elif what == "string":
        subject.client.set(name, "string")
    elif what == "list":
        subject.client.rpush(name, "state")
    elif what == "set":
        subject.client.sadd(name, "state")
    elif what == "zset":
        subject.client.zadd(name, {"state": 1})
    else:
        subject.client.xadd(name, {"state": "in-flight"})


@pytest.mark.parametrize("damage", ["string", "list", "set", "zset", "stream", *DAMAGED])
def test_damage_is_never_taken_for_absent(lab, subject, damage):
    """Every operation raises CorruptRecord and leaves what it found as it was; an operator can forget it."""
    key = lab.key()
    put_damage(subject, key, DAMAGED.get(damage, damage))
    before = subject.client.dump(subject.stored(key))
    calls = [
        partial(lab.store.claim, key),
        partial(lab.store.claim, key, token="t", fingerprint=b"f"),
        partial(lab.store.claim, key, takeover=False),
        partial(lab.store.complete, key, "t", b"r"),
        partial(lab.store.fail, key, "t", b"r"),
        partial(lab.store.renew, key, "t"),
        partial(lab.store.release, key, "t"),
        partial(lab.store.get, key),
    ]
    for call in calls:
        error, commands = ran(subject, partial(raises, CorruptRecord, call))
        assert not WRITES & set(commands)
        assert "forget" in str(error)
    assert [type(answer) for answer in lab.store.claim_many([key, lab.key()])] == [CorruptRecord, Claimed]
    assert subject.client.dump(subject.stored(key)) == before
    assert lab.store.forget(key)
    assert isinstance(lab.store.claim(key), Claimed)


def test_good_record_made_by_hand(lab, subject):
    """What the damaged ones are compared with: it reads well."""
    key = lab.key()
    put_damage(subject, key, GOOD)
    assert isinstance(lab.store.claim(key), InFlight)
    assert lab.store.get(key).record.fence == 7


# -- forgotten scripts ------------------------------------------------------------------------------------------------


def test_forgotten_scripts(lab, subject):
    """After SCRIPT FLUSH (a restart, a failover) every operation loads its script again by itself."""
    key = lab.key()
    token = claimed(lab.store.claim(key)).token
    calls = [
        (partial(lab.store.claim, key), InFlight),
        (partial(lab.store.renew, key, token), Done),
        (partial(lab.store.complete, key, token, b"r"), Done),
        (partial(lab.store.claim, key), Completed),
        (partial(lab.store.release, lab.key(), token), Done),
        (partial(lab.store.fail, lab.key(), token, b"r"), LeaseLost),
        (lab.store.ping, int),
    ]
    for call, outcome in calls:
        subject.client.script_flush()
        answer, commands = ran(subject, call)
        assert isinstance(answer, outcome)
        assert commands["evalsha"] == commands["eval"] == 1
        _, commands = ran(subject, call)
        assert "eval" not in commands
    subject.client.script_flush()
    assert lab.store.get(key).record.result == b"r"


def test_forgotten_scripts_in_a_batch(lab, subject):
    """A batch goes on, too, each item answered once and in its place."""
    keys = [lab.key() for _ in range(50)]
    lab.store.ping()
    subject.client.script_flush()
    claims = [claimed(answer) for answer in lab.store.claim_many(keys)]
    subject.client.script_flush()
    items = [(key, claim.token, key.encode()) for key, claim in zip(keys, claims, strict=True)]
    assert lab.store.complete_many(items) == [Done()] * 50
    assert lab.store.claim_many(keys) == [Completed(key.encode()) for key in keys]


# -- permissions ------------------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs" / "redis.md"


def acl_line():
    """The ACL SETUSER line of the documentation."""
    found = re.search(r"^ACL SETUSER (.*)$", DOCS.read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split()


def test_documented_permissions_are_enough_and_needed(lab, subject):
    """The line of the documentation lets every operation pass; without any one of its commands something is refused."""
    rules = acl_line()[1:]
    rules = [rule.replace(">PASSWORD", ">secret").replace("idem:", subject.prefix) for rule in rules]
    user = f"user-{lab.key()}"
    admin = subject.client
    address = admin.connection_pool.connection_kwargs
    url = f"redis://{user}:secret@{address['host']}:{address['port']}/0?prefix={subject.prefix}"
    try:
        admin.execute_command("ACL", "SETUSER", user, *rules)
        live(lab.open(url), lab)
    finally:
        admin.execute_command("ACL", "DELUSER", user)


def live(store, lab):
    """A life of several keys, through every operation."""
    store.ping()
    key, other = lab.key(), lab.key()
    token = claimed(store.claim(key, lease=10, retention=5)).token
    done(store.renew(key, token, checkpoint=b"c"))
    done(store.fail(key, token, b"r", retention=None, retry_after=0))
    claim = claimed(store.claim(key, retention=7))
    done(store.complete(key, claim.token, b"r"))
    assert store.claim(key) == Completed(b"r")
    assert store.get(key) is not None
    lab.age(key, 86400 * 2)
    assert store.forget(key) in (True, False)
    done(store.release(other, claimed(store.claim(other)).token))
    expired = lab.key()
    claimed(store.claim(expired, lease=1, retention=1))
    lab.age(expired, 5)
    claimed(store.claim(expired))
    store.purge()
    store.migrate()


def test_a_missing_permission_is_named_by_ping(lab, subject):
    """A user who lacks one of the commands learns so from ping, before the first claim is half written."""
    user, admin = f"user-{lab.key()}", subject.client
    address = admin.connection_pool.connection_kwargs
    url = f"redis://{user}:secret@{address['host']}:{address['port']}/0?prefix={subject.prefix}"
    rules = [rule for rule in acl_line()[1:] if rule.startswith("+")]
    for missing in ("+hset", "+pexpireat", "+hdel", "+del", "+persist", "+hget", "+evalsha", "+time"):
        assert missing in rules
        try:
            kept = [rule for rule in rules if rule != missing]
            admin.execute_command("ACL", "SETUSER", user, "reset", "on", ">secret", f"~{subject.prefix}*", *kept)
            error = raises(AccessDenied, lab.open(url).ping)
            assert missing in str(error)
        finally:
            admin.execute_command("ACL", "DELUSER", user)
