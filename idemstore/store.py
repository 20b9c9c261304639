"""``Store``: the sync face over one dialect and one driver.

It carries exchanges to the driver and reads the replies; what they say stands in ``face``. It also keeps the rules that
every family needs: a child of ``fork()`` opens its own connections, and an error names the (redacted) key it is about.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, cast

from idemstore import checks, flows
from idemstore.cache import LocalCache
from idemstore.checks import Duration
from idemstore.errors import IdemstoreError, StoreClosed, UnsupportedMode
from idemstore.exchange import Dialect, Driver, Exchange, Snapshot, Watch
from idemstore.face import (
    DAY,
    LEASE,
    MAX_BATCH,
    MIGRATE_TIMEOUT,
    Ask,
    Asks,
    Completion,
    Face,
    Failure,
    Renewal,
    parents,
)
from idemstore.keys import KeyLike, encode_key, redact
from idemstore.outcomes import ClaimOutcome, SettleOutcome

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")


class Store(Face):
    """Idempotency keys, sync. Safe for many threads and across ``fork()``. Made by ``idemstore.open(url)``.

    Keys are a str, or a tuple ``(scope, ..., key)``: the parts before the last isolate callers from one another.
    Durations are seconds or timedelta. Every operation is atomic by the server's clock, takes at most ``timeout``
    seconds, may be repeated safely, and raises an ``idemstore.errors.IdemstoreError``.
    """

    _driver: Driver[object, object] | None = None
    """Here, too: a fork may find a store that another thread is just making."""

    def __init__(
        self,
        dialect: Dialect[Q, R],
        connect: Callable[[], Driver[Q, R]],
        *,
        timeout: float,
        name: str,
        join: Callable[[object], Driver[Q, R]] | None = None,
    ) -> None:
        """``connect`` makes the driver at first use, and again in a child process; ``join`` makes one over a caller's
        own connection, where the family can (see ``on``).
        """
        super().__init__(dialect, timeout, name)
        self._connect = cast("Callable[[], Driver[object, object]]", connect)
        self._join = cast("Callable[[object], Driver[object, object]] | None", join)
        self._lock = threading.RLock()

    def after_fork(self) -> None:
        """A parent's connection, used or closed here, would speak on the parent's socket: put it aside for good."""
        parents.append(self._driver)
        self._forget_cached()
        self._driver = None
        self._lock = threading.RLock()

    def _live(self) -> Driver[object, object]:
        """The driver, made at first use."""
        with self._lock:
            if self._closed:
                raise StoreClosed(f"{self!r} is closed: open a new store")
            if self._driver is None:
                driver = self._connect()
                self._driver = self._driver or driver  # a signal handler may have been faster
            return self._driver

    def _ask(self, exchange: Ask[T], key: str | None = None, timeout: float | None = None) -> T:
        """Carry an exchange, and those that must follow it, within one deadline."""
        driver = self._driver or self._live()
        timeout = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        try:
            answer = exchange.parse(driver.execute(exchange.request, timeout))
            while isinstance(answer, Exchange):
                answer = answer.parse(driver.execute(answer.request, self._left(deadline)))
        except IdemstoreError as error:
            if key is not None and error.key is None:
                error.key = redact(key)
            raise
        return answer  # pyright: ignore[reportReturnType] - it does not narrow a TypeVar

    def _ask_many(self, asks: Asks[T], timeout: float | None = None) -> list[T | IdemstoreError]:
        """Carry many exchanges in as few round trips as the driver can, within one deadline."""
        keys, exchanges = asks
        driver = self._driver or self._live()
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        steps = flows.batch(exchanges, MAX_BATCH)
        replies: Sequence[object | IdemstoreError] | None = None
        while True:
            try:
                requests = steps.send(replies) if replies is not None else next(steps)
            except StopIteration as stop:
                return flows.named(cast("list[T | IdemstoreError]", stop.value), keys, self._key_bytes)
            try:
                replies = driver.execute_many(requests, self._left(deadline))
            except IdemstoreError as error:
                if replies is None:
                    raise
                replies = [error] * len(requests)  # what was answered before is not lost with what was not

    def claim(
        self,
        key: KeyLike,
        *,
        lease: Duration = LEASE,
        retention: Duration | None = DAY,
        fingerprint: bytes | None = None,
        token: str | None = None,
        takeover: bool = True,
        wait: Duration = 0,
    ) -> ClaimOutcome:
        """Ask for a key: run the operation now, or learn what became of it.

        ``lease``: how long others leave the claim alone. ``retention``: how long an execution that crashed stays
        visible behind its lease (None: for ever). ``fingerprint``: digest of the payload (``idemstore.fingerprint``).
        ``token`` names the claim; made here unless given. ``takeover=False``: rather get ``Abandoned`` than run an
        operation whose owner may have died half-way. ``wait``: how long to wait for somebody else's execution
        (seconds); the answer is ``InFlight`` if it is still running then.
        """
        stored = encode_key(key, self._key_bytes)
        cache = self._cache
        if cache is not None:
            found = self._cached(cache, stored, lease, retention, fingerprint, token, wait)
            if found is None:
                found = self._look(cache, stored, fingerprint)
            if found is not None:
                return found
        exchange = self._claim(stored, lease, retention, fingerprint, token, takeover)
        outcome = self._ask(exchange, stored) if wait == 0 else self._wait(exchange, stored, wait)
        if cache is not None:
            cache.saw(stored, outcome)
        return outcome

    def _wait(self, exchange: Ask[ClaimOutcome], stored: str, wait: Duration) -> ClaimOutcome:
        """Claim, and wait for whoever runs."""
        seconds = checks.seconds_to_wait(wait)
        return flows.run(
            flows.claim_or_wait(exchange, seconds),
            lambda again: self._ask(again, stored),
            lambda: self._watch(stored),
        )

    def _look(self, cache: LocalCache, stored: str, fingerprint: bytes | None) -> ClaimOutcome | None:
        """Ask for the whole record in place of a claim, where it is known to be finished."""
        forgets, since = cache.asked(stored), time.monotonic()
        if forgets is None:
            return None
        snapshot = self._ask(self._dialect.get(stored), stored)
        return cache.keep(stored, snapshot, fingerprint, since, forgets)

    def _watch(self, key: str) -> Watch:
        return (self._driver or self._live()).watch(key)

    def complete(self, key: KeyLike, token: str, result: bytes, *, retention: Duration | None = DAY) -> SettleOutcome:
        """Store the result; every later claim gets it until ``retention`` is over. Check the answer: ``LeaseLost``
        means that somebody else owns or owned the key, and that this result is not stored.
        """
        stored = encode_key(key, self._key_bytes)
        cache, outcome = self._cache, self._ask(self._complete(stored, token, result, retention), stored)
        if cache is not None:
            cache.settled(stored, outcome, result)
        return outcome

    def fail(
        self,
        key: KeyLike,
        token: str,
        result: bytes,
        *,
        retention: Duration | None = DAY,
        retry_after: Duration | None = None,
    ) -> SettleOutcome:
        """Store a failure. ``retry_after`` None: final, and replayed. 0: the next claim runs at once. Else a back-off
        in seconds, at most the retention.
        """
        stored = self._key(key)
        cache, outcome = self._cache, self._ask(self._fail(stored, token, result, retention, retry_after), stored)
        if cache is not None and retry_after is None:
            cache.settled(stored, outcome, result)
        return outcome

    def renew(
        self, key: KeyLike, token: str, *, lease: Duration = LEASE, checkpoint: bytes | None = None
    ) -> SettleOutcome:
        """Extend the lease, counted from now, and save a checkpoint if one is given."""
        stored = self._key(key)
        return self._ask(self._renew(stored, token, lease, checkpoint), stored)

    def release(self, key: KeyLike, token: str) -> SettleOutcome:
        """Give the key back, as if it had never been claimed: the next claim runs at once."""
        stored = self._key(key)
        return self._ask(self._release(stored, token), stored)

    def claim_many(
        self,
        keys: Sequence[KeyLike],
        *,
        fingerprints: Sequence[bytes | None] | None = None,
        tokens: Sequence[str | None] | None = None,
        lease: Duration = LEASE,
        retention: Duration | None = DAY,
        takeover: bool = True,
    ) -> list[ClaimOutcome | IdemstoreError]:
        """Claim many keys at once: one outcome or error for each, in order. A bad item leaves its neighbours alone.
        Whoever wants to repeat a claim that got no answer gives the tokens, one for each key.
        """
        return self._ask_many(self._claims(keys, fingerprints, tokens, lease, retention, takeover))

    def complete_many(
        self, items: Iterable[Completion | tuple[KeyLike, str, bytes]], *, retention: Duration | None = DAY
    ) -> list[SettleOutcome | IdemstoreError]:
        """Complete many ``(key, token, result)`` at once: one outcome or error for each, in order."""
        return self._ask_many(self._completions(items, retention))

    def fail_many(
        self, items: Iterable[Failure], *, retention: Duration | None = DAY
    ) -> list[SettleOutcome | IdemstoreError]:
        """Fail many at once: one outcome or error for each, in order."""
        return self._ask_many(self._failures(items, retention))

    def renew_many(
        self, items: Iterable[Renewal], *, timeout: float | None = None
    ) -> list[SettleOutcome | IdemstoreError]:
        """Renew many leases at once: one outcome or error for each, in order. ``timeout``: seconds for all of them, the
        store's unless given; a renewal that takes as long as the lease has come too late.
        """
        return self._ask_many(self._renewals(items), checks.timeout(timeout))

    def release_many(self, items: Iterable[tuple[KeyLike, str]]) -> list[SettleOutcome | IdemstoreError]:
        """Give many ``(key, token)`` back at once: one outcome or error for each, in order."""
        return self._ask_many(self._releases(items))

    def get(self, key: KeyLike) -> Snapshot | None:
        """Look at a record without touching it; None where the key is absent. For people and tests, not to decide."""
        stored = self._key(key)
        return self._ask(self._dialect.get(stored), stored)

    def forget(self, key: KeyLike) -> bool:
        """Delete a record whatever its state, an owner's claim included; True where there was one. For operators."""
        stored = self._key(key)
        cache = self._cache
        if cache is None:
            return self._ask(self._dialect.forget(stored), stored)
        cache.drop(stored)
        try:
            return self._ask(self._dialect.forget(stored), stored)
        finally:
            cache.drop(stored)  # and what was asked for meanwhile

    def purge(self, limit: int = 1000) -> int:
        """Delete at most ``limit`` records whose retention is over, never a live one; how many went. Call until 0."""
        return self._ask(self._dialect.purge(checks.purge_limit(limit)))

    def ping(self) -> int:
        """Ask the server for its clock (microseconds since the epoch): proof that calls would be answered."""
        return self._ask(self._dialect.ping())

    def migrate(self) -> None:
        """Create or update what the family needs on its server (tables, functions, indexes). May be repeated."""
        self._ask(self._dialect.migrate(), timeout=MIGRATE_TIMEOUT)

    def on(self, connection: object) -> "Store":
        """The same store over the caller's own connection or session: what it does commits or rolls back with the
        caller's transaction. Raises ``UnsupportedMode`` where the family has no such thing.
        """
        join = self._join
        if join is None:
            raise UnsupportedMode(f"{self.name} has no transaction to join: call the store itself")
        store = Store(self._dialect, lambda: join(connection), timeout=self.timeout, name=self.name)
        store.joined = True
        return store

    def wrapped(self, wrap: Callable[[Driver[object, object]], Driver[object, object]]) -> "Store":
        """A second store like this one whose driver is ``wrap(driver)``: for counting, tracing and fault injection."""
        connect = self._connect
        store = Store(self._dialect, lambda: wrap(connect()), timeout=self.timeout, name=self.name, join=self._join)
        store._cache = self._empty_cache()
        return store

    def close(self) -> None:
        """Close every connection. A closed store raises ``StoreClosed``; closing twice is fine."""
        with self._lock:
            self._closed, driver, self._driver, self._cache = True, self._driver, None, None
        if driver is not None:
            driver.close()

    def __enter__(self) -> Self:
        """The store itself; leaving the block closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()
