"""The parts of the benchmark that need no store."""

from array import array

import pytest

from idemstore.bench.counting import Count
from idemstore.bench.figures import merged, percentile, violations
from idemstore.bench.network import label, obstacle, remote, through, upstream
from idemstore.bench.orders import Sample
from idemstore.bench.plan import Plan, read_concurrency, read_scenarios
from idemstore.bench.plots import ladder
from idemstore.bench.results import Machine
from idemstore.bench.targets import HOSTED, candidates


def sample(**changes: object) -> Sample:
    """One that a process might have seen."""
    usual: dict[str, object] = {
        "began": 10.0,
        "ended": 12.0,
        "busy": 2.0,
        "latencies": array("d", [0.1] * 10),
        "trips": 20,
        "cpu": 0.5,
        "errors": {},
        "claims": {},
        "doubtful": frozenset(),
        "wrong": (),
    }
    return Sample(**{**usual, **changes})  # type: ignore[arg-type]


def test_throughput_is_wall_clock():
    """Two processes side by side: all operations over the time from the first beginning to the last end."""
    figures = merged([sample(), sample(began=11.0, ended=14.0, busy=3.0, errors={"StoreTimeout": 2})])
    assert (figures.operations, figures.seconds, figures.throughput) == (20, 4.0, 5.0)
    assert (figures.round_trips_per_op, figures.cpu_us_per_op) == (2.0, 50_000.0)
    assert figures.errors == {"StoreTimeout": 2}


def test_a_wait_counts_from_the_completion():
    """Where a scenario waits on purpose, that time is left out."""
    assert merged([sample(busy=0.5), sample(busy=0.25)]).throughput == 40.0


def test_a_sample_without_operations_has_no_latency():
    """And no division by zero."""
    figures = merged([sample(latencies=array("d"), trips=3)], wire=5)
    assert (figures.throughput, figures.p50_ms, figures.p99_ms, figures.cpu_us_per_op) == (0.0, None, None, None)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_percentiles(share: float, expected: int):
    """By nearest rank: a value that was measured."""
    assert percentile(range(1, 101), share) == expected
    assert percentile([7.0], share) == 7.0
    assert percentile([], share) is None


def test_claims_of_one_key_are_added_up_over_processes():
    """One each is two; none at all is a violation too, unless a claim got no answer."""
    first, second = {"k1": 1, "k2": 1, "k3": 0, "k4": 0}, {"k1": 1, "k2": 0, "k3": 0, "k4": 0}
    found = violations([sample(claims=first), sample(claims=second, doubtful=frozenset({"k4"}))])
    assert found == ["k1: 2 Claimed", "k3: 0 Claimed"]
    assert violations([sample(wrong=("k9: another result",))]) == ["k9: another result"]


def test_counting_is_not_disturbed_by_looking():
    """Looks are not counted."""
    count = Count()
    assert count.look() == 0
    for expected in (1, 2, 3):
        count.add()
        assert (count.look(), count.look()) == (expected, expected)


@pytest.mark.parametrize(
    ("url", "far"),
    [
        ("memory://", False),
        ("sqlite:///x.db", False),
        ("redis:///0", False),
        ("redis://localhost/0", False),
        ("redis://127.0.0.9:1", False),
        ("redis://[::1]:1", False),
        ("redis+unix:///run/redis.sock", False),
        ("redis://example.org", True),
        ("redis://10.0.0.1", True),
        ("redis+cluster://localhost:1,10.0.0.1:2", True),
        ("postgresql:///db?host=/run/postgresql", False),
        ("postgresql:///db?host=db.example.org", True),
        ("mongodb+srv://example.org/db", True),
        ("dynamodb:///table?region=eu-central-1", True),
        ("dynamodb:///table?endpoint=http://localhost:8000", False),
        ("dynamodb+http://127.0.0.1:8000/table?region=r", False),
        ("other://localhost", False),
        ("other://far.example.org", True),
    ],
)
def test_what_is_on_another_machine(monkeypatch: pytest.MonkeyPatch, url: str, far: bool):
    """Only loopback counts as one's own."""
    monkeypatch.delenv("PGHOST", raising=False)
    assert remote(url) is far


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://localhost", None),
        ("postgresql://localhost/db?sslmode=prefer", None),
        ("mongodb://localhost/db?directConnection=true", None),
        ("dynamodb+http://localhost:8000/table?region=r", None),
        ("dynamodb://localhost:8000/table?region=r", "TLS"),
        ("mongodb://localhost/db", "directConnection=true"),
        ("mongodb://localhost/db?tls=true&directConnection=true", "TLS"),
        ("postgresql://localhost/db?sslmode=verify-full", "TLS"),
        ("postgresql://a,b/db", "one host"),
        ("redis+sentinel://localhost?service=m", "past a proxy"),
        ("redis+unix:///run/redis.sock", "TCP"),
        ("other://localhost", "TCP"),
        ("memory://", "no network"),
    ],
)
def test_where_a_proxy_can_stand(url: str, words: str | None):
    """Not where the client would go past it, or not let it listen."""
    reason = obstacle(url)
    assert reason is None if words is None else reason is not None and words in reason


def test_a_url_by_way_of_a_proxy():
    """Credentials, path and options stay."""
    url = "redis://user:p%40ss@[::1]:7000/2?prefix=a/b"
    assert upstream(url) == ("::1", 7000)
    assert through(url, 99) == "redis://user:p%40ss@127.0.0.1:99/2?prefix=a/b"
    assert upstream("postgresql:///db") == ("127.0.0.1", 5432)
    assert through("redis://localhost", 99) == "redis://127.0.0.1:99"


def test_labels_tell_urls_apart_without_secrets():
    """Options that matter are shown, others are not, nor are users and passwords."""
    assert label("redis://u:secret@h:1/0?coalesce=0&prefix=secret") == "redis://h:1/0?coalesce=0"
    same = candidates(["redis://a:x@h", "redis://b:y@h"], everything=False)
    assert [one.name for one in same] == ["redis://h #1", "redis://h #2"]
    assert "x@" not in repr(same)


def test_all_takes_every_server_once():
    """Beside memory and SQLite, and what was named."""
    assert [one.name for one in candidates([], everything=True)] == ["memory", "sqlite", *HOSTED]
    assert {"redis", "valkey", "redis8", "postgresql", "postgresql15", "pgbouncer", "mongodb", "dynamodb"} <= set(
        HOSTED
    )


def test_plans():
    """Numbers in order, once; scenarios in the order of the table; samples share a budget."""
    assert read_concurrency("64,1, 64") == (1, 64)
    assert read_scenarios(["hot,unique", "hot"]) == ("unique", "hot")
    assert len(Plan().cells) == 2 * 6 * 2
    assert Plan().seconds_of_sample(2) == 0.1
    assert Plan(seconds=3).seconds_of_sample(2) == 3
    assert Plan(scenarios=read_scenarios(["hot"]), rounds=1, concurrency=(1,)).seconds_of_sample(1) == 1.0


def test_a_busy_machine_is_said_to_be_busy():
    """From half of its cores on."""
    assert Machine(cores=4, load_start=[1.9, 0, 0]).busy is None
    assert "load average 2.5 on 4 cores" in (Machine(cores=4, load_start=[2.5, 0, 0]).busy or "")
    assert Machine(cores=4, load_start=[]).busy is None


@pytest.mark.parametrize("values", [[0.3, 0.31], [1, 1], [0.001, 90_000], [5, 80, 900], []])
def test_axes_have_round_ticks_around_the_values(values: list[float]):
    """At least two, at most nine, and all values lie between them."""
    ticks = ladder(values)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert not values or ticks[0] <= min(values) <= max(values) <= ticks[-1]
