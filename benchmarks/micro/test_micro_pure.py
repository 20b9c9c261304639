"""Benchmarks of pytest-benchmark. Each checks once that what it measures gives the right answer."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.replies import FAMILIES, FINGERPRINT, KEY, LARGEST, READING, RESULT, TOKEN
from idemstore.backends.dynamodb.messages import Request
from idemstore.exchange import Exchange
from idemstore.keys import encode_key, fingerprint
from idemstore.machine import MICROSECONDS, Claim, Complete, Event, step
from idemstore.outcomes import DONE, Claimed, Completed, InFlight

NOW = 1_795_319_126_996_550
LEASE, DAY = 30 * MICROSECONDS, 86400 * MICROSECONDS
CLAIM = Claim(FINGERPRINT, TOKEN, LEASE, DAY)
OTHER = Claim(FINGERPRINT, "u" * 32, LEASE, DAY)
COMPLETE = Complete(TOKEN, RESULT, DAY)
IN_FLIGHT = step(None, CLAIM, NOW)[0]
COMPLETED = step(IN_FLIGHT, COMPLETE, NOW + 1)[0]
PAYLOAD = {"order": 4711, "items": [{"sku": "A-1", "count": 2}, {"sku": "B-7", "count": 1}], "total": 19.95}

STEPS = {
    "claim": (None, CLAIM, Claimed),
    "busy": (IN_FLIGHT, OTHER, InFlight),
    "complete": (IN_FLIGHT, COMPLETE, type(DONE)),
    "replay": (COMPLETED, OTHER, Completed),
}


@pytest.mark.parametrize("name", STEPS)
def test_step(benchmark: BenchmarkFixture, name: str) -> None:
    """One step of the machine."""
    record, event, expected = STEPS[name]
    _, outcome = benchmark(step, record, event, NOW + 2)
    assert isinstance(outcome, expected)


def asked(exchange: Exchange[object, object, object], reply: object) -> object:
    """Build the request to the last byte that is the dialect's, and read the reply."""
    request = exchange.request
    if isinstance(request, Request):
        request.build(READING)
    return exchange.parse(reply)


def ask(family: str, event: Event) -> Callable[[], object]:
    """A call that builds and parses."""
    dialect, claimed, done, replay = FAMILIES[family]
    match event:
        case Claim():
            reply = claimed if event is CLAIM else replay
            return lambda: asked(dialect.claim(KEY, event), reply)
        case Complete():
            return lambda: asked(dialect.complete(KEY, event), done)
        case _:
            raise AssertionError(event)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "event", "expected"),
    [("claim", CLAIM, Claimed), ("complete", COMPLETE, type(DONE)), ("replay", OTHER, Completed)],
    ids=["claim", "complete", "replay"],
)
def test_dialect(benchmark: BenchmarkFixture, family: str, name: str, event: Event, expected: type) -> None:
    """A dialect: build the request and read the reply."""
    assert isinstance(benchmark(ask(family, event)), expected), name


@pytest.mark.parametrize("key", [KEY, ("tenant-7", "orders", KEY), "größe:%"], ids=["plain", "scoped", "escaped"])
def test_key(benchmark: BenchmarkFixture, key: str | tuple[str, ...]) -> None:
    """The encoding of a key."""
    assert benchmark(encode_key, key, LARGEST)


@pytest.mark.parametrize("payload", [bytes(1000), PAYLOAD], ids=["1 kB of bytes", "JSON"])
def test_fingerprint(benchmark: BenchmarkFixture, payload: bytes) -> None:
    """The digest of a payload."""
    assert len(benchmark(fingerprint, payload)) == len(FINGERPRINT)
