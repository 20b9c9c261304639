"""The Redis family without a server: URLs, packing, replies, routing."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from queue import Empty

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from idemstore.backends.redis import routing, script
from idemstore.backends.redis.dialect import NOSCRIPT, RedisDialect, Request, wrote
from idemstore.backends.redis.faults import Fault
from idemstore.backends.redis.options import Address, RedisOptions, Topology, read_target
from idemstore.backends.redis.resp import LARGE, NotResp, Refused, joined, pack, pack_after, replies_in
from idemstore.backends.redis.routing import Attempts, Batch
from idemstore.backends.redis.sync_pool import Tickets
from idemstore.errors import (
    CorruptRecord,
    IdemstoreError,
    InvalidUrl,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
    UnknownOption,
)
from idemstore.exchange import Exchange
from idemstore.machine import Claim, Complete, Fail, Record, Release, Renew, State
from idemstore.outcomes import Abandoned, Claimed, Completed, Done, Failed, InFlight, LeaseLost, Mismatch
from idemstore.url import parse_url

# -- URLs -------------------------------------------------------------------------------------------------------------


def target(url):
    """The URL, read."""
    return read_target(parse_url(url))


@pytest.mark.parametrize(
    ("url", "topology", "addresses", "tls", "db"),
    [
        ("redis://", Topology.ONE, [("localhost", 6379)], False, 0),
        ("redis://h", Topology.ONE, [("h", 6379)], False, 0),
        ("redis://h:1/2", Topology.ONE, [("h", 1)], False, 2),
        ("redis://h/2?db=2", Topology.ONE, [("h", 6379)], False, 2),
        ("rediss://h/", Topology.ONE, [("h", 6379)], True, 0),
        ("valkey://[::1]:7/3", Topology.ONE, [("::1", 7)], False, 3),
        ("valkeys://h", Topology.ONE, [("h", 6379)], True, 0),
        ("valkey+cluster://h", Topology.CLUSTER, [("h", 6379)], False, 0),
        ("valkeys+sentinel://h/1?service=m", Topology.SENTINEL, [("h", 26379)], True, 1),
        ("unix:///run/r.sock", Topology.ONE, [("/run/r.sock", 0)], False, 0),
        ("redis+unix:///run/r.sock?db=4", Topology.ONE, [("/run/r.sock", 0)], False, 4),
        ("redis+cluster://a,b:1", Topology.CLUSTER, [("a", 6379), ("b", 1)], False, 0),
        ("rediss+cluster://a/0", Topology.CLUSTER, [("a", 6379)], True, 0),
        ("redis+sentinel://a,b:1/5?service=m", Topology.SENTINEL, [("a", 26379), ("b", 1)], False, 5),
        ("rediss+sentinel://a?service=m", Topology.SENTINEL, [("a", 26379)], True, 0),
    ],
)
def test_urls(url, topology, addresses, tls, db):
    """Every form of URL says which servers, how they are found, and which database."""
    read = target(url)
    assert (read.topology, list(read.addresses), read.tls, read.db) == (topology, addresses, tls, db)


def test_defaults():
    """What a bare URL means."""
    options = target("redis://h").options
    assert (options.prefix, options.timeout, options.max_connections) == ("idem:", 5.0, 50)
    assert (options.replicas, options.max_result) == (0, 64 * 2**20)


def test_credentials_are_unquoted_and_hidden():
    """User and password come from the URL, %-escapes undone; no repr shows a password."""
    read = target("redis+sentinel://us%40er:p%3Aw@h?service=m&sentinel_password=s3cr3t")
    assert (read.username, read.password) == ("us@er", "p:w")
    assert read.options.sentinel_password == "s3cr3t"
    assert "p:w" not in repr(read)
    assert "s3cr3t" not in repr(read)


@pytest.mark.parametrize(
    "url",
    [
        "redis://a,b",
        "redis://h/nine",
        "redis://h/-1",
        "redis://h/0/1",
        "redis://h/1?db=2",
        "redis+cluster://h/1",
        "redis+cluster://h?db=1",
        "redis+sentinel://h",
        "redis+sentinel://h?service=",
        "unix://",
        "unix:///",
        "unix://host/path",
    ],
)
def test_bad_urls(url):
    """A URL that names too many servers, no database, or too little, is refused when it is opened."""
    with pytest.raises(InvalidUrl):
        target(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?retries=1",
        "redis://h?max_connections=0",
        "redis://h?max_result=536870913",
        "redis://h?replicas=-1",
        "redis://h?db=-1",
        "redis://h?ca_certs=/etc",
        "redis://h?ssl_cert_reqs=none",
        "rediss://h?cert_reqs=optional",
        "rediss://h?ca_certs=/no/such/file",
        "rediss://h?ssl_keyfile=/etc/hostname",
        "rediss://h?ca_certs=/" + "long" * 200,
        "rediss://h?ca_certs=/etc&ssl_ca_certs=/etc",
        "redis://h?service=m",
        "redis://h?sentinel_password=x",
    ],
)
def test_bad_options(url):
    """An unknown option, one that belongs to another kind of URL, and a value that it cannot take."""
    with pytest.raises(UnknownOption):
        target(url)


def test_tls_options_by_either_name(tmp_path):
    """``ca_certs`` and redis-py's own ``ssl_ca_certs`` mean the same."""
    file = tmp_path / "ca.pem"
    file.touch()
    assert target(f"rediss://h?ca_certs={file}") == target(f"rediss://h?ssl_ca_certs={file}")


def test_nothing_imports_redis_before_open():
    """The backend, its dialect and its routing are importable without redis-py; ``open`` says what to install."""
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "import idemstore, idemstore.backends.redis, idemstore.backends.redis.routing\n"
        "from idemstore.errors import MissingPackage\n"
        "for open in idemstore.open, idemstore.open_async:\n"
        "    try:\n"
        "        open('redis://h')\n"
        "    except MissingPackage as error:\n"
        "        print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.count("pip install 'idemstore[redis]'") == 2


# -- packing ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8))
def test_pack(words):
    """A command is an array of bulk strings; a packed head changes nothing."""
    expected = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    assert pack(*words) == expected
    assert b"".join(pack_after(b"*%d\r\n" % len(words), words)) == expected


@given(st.lists(st.sampled_from([0, 1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]), min_size=1, max_size=5))
def test_pack_large(sizes):
    """Large arguments travel as they are, uncopied, and read the same."""
    words = [bytes(size) for size in sizes]
    chunks = pack_after(b"*%d\r\n" % len(words), words)
    assert b"".join(chunks) == pack(*words)
    for word in words:
        assert len(word) < LARGE or any(chunk is word for chunk in chunks)


PIECES = (
    b"$4\r\ndone\r\n:-7\r\n+OK\r\n$-1\r\n*-1\r\n"
    b"*3\r\n$6\r\nr\r\n\r\ns\r\n$-1\r\n:12\r\n-NOSCRIPT No matching\r\n$0\r\n\r\n*0\r\n"
)
READ = [b"done", -7, b"OK", None, None, [b"r\r\n\r\ns", None, 12], Refused("NOSCRIPT No matching"), b"", []]


def read_in(pieces, count):
    """As a connection does: what did not fit is looked at again with what comes next."""
    replies, data = [], b""
    for piece in pieces:
        data += piece
        at, missing = replies_in(data, count, replies)
        assert missing > 0 or len(replies) == count
        data = data[at:]
    return replies, data


def test_replies_in_pieces_of_any_size():
    """However the stream is cut, the same replies come out, and nothing is left."""
    for size in range(1, len(PIECES) + 1):
        pieces = [PIECES[start : start + size] for start in range(0, len(PIECES), size)]
        assert read_in(pieces, len(READ)) == (READ, b"")


def test_replies_say_how_much_is_missing():
    """So that a large result is waited for once, and never more than there will be."""
    data = b"$10\r\n0123456789\r\n"
    for cut in range(5, len(data)):
        assert replies_in(data[:cut], 1, []) == (0, len(data) - cut)
    assert replies_in(b"*2\r\n:1\r\n" + data[:6], 1, []) == (0, len(data) - 6)
    assert replies_in(b"$10", 1, []) == (0, 1)


def test_more_replies_than_were_asked_for():
    """They stay where they are."""
    assert replies_in(b":1\r\n:2\r\n", 1, []) == (4, 0)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"\r\n", b":\r\n", b"*1\r\n?\r\n"])
def test_what_is_no_reply(data):
    """It is refused, not guessed at."""
    with pytest.raises(NotResp):
        replies_in(data, 1, [])


def test_joined():
    """A pipeline goes out in few writes, in order."""
    commands = [(b"a" * 1000,)] * 200 + [(b"b", b"c" * (2 * LARGE), b"d")]
    chunks = list(joined(commands))
    assert b"".join(chunks) == b"".join(chunk for command in commands for chunk in command)
    assert len(chunks) < 10


# -- replies ----------------------------------------------------------------------------------------------------------

DIALECT = RedisDialect("p:", 1000)
CLAIM = Claim(b"f", "token", 1, None)


def words(request):
    """A packed command, as words."""
    parts = b"".join(request.chunks).split(b"\r\n")
    return parts[2::2]


def test_requests():
    """Each operation is one EVALSHA on one key."""
    calls = {
        DIALECT.claim("k", CLAIM): (script.CLAIM, b"token", b"1", b"", b"f", b"1"),
        DIALECT.claim("k", Claim(None, "t", 2, 3, False)): (script.CLAIM, b"t", b"2", b"3", b"", b"0"),
        DIALECT.complete("k", Complete("t", b"r", 5)): (script.TELLING.complete, b"t", b"r", b"5"),
        DIALECT.fail("k", Fail("t", b"r", None, 0)): (script.TELLING.fail, b"t", b"r", b"", b"0"),
        DIALECT.renew("k", Renew("t", 7)): (script.RENEW, b"t", b"7"),
        DIALECT.renew("k", Renew("t", 7, b"")): (script.RENEW, b"t", b"7", b""),
        DIALECT.release("k", Release("t")): (script.TELLING.release, b"t"),
        DIALECT.get("k"): (script.GET,),
    }
    for exchange, (use, *arguments) in calls.items():
        assert words(exchange.request) == [b"EVALSHA", use.digest.encode(), b"1", b"p:k", *arguments]
        assert exchange.request.key == b"p:k"


def test_forgotten_script_is_sent_with_its_source():
    """NOSCRIPT is answered by the same call with the source, once."""
    again = DIALECT.complete("k", Complete("t", b"r", 5)).parse(NOSCRIPT)
    assert isinstance(again, Exchange)
    sent = b"".join(again.request.chunks)
    assert sent.startswith(b"*7\r\n$4\r\nEVAL\r\n")
    assert script.TELLING.complete.source in sent
    assert again.parse(b"done") == Done()
    with pytest.raises(StoreMisbehaved):
        again.parse(NOSCRIPT)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (b"claimed 7 1", Claimed("token", 7, 1)),
        ([b"claimed", 7, 2, b""], Claimed("token", 7, 2, b"")),
        (b"in-flight 1500000", InFlight(1.5)),
        ([b"completed", b""], Completed(b"")),
        ([b"failed", b"x"], Failed(b"x")),
        ([b"failed", b"x", 500_000], Failed(b"x", 0.5)),
        (b"mismatch", Mismatch()),
        ([b"abandoned", b"owner", 7, 3, b"c"], Abandoned("owner", 7, 3, b"c")),
    ],
)
def test_claim_replies(reply, outcome):
    """What claim.lua answers."""
    assert DIALECT.claim("k", CLAIM).parse(reply) == outcome


@pytest.mark.parametrize(("reply", "outcome"), [(b"done", Done()), (b"same", Done()), (b"lost", LeaseLost())])
def test_settle_replies(reply, outcome):
    """What the other scripts answer."""
    for exchange in (
        DIALECT.complete("k", Complete("t", b"r", 5)),
        DIALECT.fail("k", Fail("t", b"r", None)),
        DIALECT.renew("k", Renew("t", 7)),
        DIALECT.release("k", Release("t")),
    ):
        assert exchange.parse(reply) == outcome


def test_get_replies():
    """What get.lua answers."""
    reply = [b"record", 9, b"failed", b"t", 7, 2, b"f", None, 11, 12, b"r", b"c"]
    found = DIALECT.get("k").parse(reply)
    assert found.record == Record(State.FAILED, "t", 7, 2, b"f", None, 11, 12, b"r", b"c")
    assert found.now == 9
    assert DIALECT.get("k").parse([b"absent"]) is None


EVERY = [
    DIALECT.claim("k", CLAIM),
    DIALECT.complete("k", Complete("t", b"r", 5)),
    DIALECT.fail("k", Fail("t", b"r", None)),
    DIALECT.renew("k", Renew("t", 7)),
    DIALECT.release("k", Release("t")),
    DIALECT.get("k"),
]


def test_corrupt_replies():
    """A damaged record is CorruptRecord for every operation, and the error says what is wrong with it."""
    for exchange in EVERY:
        with pytest.raises(CorruptRecord, match="state is unknown"):
            exchange.parse([b"corrupt", b"state is unknown"])
    with pytest.raises(CorruptRecord):
        DIALECT.claim("k", CLAIM).parse([b"abandoned", b"\xff", 7, 3, None])


@pytest.mark.parametrize(
    "reply",
    [None, [], b"OK", b"", b"claimed", b"claimed x 1", b"in-flight", [b"claimed"], [None], [b"record", 1], [[b"done"]]],
)
def test_odd_replies(reply):
    """What no script of ours answers is StoreMisbehaved, for every operation."""
    for exchange in (*EVERY, DIALECT.ping(), DIALECT.forget("k"), DIALECT.migrate()):
        with pytest.raises(StoreMisbehaved):
            exchange.parse(reply)


def test_what_wrote():
    """Only these answers may have changed a record, so only they are worth waiting for replicas."""
    for reply in (b"claimed 7 1", [b"claimed", 7, 2, b"c"], b"done", 1):
        assert wrote(reply)
    for reply in ([b"completed", b"x"], b"in-flight 1", b"mismatch", b"same", b"lost", 0, NOSCRIPT, None, [b"record"]):
        assert not wrote(reply)


def test_touch_marks_re_deliveries():
    """With replicas to wait for, the calls that a client may re-send ask for a write in any case."""
    touching = RedisDialect("p:", 1000, touch=True)
    assert words(touching.claim("k", CLAIM).request)[-1] == b"1"
    assert words(touching.complete("k", Complete("t", b"r", 5)).request)[-1] == b"1"
    assert words(touching.fail("k", Fail("t", b"r", 5)).request)[-1] == b"1"


# -- routing ----------------------------------------------------------------------------------------------------------


@given(st.text("{}ab", max_size=8))
def test_slots_are_those_of_redis(text):
    """The slot of a key, hash tags included, as redis-py computes it."""
    assert routing.slot_of(text.encode()) == key_slot(text.encode())


def test_read_slots():
    """CLUSTER SLOTS as servers answer it; a node that leaves out its own address is the one that was asked."""
    asked = Address("seed", 1)
    reply = [[0, 9, [b"a", 7, b"id", []], [b"replica", 8, b"id"]], [10, 10, [None, 5]], [11, 12, [b"", 6, b"id"]]]
    slots = routing.read_slots(reply, asked)
    assert slots.owners[0] == slots.owners[9] == ("a", 7)
    assert slots.owners[10] == ("seed", 5)
    assert slots.owners[12] == ("seed", 6)
    assert slots.nodes() == [("a", 7), ("seed", 5), ("seed", 6)]
    assert routing.read_slots([], asked).owner(b"k") is None
    for odd in ([b"x"], [[0, 1]], [[0, b"1", [b"a", 7]]]):
        with pytest.raises(StoreMisbehaved):
            routing.read_slots(odd, asked)


def test_read_master():
    """A sentinel's answer: an address, or that it does not know the service."""
    assert routing.read_master([b"10.0.0.1", b"6379"]) == ("10.0.0.1", 6379)
    assert routing.read_master(None) is None
    assert routing.is_master([b"master", 0, []])
    assert not routing.is_master([b"slave", b"h", 1])
    assert not routing.is_master(None)


def test_failed_nodes_are_asked_last():
    """Who did not answer of late is asked after the others."""
    a, b, c = (Address(name, 1) for name in "abc")
    assert routing.seeds([a, b], [c, a], {a: 5.0})[-1] == a
    assert sorted(routing.seeds([a, b], [c, a], {})) == [a, b, c]


def test_attempts_of_a_lone_server_are_few():
    """At once, then after short pauses, then no more: nobody will replace it."""
    attempts = Attempts(60, Topology.ONE)
    pauses = [attempts.next() for _ in range(4)]
    assert pauses[0] == 0
    assert all(0 < pause < 0.1 for pause in pauses[1:3])
    assert pauses[3] is None


@pytest.mark.parametrize("topology", [Topology.CLUSTER, Topology.SENTINEL])
def test_attempts_elsewhere_go_on_until_the_deadline(topology):
    """A failover takes seconds; the pauses grow to a quarter of a second, and end with the deadline."""
    attempts = Attempts(60, topology)
    pauses = [attempts.next() for _ in range(50)]
    assert all(after >= before * 0.5 for before, after in pairwise(pauses))
    assert 0.15 < pauses[-1] < 0.35
    assert Attempts(0, topology).next() is None


def test_batch():
    """Answers, lasting errors and what may be tried again, each in its place."""
    batch = Batch([Request((b"",), b"k")] * 4, Attempts(60, Topology.CLUSTER).cut)
    passing, lasting = StoreUnavailable("later"), IdemstoreError("never")
    batch.answer(2, b"claimed 7 1")
    batch.fail([0, 1, 2], Fault(passing, again=True))
    assert batch.due() == [0, 1, 3]
    batch.fail([1], Fault(lasting, again=False))
    batch.answer(3, b"lost")
    assert batch.due() == [0]
    assert batch.results() == [passing, lasting, b"claimed 7 1", b"lost"]
    assert [batch.wrote(index) for index in range(4)] == [False, False, True, False]
    batch.revoke([2], passing)
    assert batch.results()[2] is passing


@pytest.mark.parametrize("short", [True, False])
def test_the_last_attempt_of_a_batch_is_cut_short(short):
    """An attempt that the time-out ends where it has hardly begun says nothing new: its items get the error of the
    attempt before, if there was one. A server that had the time to answer is silent.
    """
    attempts = Attempts(60 if short else 0, Topology.CLUSTER)
    batch = Batch([Request((b"",), b"k")] * 2, attempts.cut)
    passing, late = StoreUnavailable("another node serves it"), StoreTimeout("late")
    batch.fail([0], Fault(passing, again=True))
    attempts.next()
    batch.fail([0, 1], Fault(late, again=False))
    assert batch.results() == [passing if short else late, late]


# -- documentation ----------------------------------------------------------------------------------------------------


def test_options_in_the_docs():
    """The table of the page names every option, and no other."""
    rows = re.findall(
        r"^\| `([a-z_]+)` \|", (Path(__file__).parents[2] / "docs" / "redis.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(RedisOptions.__dataclass_fields__)


def test_a_ticket_that_nobody_has_is_made_anew():
    """A signal handler raised where it was just taken: the pool keeps its size, no more and no less."""
    tickets = Tickets(2)
    first = tickets.take()
    tickets.take()  # lost
    second = tickets.take()
    with pytest.raises(Empty):
        tickets.take()
    tickets.give(first)
    assert tickets.wait(0) is first
    del second
    third = tickets.take()
    assert third is not first
    with pytest.raises(Empty):
        tickets.take()
