"""The ``Lab``: what every contract test gets. A store in one mode over a subject, and what can be done to both."""

import itertools
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Generic, Literal, Self, TypeVar, get_args

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.errors import IdemstoreError
from idemstore.keys import KeyLike, encode_key
from idemstore.outcomes import Abandoned, Claimed, Completed, Done, Failed, InFlight, SettleOutcome
from idemstore.store import Store
from idemstore.testing.blocking import PATIENCE, BlockingStore, Client, LoopThread
from idemstore.testing.faults import Faults, Stop, inject
from idemstore.testing.subject import Subject

T = TypeVar("T")
X = TypeVar("X", bound=IdemstoreError)
C = TypeVar("C", Claimed, InFlight, Completed, Failed, Abandoned)

Mode = Literal["sync", "async"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

SLACK: Final = 5.0
"""Seconds by which a time may differ from what a test expects: slow machines, coarse and corrected clocks."""


class Lab:
    """One test's stores in one mode, and their subject. ``patience``: how long waiters of this lab wait (seconds)."""

    def __init__(self, subject: Subject, mode: Mode, patience: float = 10.0) -> None:
        self.subject = subject
        self.mode: Mode = mode
        self.patience = patience
        self._thread = LoopThread() if mode == "async" else None
        self._workers: ThreadPoolExecutor | None = None
        self._stores: list[Client] = []
        self._faults: list[Faults] = []
        self._prefix = uuid.uuid4().hex[:12]
        self._count = itertools.count(1)
        self.store = self.open()

    def open(self, url: str | None = None) -> Client:
        """One more store on the same records (or on another URL)."""
        url = self.subject.url if url is None else url
        if self._thread is None:
            return self._keep(self.connect(url))
        return self._keep(BlockingStore(self.connect_async(url), self._thread))

    def connect(self, url: str) -> Store:
        """A sync store; a lab of another kind of stores overrides these two."""
        return idemstore.open(url)

    def connect_async(self, url: str) -> AsyncStore:
        """An async store."""
        return idemstore.open_async(url)

    def faulty(self) -> tuple[Client, Faults]:
        """One more store on the same records, and the orders that its driver follows."""
        faults = Faults()
        self._faults.append(faults)
        return self._keep(inject(self.store, faults)), faults

    def _keep(self, store: Client) -> Client:
        """Close it at the end."""
        self._stores.append(store)
        return store

    def key(self, label: str = "key") -> str:
        """A key that nobody has used."""
        return f"{label}-{self._prefix}-{next(self._count)}"

    def age(self, key: KeyLike, seconds: float) -> None:
        """Let ``seconds`` pass for one record."""
        self.subject.age(self._stored(key), seconds)

    def damage(self, key: KeyLike) -> None:
        """Put something undecodable under the key."""
        self.subject.damage(self._stored(key))

    def exists(self, key: KeyLike) -> bool:
        """Whether anything is physically there."""
        return self.subject.exists(self._stored(key))

    def _stored(self, key: KeyLike) -> str:
        """The key as it is stored."""
        return encode_key(key, self.store.limits.key_bytes)

    def background(self, call: Callable[[], T]) -> "Later[T]":
        """Start a call in another thread (async: as another task)."""
        if self._workers is None:
            self._workers = ThreadPoolExecutor(64, thread_name_prefix="idemstore-test")
        return Later(self._workers.submit(call))

    def prompt(self, since: float) -> bool:
        """Whether what began at ``since`` (``time.monotonic()``) has ended well before a waiter's patience would."""
        return time.monotonic() - since < 0.6 * self.patience

    def close(self) -> None:
        """End everything that the test has started, and close its stores."""
        for faults in self._faults:
            faults.release()
        if self._workers is not None:
            self._workers.shutdown()
        for store in self._stores:
            store.close()
        if self._thread is not None:
            self._thread.close()

    def __enter__(self) -> Self:
        """The lab itself; leaving the block closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()


class Later(Generic[T]):
    """A call under way."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def result(self) -> T:
        """Wait for its end: what it answered, or raised."""
        return self._future.result(PATIENCE)

    def running(self) -> bool:
        """Whether it is still under way."""
        return not self._future.done()

    def comes_to(self, stop: Stop) -> bool:
        """Wait until the call stands at ``stop``, or ends without having come there: then False."""
        self._future.add_done_callback(lambda _: stop.missed())
        return stop.reached()


def raises(kind: type[X], call: Callable[[], object], what: object = "the call") -> X:
    """The error that the call must raise."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"{what!r} was answered {answer!r}, not refused by {kind.__name__}")


def claimed(outcome: object) -> Claimed:
    """The outcome, which must be a claim."""
    return expect(Claimed, outcome)


def expect(kind: type[C], outcome: object) -> C:
    """The outcome, which must be of this kind."""
    assert isinstance(outcome, kind), f"expected {kind.__name__}, got {outcome!r}"
    return outcome


def done(outcome: SettleOutcome | object) -> None:
    """The outcome must be ``Done``."""
    assert outcome == Done(), f"expected Done, got {outcome!r}"


def near(seconds: float | None, expected: float) -> bool:
    """Whether a time is what it should be, but for slack."""
    return seconds is not None and abs(seconds - expected) <= SLACK
