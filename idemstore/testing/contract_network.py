"""What a network may do to a store with a server: lose a reply, stall, cut, refuse. For servers with one endpoint.

Subclass ``NetworkContract`` and give it a ``subject`` whose URL names one ``host:port``, or say otherwise in
``endpoint`` and ``through``.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest

from idemstore.errors import StoreTimeout, StoreUnavailable
from idemstore.outcomes import Claimed, Completed, Done
from idemstore.testing.blocking import Client
from idemstore.testing.contract_lab import MODES, Lab, Mode, claimed, done, expect, raises
from idemstore.testing.contract_resend import SETTLE
from idemstore.testing.proxy import Proxy
from idemstore.testing.subject import Subject

T = TypeVar("T")

STILL: Final = 3.5
"""Seconds for which a busy machine may stand still in the middle of a call."""


class NetworkContract:
    """Faults between client and server, made by a proxy."""

    timeout = 1.0
    """The time-out of a store that meets a stalled network (seconds)."""

    @pytest.fixture(params=MODES)
    def mode(self, request: pytest.FixtureRequest) -> Mode:
        """Sync and async."""
        mode: Mode = request.param
        return mode

    @pytest.fixture
    def lab(self, subject: Subject, mode: Mode) -> Iterator[Lab]:
        """The server, reached directly."""
        with Lab(subject, mode) as lab:
            yield lab

    @pytest.fixture
    def proxy(self, subject: Subject) -> Iterator[Proxy]:
        """The way to the server."""
        with Proxy(*self.endpoint(subject.url)) as proxy:
            yield proxy

    def endpoint(self, url: str) -> tuple[str, int]:
        """Host and port in a store URL."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def through(self, url: str, port: int) -> str:
        """The same URL with another port on loopback."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))

    def behind(self, lab: Lab, proxy: Proxy, timeout: float | None = None) -> Client:
        """A store that reaches the server through the proxy, and has done so once, with every call that is counted: a
        client may prepare a statement when it first needs it.
        """
        url = self.through(lab.subject.url, proxy.port)
        if timeout is not None:
            base, _, query = url.partition("?")
            options = [option for option in query.split("&") if option and not option.startswith("timeout=")]
            url = f"{base}?{'&'.join([*options, f'timeout={timeout}'])}"
        store = lab.open(url)
        for _ in range(2):
            token = claimed(store.claim(key := lab.key("warm-up"))).token
            done(store.renew(key, token))
            done(store.complete(key, token, b"r"))
        return store

    def resends(self, lab: Lab) -> bool:
        """Whether the family's drivers send a request again by themselves when its reply was lost."""
        return False

    def persistently(self, lab: Lab, call: Callable[[], T]) -> T:
        """Repeat the call once if it was lost: where the driver does not send it again, its caller does."""
        try:
            return call()
        except StoreUnavailable:
            assert not self.resends(lab), "the driver should have sent it again"
            return call()

    def test_reply_of_a_claim_is_lost(self, lab: Lab, proxy: Proxy) -> None:
        """A claim that was applied and sent again is the same claim: nobody waits for itself."""
        store, key = self.behind(lab, proxy), lab.key()
        dropped = proxy.drop_reply()
        claim = claimed(self.persistently(lab, partial(store.claim, key, token="mine")))
        assert dropped.is_set()
        assert claim.attempt == 1
        found = lab.store.get(key)
        assert found is not None
        assert (found.record.token, found.record.fence) == (claim.token, claim.fence)

    def test_reply_of_a_takeover_is_lost(self, lab: Lab, proxy: Proxy) -> None:
        """A takeover that was applied and sent again is one attempt."""
        store, key = self.behind(lab, proxy), lab.key()
        claimed(lab.store.claim(key))
        lab.age(key, 100)
        dropped = proxy.drop_reply()
        assert claimed(self.persistently(lab, partial(store.claim, key, token="mine"))).attempt == 2
        assert dropped.is_set()

    def test_reply_of_a_settlement_is_lost(self, lab: Lab, proxy: Proxy) -> None:
        """No owner is told LeaseLost about its own completion, failure, renewal or release."""
        store = self.behind(lab, proxy)
        for name, call in SETTLE.items():
            key = lab.key()
            claimed(lab.store.claim(key, token="owner"))
            dropped = proxy.drop_reply()
            assert self.persistently(lab, partial(call, store, key)) == Done(), name
            assert dropped.is_set(), name

    def test_reply_of_a_batch_is_lost(self, lab: Lab, proxy: Proxy) -> None:
        """A batch of completions that was applied and sent again is done, every item."""
        store = self.behind(lab, proxy)
        keys = [lab.key() for _ in range(20)]
        claims = [expect(Claimed, answer) for answer in store.claim_many(keys)]
        items = [(key, claim.token, b"r") for key, claim in zip(keys, claims, strict=True)]
        dropped = proxy.drop_reply()
        answers = self.batch(lab, partial(store.complete_many, items))
        assert answers == [Done()] * 20
        assert dropped.is_set()

    def batch(self, lab: Lab, call: Callable[[], list[T]]) -> list[T]:
        """Repeat a batch if all of it or any item was lost."""
        answers = self.persistently(lab, call)
        return (
            self.persistently(lab, call) if any(isinstance(answer, StoreUnavailable) for answer in answers) else answers
        )

    def test_one_round_trip_on_the_wire(self, lab: Lab, proxy: Proxy) -> None:
        """A claim, a busy answer, a renewal, a completion, a replay: one round trip each, nothing hidden."""
        store, key = self.behind(lab, proxy), lab.key()
        before = proxy.round_trips
        token = claimed(store.claim(key)).token
        store.claim(key)
        done(store.renew(key, token))
        done(store.complete(key, token, b"r"))
        assert store.claim(key) == Completed(b"r")
        assert proxy.round_trips - before == 5

    def test_connection_is_cut(self, lab: Lab, proxy: Proxy) -> None:
        """After a cut the store connects again by itself."""
        store, key = self.behind(lab, proxy), lab.key()
        proxy.cut()
        assert claimed(self.persistently(lab, partial(store.claim, key, token="mine"))).attempt == 1

    def test_server_refuses(self, lab: Lab, proxy: Proxy) -> None:
        """While nobody listens calls fail in time, saying that they may be repeated; then all is well again."""
        store, key = self.behind(lab, proxy, self.timeout), lab.key()
        proxy.cut(refuse=True)
        began = time.monotonic()
        assert raises(StoreUnavailable, partial(store.claim, key)).retryable
        assert time.monotonic() - began < self.timeout + STILL
        proxy.accept()
        assert claimed(self.persistently(lab, partial(store.claim, key))).attempt == 1

    def test_server_stalls(self, lab: Lab, proxy: Proxy) -> None:
        """A call to a server that does not answer ends at its time-out; once it answers, the store does, too."""
        store, key = self.behind(lab, proxy, self.timeout), lab.key()
        proxy.stall()
        began = time.monotonic()
        raises(StoreTimeout, partial(store.claim, key, token="mine"))
        took = time.monotonic() - began
        assert self.timeout * 0.8 <= took < self.timeout + STILL
        proxy.resume()
        assert claimed(self.persistently(lab, partial(store.claim, key, token="mine"))).attempt == 1

    def test_waiter_survives_a_cut(self, lab: Lab, proxy: Proxy) -> None:
        """A waiter whose connections are cut still gets the result, or says that the store was unavailable."""
        store, key = self.behind(lab, proxy), lab.key()
        token = claimed(lab.store.claim(key, lease=600)).token
        before = proxy.round_trips
        waiter = lab.background(partial(store.claim, key, wait=lab.patience))
        deadline = time.monotonic() + lab.patience
        while proxy.round_trips < before + 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        proxy.cut()
        done(lab.store.complete(key, token, b"r"))
        began = time.monotonic()
        try:
            assert waiter.result() == Completed(b"r")
        except StoreUnavailable:
            assert not self.resends(lab), "the driver should have asked again"
        assert lab.prompt(began), "the waiter slept past the result"

    def test_slow_network(self, lab: Lab, proxy: Proxy) -> None:
        """A call takes as long as its one round trip."""
        store, key = self.behind(lab, proxy), lab.key()
        proxy.latency = 100.0
        began = time.monotonic()
        claimed(store.claim(key))
        assert 0.095 <= time.monotonic() - began < 0.2 + STILL
