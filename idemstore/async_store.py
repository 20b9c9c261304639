"""``AsyncStore``: the async face. A module of its own, so that sync programs never import asyncio."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, cast

from idemstore import checks, flows
from idemstore.cache import LocalCache
from idemstore.checks import Duration
from idemstore.coalesce import Coalescer, Coalescing
from idemstore.errors import IdemstoreError, StoreClosed, UnknownOption, UnsupportedMode, WrongEventLoop
from idemstore.exchange import AsyncDriver, AsyncWatch, Dialect, Exchange, Snapshot
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
from idemstore.url import Options

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")


class AsyncStore(Face):
    """Idempotency keys, async: the same operations as ``Store``, as coroutines. Made by ``idemstore.open_async(url)``.

    Bound to the event loop that first uses it; a child of ``fork()`` may use it on a loop of its own.
    """

    _driver: AsyncDriver[object, object] | None = None
    """As in ``Store``."""

    def __init__(
        self,
        dialect: Dialect[Q, R],
        connect: Callable[[], AsyncDriver[Q, R]],
        *,
        timeout: float,
        name: str,
        join: Callable[[object], AsyncDriver[Q, R]] | None = None,
        coalesce: Coalescing | None = None,
    ) -> None:
        """As ``Store``; ``connect`` is called on the event loop that the store binds to. ``coalesce``: how calls travel
        together, where the family can do that.
        """
        super().__init__(dialect, timeout, name)
        self._coalesce = coalesce
        self._connect = cast("Callable[[], AsyncDriver[object, object]]", connect)
        self._join = cast("Callable[[object], AsyncDriver[object, object]] | None", join)
        self._loop: asyncio.AbstractEventLoop | None = None

    def after_fork(self) -> None:
        """As in ``Store``; the parent's loop does not run here either."""
        parents.append(self._driver)
        self._forget_cached()
        self._driver = self._loop = None

    def _live(self) -> AsyncDriver[object, object]:
        """The driver, if this is its loop; made at first use."""
        loop = asyncio.get_running_loop()
        if self._loop is loop and self._driver is not None:
            return self._driver
        if self._closed:
            raise StoreClosed(f"{self!r} is closed: open a new store")
        if self._loop is not None:
            raise WrongEventLoop(
                f"{self!r} belongs to another event loop, where its connections live: "
                "open one store per event loop (one asyncio.run, one store)"
            )
        driver = self._connect()
        how = self._coalesce
        self._driver = driver if how is None or not how.default else Coalescer(driver, how)
        self._loop = loop
        return self._driver

    def _configure(self, options: Options) -> Self:
        """And how its calls travel."""
        if options.coalesce is not None and self._coalesce is not None:
            self._coalesce = self._coalesce._replace(default=options.coalesce)
        elif options.coalesce:
            raise UnknownOption(f"{self.name}: calls of this family do not coalesce: leave out 'coalesce'")
        return super()._configure(options)

    async def _ask(self, exchange: Ask[T], key: str | None = None, timeout: float | None = None) -> T:
        """As ``Store._ask``."""
        driver = self._live()
        timeout = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        try:
            answer = exchange.parse(await driver.execute(exchange.request, timeout))
            while isinstance(answer, Exchange):
                answer = answer.parse(await driver.execute(answer.request, self._left(deadline)))
        except IdemstoreError as error:
            if key is not None and error.key is None:
                error.key = redact(key)
            raise
        return answer  # pyright: ignore[reportReturnType] - it does not narrow a TypeVar

    async def _ask_many(self, asks: Asks[T], timeout: float | None = None) -> list[T | IdemstoreError]:
        """As ``Store._ask_many``."""
        keys, exchanges = asks
        driver = self._live()
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        steps = flows.batch(exchanges, MAX_BATCH)
        replies: Sequence[object | IdemstoreError] | None = None
        while True:
            try:
                requests = steps.send(replies) if replies is not None else next(steps)
            except StopIteration as stop:
                return flows.named(cast("list[T | IdemstoreError]", stop.value), keys, self._key_bytes)
            try:
                replies = await driver.execute_many(requests, self._left(deadline))
            except IdemstoreError as error:
                if replies is None:
                    raise
                replies = [error] * len(requests)  # as in ``Store._ask_many``

    async def claim(
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
        """As ``Store.claim``."""
        stored = encode_key(key, self._key_bytes)
        cache = self._cache
        if cache is not None:
            found = self._cached(cache, stored, lease, retention, fingerprint, token, wait)
            if found is None:
                found = await self._look(cache, stored, fingerprint)
            if found is not None:
                return found
        exchange = self._claim(stored, lease, retention, fingerprint, token, takeover)
        outcome = await (self._ask(exchange, stored) if wait == 0 else self._wait(exchange, stored, wait))
        if cache is not None:
            cache.saw(stored, outcome)
        return outcome

    async def _wait(self, exchange: Ask[ClaimOutcome], stored: str, wait: Duration) -> ClaimOutcome:
        """Claim, and wait for whoever runs."""
        seconds = checks.seconds_to_wait(wait)
        return await flows.run_async(
            flows.claim_or_wait(exchange, seconds),
            lambda again: self._ask(again, stored),
            lambda: self._watch(stored),
        )

    async def _look(self, cache: LocalCache, stored: str, fingerprint: bytes | None) -> ClaimOutcome | None:
        """Ask for the whole record in place of a claim, where it is known to be finished."""
        forgets, since = cache.asked(stored), time.monotonic()
        if forgets is None:
            return None
        snapshot = await self._ask(self._dialect.get(stored), stored)
        return cache.keep(stored, snapshot, fingerprint, since, forgets)

    def _watch(self, key: str) -> AsyncWatch:
        return self._live().watch(key)

    async def complete(
        self, key: KeyLike, token: str, result: bytes, *, retention: Duration | None = DAY
    ) -> SettleOutcome:
        """As ``Store.complete``."""
        stored = self._key(key)
        cache, outcome = self._cache, await self._ask(self._complete(stored, token, result, retention), stored)
        if cache is not None:
            cache.settled(stored, outcome, result)
        return outcome

    async def fail(
        self,
        key: KeyLike,
        token: str,
        result: bytes,
        *,
        retention: Duration | None = DAY,
        retry_after: Duration | None = None,
    ) -> SettleOutcome:
        """As ``Store.fail``."""
        stored = self._key(key)
        cache, outcome = self._cache, await self._ask(self._fail(stored, token, result, retention, retry_after), stored)
        if cache is not None and retry_after is None:
            cache.settled(stored, outcome, result)
        return outcome

    async def renew(
        self, key: KeyLike, token: str, *, lease: Duration = LEASE, checkpoint: bytes | None = None
    ) -> SettleOutcome:
        """As ``Store.renew``."""
        stored = self._key(key)
        return await self._ask(self._renew(stored, token, lease, checkpoint), stored)

    async def release(self, key: KeyLike, token: str) -> SettleOutcome:
        """As ``Store.release``."""
        stored = self._key(key)
        return await self._ask(self._release(stored, token), stored)

    async def claim_many(
        self,
        keys: Sequence[KeyLike],
        *,
        fingerprints: Sequence[bytes | None] | None = None,
        tokens: Sequence[str | None] | None = None,
        lease: Duration = LEASE,
        retention: Duration | None = DAY,
        takeover: bool = True,
    ) -> list[ClaimOutcome | IdemstoreError]:
        """As ``Store.claim_many``."""
        return await self._ask_many(self._claims(keys, fingerprints, tokens, lease, retention, takeover))

    async def complete_many(
        self, items: Iterable[Completion | tuple[KeyLike, str, bytes]], *, retention: Duration | None = DAY
    ) -> list[SettleOutcome | IdemstoreError]:
        """As ``Store.complete_many``."""
        return await self._ask_many(self._completions(items, retention))

    async def fail_many(
        self, items: Iterable[Failure], *, retention: Duration | None = DAY
    ) -> list[SettleOutcome | IdemstoreError]:
        """As ``Store.fail_many``."""
        return await self._ask_many(self._failures(items, retention))

    async def renew_many(
        self, items: Iterable[Renewal], *, timeout: float | None = None
    ) -> list[SettleOutcome | IdemstoreError]:
        """As ``Store.renew_many``."""
        return await self._ask_many(self._renewals(items), checks.timeout(timeout))

    async def release_many(self, items: Iterable[tuple[KeyLike, str]]) -> list[SettleOutcome | IdemstoreError]:
        """As ``Store.release_many``."""
        return await self._ask_many(self._releases(items))

    async def get(self, key: KeyLike) -> Snapshot | None:
        """As ``Store.get``."""
        stored = self._key(key)
        return await self._ask(self._dialect.get(stored), stored)

    async def forget(self, key: KeyLike) -> bool:
        """As ``Store.forget``."""
        stored = self._key(key)
        cache = self._cache
        if cache is None:
            return await self._ask(self._dialect.forget(stored), stored)
        cache.drop(stored)
        try:
            return await self._ask(self._dialect.forget(stored), stored)
        finally:
            cache.drop(stored)  # and what was asked for meanwhile

    async def purge(self, limit: int = 1000) -> int:
        """As ``Store.purge``."""
        return await self._ask(self._dialect.purge(checks.purge_limit(limit)))

    async def ping(self) -> int:
        """As ``Store.ping``."""
        return await self._ask(self._dialect.ping())

    async def migrate(self) -> None:
        """As ``Store.migrate``."""
        await self._ask(self._dialect.migrate(), timeout=MIGRATE_TIMEOUT)

    def on(self, connection: object) -> "AsyncStore":
        """As ``Store.on``."""
        join = self._join
        if join is None:
            raise UnsupportedMode(f"{self.name} has no transaction to join: call the store itself")
        store = AsyncStore(self._dialect, lambda: join(connection), timeout=self.timeout, name=self.name)
        store.joined = True
        return store

    def wrapped(self, wrap: Callable[[AsyncDriver[object, object]], AsyncDriver[object, object]]) -> "AsyncStore":
        """As ``Store.wrapped``. What coalesces stands around it: it sees what is on the wire."""
        connect = self._connect
        store = AsyncStore(
            self._dialect,
            lambda: wrap(connect()),
            timeout=self.timeout,
            name=self.name,
            join=self._join,
            coalesce=self._coalesce,
        )
        store._cache = self._empty_cache()
        return store

    async def close(self) -> None:
        """As ``Store.close``; on the store's own loop, or after that was closed: then nothing is left to be told."""
        self._cache = None
        if self._loop is not None and self._loop.is_closed():
            self._closed, self._driver = True, None
            return
        driver = self._live() if self._driver is not None else None
        self._closed, self._driver = True, None
        if driver is not None:
            await driver.close()

    async def __aenter__(self) -> Self:
        """The store itself; leaving the block closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()
