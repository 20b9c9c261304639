"""The persistence layer, under Powertools' own ``@idempotent``, on memory, a file and a server."""

import inspect
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent
from aws_lambda_powertools.utilities.idempotency.base import IdempotencyHandler
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyPersistenceLayerError,
    IdempotencyValidationError,
)

import idemstore
from idemstore.errors import ConfigurationError, LeaseLostError, StoreUnavailable, UndecodableResult
from idemstore.http.powertools import IdemstorePersistenceLayer
from idemstore.keys import encode_key
from idemstore.machine import State
from idemstore.testing.blocking import PATIENCE
from idemstore.testing.families import names
from idemstore.testing.faults import Faults, FaultyDriver
from idemstore.testing.subject import Subject

WANTED = ("memory", "sqlite", "redis")


class Context:
    """What Lambda gives a handler."""

    def __init__(self, millis: int = 30_000) -> None:
        self.millis = millis

    def get_remaining_time_in_millis(self) -> int:
        """The time that is left."""
        return self.millis


@pytest.fixture(scope="module", params=[name for name in WANTED if name in names()])
def subject(request: pytest.FixtureRequest, make_subject) -> Subject:
    """Memory, a file, a server."""
    return make_subject(request.param)


class Bench:
    """A handler of one order, its store and its layer."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.store, self.faults = subject, idemstore.open(subject.url), Faults()
        self.wrapped = self.store.wrapped(lambda driver: FaultyDriver(driver, self.faults))
        self.name = f"shop-{uuid.uuid4().hex[:12]}"
        self.order = "o-1"
        self.runs = 0
        self.inside: Callable[[], object] = lambda: None

    def layer(self) -> IdemstorePersistenceLayer:
        """A layer, as another environment of the same function has one."""
        return IdemstorePersistenceLayer(self.wrapped)

    def handler(self, **config: Any) -> Callable[[dict[str, Any], Context], Any]:
        """The handler in an environment of its own."""
        chosen = IdempotencyConfig(event_key_jmespath="order", **config)

        @idempotent(persistence_store=self.layer(), config=chosen, key_prefix=self.name)
        def handle(event: dict[str, Any], context: Context) -> Any:
            self.runs += 1
            run = self.runs
            self.inside()
            return {"run": run}

        return handle

    def event(self, amount: int = 1) -> dict[str, Any]:
        """What comes in."""
        return {"order": self.order, "amount": amount}

    @property
    def key(self) -> tuple[str, str]:
        """Where it is stored."""
        digest = IdemstorePersistenceLayer(self.store)._generate_hash(self.order)
        return ("powertools", f"{self.name}#{digest}")

    def age(self, seconds: float) -> None:
        """Let time pass for the record."""
        self.subject.age(encode_key(self.key, 10**6), seconds)


@pytest.fixture
def bench(subject: Subject) -> Iterator[Bench]:
    """What every test gets."""
    made = Bench(subject)
    yield made
    made.wrapped.close()
    made.store.close()


def test_a_retry_replays(bench: Bench):
    """In the same environment and in another one; one round trip each, claim and completion on the first."""
    first, other = bench.handler(), bench.handler()
    first({"order": "warm"}, Context())  # scripts are loaded at first use
    before, bench.runs = bench.faults.round_trips, 0
    assert first(bench.event(), Context()) == {"run": 1}
    assert bench.faults.round_trips == before + 2
    assert first(bench.event(2), Context()) == other(bench.event(), Context()) == {"run": 1}
    assert (bench.faults.round_trips, bench.runs) == (before + 4, 1)


def test_nothing_is_a_result(bench: Bench):
    """A handler that returns None is replayed as such."""
    layer, runs = bench.layer(), []

    @idempotent(persistence_store=layer, key_prefix=bench.name)
    def handle(event: dict[str, Any], context: Context) -> None:
        runs.append(event)

    assert [handle(bench.event(), Context()) for _ in range(2)] == [None, None]
    assert len(runs) == 1


def test_in_progress_is_an_error(bench: Bench):
    """Another environment is told; the local cache does not matter."""
    stop, go = threading.Event(), threading.Event()
    bench.inside = lambda: (stop.set(), go.wait(PATIENCE))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(bench.handler(use_local_cache=True), bench.event(), Context())
        assert stop.wait(PATIENCE)
        for cached in (False, True):
            with pytest.raises(IdempotencyAlreadyInProgressError):
                bench.handler(use_local_cache=cached)(bench.event(), Context())
        go.set()
        assert first.result(PATIENCE) == {"run": 1}
    assert bench.handler()(bench.event(), Context()) == {"run": 1}


def test_other_payloads_are_refused(bench: Bench):
    """Of a finished execution, of one in progress, and where the local cache has it."""
    handler = bench.handler(payload_validation_jmespath="amount", use_local_cache=True)

    def again() -> None:
        with pytest.raises(IdempotencyValidationError):
            bench.handler(payload_validation_jmespath="amount")(bench.event(2), Context())

    bench.inside = again
    assert handler(bench.event(), Context()) == {"run": 1}
    again()
    with pytest.raises(IdempotencyValidationError):
        handler(bench.event(2), Context())
    assert handler(bench.event(), Context()) == {"run": 1}


def test_it_expires(bench: Bench):
    """After ``expires_after_seconds`` the key is free."""
    handler = bench.handler(expires_after_seconds=60)
    handler(bench.event(), Context())
    bench.age(61)
    assert handler(bench.event(), Context()) == {"run": 2}


def test_a_failure_lets_retry(bench: Bench):
    """The record is deleted, the error is the handler's own."""

    def fail() -> None:
        bench.inside = lambda: None
        raise ValueError("no")

    bench.inside = fail
    handler = bench.handler()
    with pytest.raises(ValueError, match="no"):
        handler(bench.event(), Context())
    assert bench.store.get(bench.key) is None
    assert handler(bench.event(), Context()) == {"run": 2}


def test_the_lease_is_the_time_that_lambda_leaves(bench: Bench):
    """A crash is taken over once Lambda would have ended it."""
    left: list[float] = []

    def look() -> None:
        found = bench.store.get(bench.key)
        assert found is not None
        left.append(found.lease_left or 0)

    bench.inside = look
    bench.handler()(bench.event(), Context(7000))
    assert 5 < left[0] <= 7


def test_a_crash_is_taken_over_and_the_stale_owner_is_fenced(bench: Bench):
    """The first was frozen past its time: its late result is refused, that of its successor stands."""

    def frozen() -> None:
        bench.inside = lambda: None
        bench.age(31)
        assert bench.handler()(bench.event(), Context()) == {"run": 2}

    bench.inside = frozen
    with pytest.raises(IdempotencyPersistenceLayerError) as caught:
        bench.handler()(bench.event(), Context())
    assert isinstance(caught.value.__cause__, LeaseLostError)
    assert bench.handler()(bench.event(), Context()) == {"run": 2}


def test_a_stale_owner_that_fails_deletes_nothing(bench: Bench):
    """What its successor stored is left alone."""

    def frozen() -> None:
        bench.inside = lambda: None
        bench.age(31)
        assert bench.handler()(bench.event(), Context()) == {"run": 2}
        raise ValueError("late")

    bench.inside = frozen
    with pytest.raises(ValueError, match="late"):
        bench.handler()(bench.event(), Context())
    assert bench.handler()(bench.event(), Context()) == {"run": 2}


@pytest.mark.skipif(
    "is_replay" not in inspect.signature(IdempotencyHandler.handle).parameters,
    reason="this Powertools knows no durable functions",
)
def test_a_durable_function_goes_on_in_another_process(bench: Bench):
    """Powertools replays what is in progress; the claim of the first process is completed."""
    first = bench.layer()
    config = IdempotencyConfig(event_key_jmespath="order", lambda_context=Context())

    def handle(event: dict[str, Any]) -> dict[str, int]:
        return {"resumed": 1}

    def begin(layer: IdemstorePersistenceLayer) -> IdempotencyHandler:
        event = bench.event()
        return IdempotencyHandler(
            handle, event, config, layer, key_prefix=bench.name, function_args=(event,), function_kwargs={}
        )

    begin(first).persistence_store.save_inprogress(bench.event(), 30_000)
    assert begin(bench.layer()).handle(is_replay=True) == {"resumed": 1}
    found = bench.store.get(bench.key)
    assert found is not None
    assert found.state is State.COMPLETED
    assert begin(bench.layer()).handle() == {"resumed": 1}


def test_what_is_read_back_is_what_was_stored(bench: Bench):
    """``_get_record``: absent, in progress, lapsed, completed, foreign."""
    layer = bench.layer()
    key = bench.key[1]
    config = IdempotencyConfig(event_key_jmespath="order")
    layer.configure(config, key_prefix=bench.name)
    layer.save_inprogress(bench.event(), 5000)
    assert layer._get_record(key).status == "INPROGRESS"
    layer.save_success(bench.event(), {"a": 1})
    found = layer._get_record(key)
    assert (found.status, json.loads(found.response_data)) == ("COMPLETED", {"a": 1})
    bench.store.forget(bench.key)
    claim = bench.store.claim(bench.key)
    assert isinstance(claim, idemstore.Claimed)
    bench.store.complete(bench.key, claim.token, b"\xff")
    with pytest.raises(UndecodableResult):
        layer._get_record(key)


def test_a_store_that_is_down_is_an_error(bench: Bench):
    """Nothing runs."""
    bench.faults.lose_request()
    with pytest.raises(IdempotencyPersistenceLayerError) as caught:
        bench.handler()(bench.event(), Context())
    assert isinstance(caught.value.__cause__, StoreUnavailable)
    assert bench.runs == 0


def test_it_takes_a_sync_store():
    """The other kind is refused at once."""
    with pytest.raises(ConfigurationError, match=r"idemstore\.open\(url\)"):
        IdemstorePersistenceLayer(idemstore.open_async("memory://"))
