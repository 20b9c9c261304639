"""One interface over ``Guard`` and ``AsyncGuard``, so that what both promise is tested by one text.

In async mode the guard lives on an event loop in a thread; the functions that it runs are plain functions that run in
helper threads, so that tests can stop them with ordinary events.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import idemstore
from idemstore import AsyncBatch, AsyncGuard, Batch, Guard, Policy, async_operation, operation
from idemstore.codec import Codec
from idemstore.keys import KeyLike, encode_key
from idemstore.testing.blocking import PATIENCE, BlockingStore, Client, LoopThread
from idemstore.testing.contract_lab import Later
from idemstore.testing.families.memory import MemorySubject
from idemstore.testing.faults import Faults, inject

Mode = Literal["sync", "async"]

_count = iter(range(10**9))


class Desk:
    """A subject, a store over it, a second one whose driver follows orders, and guards on that."""

    def __init__(self, mode: Mode, url: str | None = None) -> None:
        self.mode = mode
        self.subject = MemorySubject(url or f"memory://guard-{next(_count)}")
        self.thread = LoopThread() if mode == "async" else None
        self._workers: ThreadPoolExecutor | None = None
        self.plain = self.open()
        self.faults = Faults()
        self.store = inject(self.plain, self.faults)

    def open(self) -> Client:
        """One more store on the same records."""
        if self.thread is None:
            return idemstore.open(self.subject.url)
        return BlockingStore(idemstore.open_async(self.subject.url), self.thread)

    def guard(self, policy: Policy | None = None, codec: Codec[Any] | None = None, **fields: Any) -> Any:
        """A guard over the store that follows orders. ``fields``: of its policy."""
        return self.guard_on(self.store, policy, codec, **fields)

    def guard_on(
        self, store: Client, policy: Policy | None = None, codec: Codec[Any] | None = None, **fields: Any
    ) -> Any:
        """A guard over a given store."""
        policy = policy or Policy(**fields)
        if isinstance(store, BlockingStore):
            return BlockingGuard(AsyncGuard(store.inner, policy, codec), store.thread)
        return Guard(store, policy, codec)

    def batch(self, guard: Any, **options: Any) -> Any:
        """A batch over a guard."""
        if isinstance(guard, BlockingGuard):
            return BlockingBatch(AsyncBatch(guard.inner, **options), guard.thread)
        return Batch(guard, **options)

    def operation(self) -> Any:
        """The running operation, in either mode."""
        if self.thread is None:
            return operation()
        return BlockingOperation(async_operation(), self.thread)

    def background(self, call: Callable[[], Any]) -> "Later[Any]":
        """Start a call in another thread."""
        if self._workers is None:
            self._workers = ThreadPoolExecutor(16, thread_name_prefix="idemstore-test")
        return Later(self._workers.submit(call))

    def age(self, key: KeyLike, seconds: float) -> None:
        """Let ``seconds`` pass for one record."""
        self.subject.age(encode_key(key, 65536), seconds)

    def record(self, key: KeyLike) -> Any:
        """What is stored, or None."""
        snapshot = self.plain.get(key)
        return None if snapshot is None else snapshot.record

    def close(self) -> None:
        """End what has been started."""
        self.faults.release()
        if self._workers is not None:
            self._workers.shutdown()
        self.store.close()
        self.plain.close()
        if self.thread is not None:
            self.thread.close()
        self.subject.close()

    def __enter__(self) -> "Desk":
        """The desk itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def until(condition: Callable[[], object], patience: float = 20.0) -> None:
    """Wait for what another thread is about to bring about."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def hurry(guard: Any) -> None:
    """Let the heartbeat of a guard find every lease due, now."""
    for entry in guard.heartbeat._beats._beats.copy():
        beat = entry()
        if beat is not None:
            beat.due = 0.0
    wake(guard)


def wake(guard: Any) -> None:
    """Let the heartbeat of a guard look at its leases now."""
    heartbeat = guard.heartbeat
    if isinstance(guard, BlockingGuard):
        guard.thread.call(ring(heartbeat))
    else:
        heartbeat._woken.set()


async def ring(heartbeat: Any) -> None:
    """Wake the heartbeat's task, on its loop."""
    heartbeat._woken.set()


class BlockingGuard:
    """An ``AsyncGuard`` with the methods of ``Guard``."""

    def __init__(self, inner: AsyncGuard, thread: LoopThread) -> None:
        self.inner, self.thread = inner, thread

    def call(self, key: KeyLike, fn: Callable[[], Any], *, fingerprint: bytes | None = None) -> Any:
        """Run ``fn`` in a helper thread, under the guard."""
        return self.thread.call(self.inner.call(key, partial(asyncio.to_thread, fn), fingerprint=fingerprint))

    def idempotent(self, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate a plain function as if it were async."""

        def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
            import functools

            @functools.wraps(fn)
            async def run(*args: Any, **kwargs: Any) -> Any:
                return await asyncio.to_thread(fn, *args, **kwargs)

            guarded = self.inner.idempotent(**options)(run)
            return lambda *args, **kwargs: self.thread.call(guarded(*args, **kwargs))

        return decorate

    def __getattr__(self, name: str) -> Any:
        """Whatever else the guard has."""
        return getattr(self.inner, name)


class BlockingBatch:
    """An ``AsyncBatch`` with the methods of ``Batch``."""

    def __init__(self, inner: AsyncBatch, thread: LoopThread) -> None:
        self.inner, self.thread = inner, thread

    def map(self, keys: Sequence[KeyLike], fn: Callable[[KeyLike], Any], **options: Any) -> Any:
        """Run ``fn`` in helper threads."""
        return self.thread.call(self.inner.map(keys, partial(asyncio.to_thread, fn), **options))


class BlockingOperation:
    """An ``AsyncOperation`` with the methods of ``Operation``."""

    def __init__(self, inner: Any, thread: LoopThread) -> None:
        self.inner, self.thread = inner, thread

    def checkpoint(self, data: bytes) -> None:
        """Save a checkpoint."""
        self.thread.call(self.inner.checkpoint(data))

    def __getattr__(self, name: str) -> Any:
        """Whatever else the operation has."""
        return getattr(self.inner, name)


class Calls:
    """A function that counts its runs, and returns or raises what it is told to."""

    def __init__(self, *results: Any) -> None:
        self.count = 0
        self._results = list(results)

    def __call__(self, *_: Any) -> Any:
        """Run; the last result is repeated."""
        self.count += 1
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, BaseException):
            raise result
        return result


class Held:
    """A function that says that it runs, and goes on when it is told to."""

    def __init__(self, result: Any = "done") -> None:
        self.running, self.go = threading.Event(), threading.Event()
        self.count = 0
        self._result = result

    def __call__(self, *_: Any) -> Any:
        """Run and wait."""
        self.count += 1
        self.running.set()
        assert self.go.wait(PATIENCE)
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result
