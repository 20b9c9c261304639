"""An ``AsyncStore`` behind the methods of ``Store``, so that a test is written once and runs in both modes.

Tests only: the store lives on an event loop in a thread of its own, and every call travels there and back. Each call is
a task of its own on that loop, so calls from several threads meet on the loop as concurrent tasks do.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from idemstore.async_store import AsyncStore
from idemstore.exchange import AsyncDriver, Limits
from idemstore.store import Store

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE: Final = 60.0
"""Seconds after which a test gives up on a call that should have ended long ago."""


class LoopThread:
    """An event loop in a thread; tasks that are left at ``close`` are cancelled."""

    def __init__(self) -> None:
        """Start the loop; returns once it runs."""
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idemstore-test-loop", daemon=True)
        self._thread.start()
        self._up.wait()

    def _run(self) -> None:
        """Run the loop until ``close``; the runner cancels what is left and closes the loop."""
        with asyncio.Runner() as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        """Keep the loop alive."""
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._up.set()
        await self._stop.wait()

    def submit(self, work: Coroutine[object, object, T]) -> "Future[T]":
        """Start a coroutine as a task."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine as a task and wait for its result."""
        future = self.submit(work)
        try:
            return future.result(PATIENCE)
        finally:
            future.cancel()

    def close(self) -> None:
        """Stop the loop and wait for the thread; may be called twice."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        """Use it in a ``with`` block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.close()


def _blocking(
    method: Callable[Concatenate[AsyncStore, P], Coroutine[object, object, T]],
) -> Callable[Concatenate["BlockingStore", P], T]:
    """The same method, waited for."""

    def call(store: "BlockingStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return store.thread.call(method(store.inner, *args, **kwargs))

    call.__name__, call.__doc__ = method.__name__, f"``AsyncStore.{method.__name__}``, waited for."
    return call


class BlockingStore:
    """The methods of ``Store``, carried out by an ``AsyncStore`` on the loop of ``thread``."""

    def __init__(self, inner: AsyncStore, thread: LoopThread) -> None:
        self.inner = inner
        self.thread = thread

    @property
    def limits(self) -> Limits:
        """As ``Store.limits``."""
        return self.inner.limits

    @property
    def name(self) -> str:
        """As ``Store.name``."""
        return self.inner.name

    @property
    def timeout(self) -> float:
        """As ``Store.timeout``."""
        return self.inner.timeout

    claim = _blocking(AsyncStore.claim)
    complete = _blocking(AsyncStore.complete)
    fail = _blocking(AsyncStore.fail)
    renew = _blocking(AsyncStore.renew)
    release = _blocking(AsyncStore.release)
    claim_many = _blocking(AsyncStore.claim_many)
    complete_many = _blocking(AsyncStore.complete_many)
    fail_many = _blocking(AsyncStore.fail_many)
    renew_many = _blocking(AsyncStore.renew_many)
    release_many = _blocking(AsyncStore.release_many)
    get = _blocking(AsyncStore.get)
    forget = _blocking(AsyncStore.forget)
    purge = _blocking(AsyncStore.purge)
    ping = _blocking(AsyncStore.ping)
    migrate = _blocking(AsyncStore.migrate)
    close = _blocking(AsyncStore.close)

    def outside_of_a_transaction(self) -> bool:
        """As ``Store.outside_of_a_transaction``."""

        async def ask() -> bool:
            return self.inner.outside_of_a_transaction()

        return self.thread.call(ask())

    def on(self, connection: object) -> "BlockingStore":
        """As ``AsyncStore.on``."""
        return BlockingStore(self.inner.on(connection), self.thread)

    def wrapped(self, wrap: Callable[[AsyncDriver[object, object]], AsyncDriver[object, object]]) -> "BlockingStore":
        """As ``AsyncStore.wrapped``."""
        return BlockingStore(self.inner.wrapped(wrap), self.thread)

    def __enter__(self) -> Self:
        """The store itself; leaving the block closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()


Client = Store | BlockingStore
"""What a contract test holds: the same methods in both modes."""
