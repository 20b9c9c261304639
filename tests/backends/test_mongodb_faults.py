"""MongoDB when something is wrong: elections, lost majorities, races, users, a server that is down, frozen or full.

Needs a server with fail points, which MongoDB has under ``enableTestCommands``; here it is an emulation (SecantusDB).
"""

import gc
import time
import warnings
from collections.abc import Iterator
from functools import partial

import pytest

pytest.importorskip("pymongo")
pytest.importorskip("motor")

import mongodb_servers
from mongodb_servers import MODES, Fail, emulation, opened

import idemstore
from idemstore.errors import (
    AccessDenied,
    SchemaError,
    StoreError,
    StoreFull,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
    Throttled,
)
from idemstore.outcomes import Completed, Done, InFlight
from idemstore.testing.contract_lab import claimed, done, raises
from idemstore.testing.proxy import Proxy
from idemstore.testing.servers import ServerUnavailable
from idemstore.testing.servers.process import Process

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""PyMongo's monitors connect again and again while a server is down, and leave a socket behind when they are stopped
just then (docs/mongodb.md, "Known trouble"). What they leave is collected here, and reported in no other test.
"""


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Nothing is left for the tests of other modules."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Process]]:
    """A server with fail points, which keeps what it has acknowledged when it is killed: address and process."""
    try:
        with emulation("--enable-test-commands", "--sync-on-commit") as server:
            yield server
    except ServerUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def address(server: tuple[str, Process]) -> str:
    """Where it is."""
    return server[0]


@pytest.fixture
def fail(address: str) -> Iterator[Fail]:
    """Its fail points."""
    points = Fail(address)
    yield points
    points.close()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Sync, async, and Motor."""
    return request.param


@pytest.fixture
def store(mode: str, address: str):
    """A store in this mode."""
    with opened(mode, address, "&heartbeatFrequencyMS=500") as store:
        yield store


# -- what the server says ---------------------------------------------------------------------------------------------

STEPPED_DOWN = {"errorCode": 10107}
CUT = {"closeConnection": True}
NO_MAJORITY = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}


@pytest.mark.parametrize("what", [STEPPED_DOWN, {"errorCode": 189}, {"errorCode": 91}, CUT], ids=str)
def test_one_failure_is_not_the_callers(store, fail, what):
    """A primary that steps down and a connection that breaks: the same command is sent once more, by the driver."""
    store.ping()
    with fail.point(**what):
        assert claimed(store.claim("k")).attempt == 1
    with fail.point(**what):
        done(store.complete("k", store.get("k").record.token, b"r"))
    assert store.claim("k") == Completed(b"r")


@pytest.mark.parametrize("what", [STEPPED_DOWN, CUT], ids=str)
def test_lasting_failure_is_the_callers(store, fail, what):
    """If it fails again the caller is told, that it may repeat the call; nothing was stored."""
    store.ping()
    with fail.point(None, **what):
        assert raises(StoreUnavailable, partial(store.claim, "k")).retryable
    assert store.get("k") is None


def test_lost_majority(store, fail):
    """A write that the primary made and a majority does not confirm is not taken for done; repeating it is."""
    store.ping()
    with fail.point(**NO_MAJORITY):
        assert raises(StoreTimeout, partial(store.claim, "k", token="mine")).retryable
    assert claimed(store.claim("k", token="mine")).attempt == 1
    with fail.point(**NO_MAJORITY):
        raises(StoreTimeout, partial(store.complete, "k", "mine", b"r"))
    done(store.complete("k", "mine", b"r"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (13, AccessDenied),
        (50, StoreTimeout),
        (112, StoreUnavailable),
        (166, SchemaError),
        (462, Throttled),
        (14031, StoreFull),
        (2, StoreMisbehaved),
    ],
)
def test_refusals(store, fail, code, kind):
    """What the server refuses is one error each, which shows neither key nor result."""
    store.ping()
    with fail.point(None, errorCode=code):
        error = raises(kind, partial(store.complete, "secret-key", "token", b"secret-result"))
    assert type(error) is kind
    assert "secret-key" not in str(error)
    assert "secret-result" not in str(error)
    assert error.__cause__ is None or isinstance(error, StoreUnavailable)


def test_failure_of_one_item_stays_with_it(store, fail):
    """In a batch an error of the server is that of its item."""
    store.ping()
    with fail.point(1, errorCode=14031):
        answers = store.claim_many([f"item-{n}" for n in range(8)])
    assert sorted(type(answer).__name__ for answer in answers) == ["Claimed"] * 7 + ["StoreFull"]


# -- users ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A server that asks who is there."""
    try:
        with emulation("--auth", users=True) as (address, _):
            yield address
    except ServerUnavailable as reason:
        pytest.skip(str(reason))


def test_right_password(mode, guarded):
    """A user with readWrite does everything, migrate included."""
    with opened(mode, guarded, "&authSource=admin", "app:app-password@") as store:
        store.migrate()
        assert claimed(store.claim("k")).attempt == 1
        assert store.purge() == 0


@pytest.mark.parametrize("user", ["app:wrong-password@", "nobody:wrong-password@"])
def test_wrong_password(mode, guarded, user):
    """A wrong password is told as such, at once the first time and always within the time-out, and is not shown."""
    with opened(mode, guarded, "&authSource=admin&timeout=1", user) as store:
        for call, limit in ((store.ping, 0.8), (partial(store.claim, "k"), 1.5)):
            began = time.monotonic()
            error = raises(AccessDenied, call)
            assert time.monotonic() - began < limit + 4
            assert "wrong-password" not in f"{error!r} {error} {error.__cause__!r}"
            assert not error.retryable


def test_missing_role(mode, guarded):
    """Who may only read is told which role is missing; even a ping says so."""
    with opened(mode, guarded, "&authSource=admin", "reader:reader-password@") as store:
        for call in (store.ping, partial(store.claim, "k"), partial(store.forget, "k")):
            assert "find, insert, update" in str(raises(AccessDenied, call))


def test_no_credentials(mode, guarded):
    """No user at all is denied, too."""
    with opened(mode, guarded) as store:
        raises(AccessDenied, partial(store.claim, "k"))


# -- down, frozen, slow -----------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(address: str) -> Iterator[Proxy]:
    """A way to the server that can be closed."""
    host, _, port = address.partition(":")
    with Proxy(host, int(port)) as proxy:
        yield proxy


def in_time(call, seconds):
    """The call fails, and not later than this."""
    began = time.monotonic()
    error = raises(StoreUnavailable, call)
    assert error.retryable
    assert time.monotonic() - began < seconds + 4
    return error


def test_nobody_listens(mode):
    """A server that is not there: an error within the time-out, from the first call on."""
    with opened(mode, "127.0.0.1:9", "&timeout=0.3") as store:
        for call in (store.ping, partial(store.claim, "k"), partial(store.get, "k")):
            in_time(call, 0.3)


def test_stalled_before_the_first_call(mode, proxy):
    """A server that accepts and says nothing hangs no first call, in connecting or in greeting."""
    proxy.stall()
    with opened(mode, f"127.0.0.1:{proxy.port}", "&timeout=0.5") as store:
        in_time(partial(store.claim, "k"), 0.5)
        proxy.resume()
        assert claimed(_patiently(partial(store.claim, "k"))).attempt == 1


def _patiently(call):
    """Repeat a call until it succeeds: a client that was refused looks again only now and then."""
    end = time.monotonic() + 30
    while True:
        try:
            return call()
        except StoreUnavailable:
            assert time.monotonic() < end


def test_frozen_in_the_middle(mode, server):
    """A server process that is frozen (SIGSTOP): every call ends in time; afterwards all is well."""
    address, process = server
    with opened(mode, address, "&timeout=0.7") as store:
        token = claimed(_patiently(partial(store.claim, "k"))).token
        process.pause()
        try:
            for call in (partial(store.complete, "k", token, b"r"), partial(store.claim, "k"), store.ping):
                in_time(call, 0.7)
        finally:
            process.resume()
        assert _patiently(partial(store.complete, "k", token, b"r")) == Done()


def test_pool_is_exhausted(mode, proxy):
    """While all connections wait for a frozen server, further calls do not wait for ever for a free one."""
    with opened(mode, f"127.0.0.1:{proxy.port}", "&timeout=1&maxPoolSize=1") as store:
        claimed(_patiently(partial(store.claim, "k")))
        proxy.stall()
        began = time.monotonic()
        answers = store.claim_many([f"item-{n}" for n in range(40)])
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert time.monotonic() - began < 5.0
        proxy.resume()
        assert isinstance(_patiently(partial(store.claim, "k")), InFlight)


def test_closing_does_not_hang(mode, proxy):
    """A store whose server has gone is closed all the same, soon."""
    with opened(mode, f"127.0.0.1:{proxy.port}", "&timeout=1") as store:
        claimed(_patiently(partial(store.claim, "k")))
        proxy.cut(refuse=True)
        began = time.monotonic()
    assert time.monotonic() - began < 4.0


def test_killed_and_started_again(mode, server):
    """A server that dies and comes back: calls fail meanwhile, saying so; then they succeed with the same store."""
    address, process = server
    with opened(mode, address, "&timeout=0.7") as store:
        token = claimed(_patiently(partial(store.claim, "k"))).token
        process.kill()
        in_time(partial(store.complete, "k", token, b"r"), 0.7)
        process.restart()
        assert _patiently(partial(store.complete, "k", token, b"r")) == Done()
        assert store.claim("k") == Completed(b"r")


def test_every_error_is_ours(store, fail):
    """Whatever code a server answers, the caller sees an error of idemstore."""
    store.ping()
    for code in (1, 8, 11, 59, 96, 115, 251, 292, 334, 40324, 51144):
        with fail.point(None, errorCode=code):
            raises(StoreError, partial(store.claim, f"code-{code}"))


def test_modes_are_all_tested():
    """Sync, async and Motor."""
    assert set(MODES) == {"sync", "async", "motor"}
    assert mongodb_servers.SCHEMES["motor"] == "mongodb+motor"


@pytest.mark.parametrize("hosts", ["127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2"])
def test_a_server_that_is_not_there_is_told_in_a_sentence(hosts: str):
    """Which addresses, and why: not PyMongo's view of the whole topology."""
    with idemstore.open(f"mongodb://{hosts}/db?timeout=0.2") as store, pytest.raises(StoreUnavailable) as caught:
        store.ping()
    text = str(caught.value)
    assert all(f"{host}: [Errno" in text for host in hosts.split(","))
    assert "Connection refused" in text
    assert "Topology" not in text
    assert "Timeout" not in text
    assert "timeouts" not in text
    assert len(text) < 250
