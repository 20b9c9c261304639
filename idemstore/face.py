"""What ``Store`` and ``AsyncStore`` share: checking arguments, building exchanges, and starting over after a fork.

``Face`` turns arguments into exchanges; the stores only carry them to the driver and read the reply.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple, Self, TypeVar, cast

from idemstore import checks
from idemstore.cache import LocalCache
from idemstore.checks import Duration
from idemstore.errors import IdemstoreError, InvalidInput, StoreTimeout
from idemstore.exchange import Dialect, Exchange, Joined, Limits
from idemstore.keys import KeyLike, encode_key
from idemstore.machine import Claim, Complete, Fail, Release, Renew
from idemstore.outcomes import ClaimOutcome, SettleOutcome
from idemstore.url import Options

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

_claim: Final = partial(tuple.__new__, Claim)
_complete: Final = partial(tuple.__new__, Complete)
# Events from tuples of their fields, in half the time that calling their classes takes.

DAY: Final = 86400.0
LEASE: Final = 30.0
MAX_BATCH: Final = 500
_USUAL: Final = (LEASE, DAY, checks.duration("lease", LEASE), checks.retention(DAY))
MIGRATE_TIMEOUT: Final = 120.0

Ask = Exchange[object, object, T]

Asks = tuple[Sequence[KeyLike | None], Sequence[Ask[T] | IdemstoreError]]
"""A batch: the key of each item, as far as it has one, and what to ask about it, or why that cannot be asked."""


def _discreet(item: tuple[object, ...]) -> str:
    """An item of a batch for logs: keys, tokens and results may be secret."""
    return f"{type(item).__name__}(...)"


class Completion(NamedTuple):
    """One item of ``complete_many``."""

    key: KeyLike
    token: str
    result: bytes

    def __repr__(self) -> str:
        """Discreet."""
        return _discreet(self)


class Failure(NamedTuple):
    """One item of ``fail_many``; ``retry_after`` in seconds, None: final."""

    key: KeyLike
    token: str
    result: bytes
    retry_after: Duration | None = None

    def __repr__(self) -> str:
        """Discreet."""
        return _discreet(self)


class Renewal(NamedTuple):
    """One item of ``renew_many``; ``lease`` in seconds."""

    key: KeyLike
    token: str
    lease: Duration = LEASE
    checkpoint: bytes | None = None

    def __repr__(self) -> str:
        """Discreet."""
        return _discreet(self)


class Return(NamedTuple):
    """One item of ``release_many``."""

    key: KeyLike
    token: str

    def __repr__(self) -> str:
        """Discreet."""
        return _discreet(self)


N = TypeVar("N", Completion, Failure, Renewal, Return)


class Face:
    """What both modes share: a dialect, its limits, and how arguments become exchanges."""

    joined = False
    """Over a caller's own connection (``on``): only its owner may use it, and nobody else sees what is done there."""

    _cache: LocalCache | None = None
    """Finished records, where the URL asks for that (``local_cache``)."""

    def __init__(self, dialect: Dialect[Q, R], timeout: float, name: str) -> None:
        self._dialect = cast("Dialect[object, object]", dialect)
        self._limits: Limits = dialect.limits
        self._key_bytes = dialect.limits.key_bytes
        self._value_bytes = dialect.limits.value_bytes
        self.timeout = timeout
        self.name = name
        self._closed = False
        self._usual: tuple[Duration, Duration | None, int, int | None] = _USUAL
        """Lease and retention of the latest claim, and both in microseconds: most programs know only one of each."""
        _stores.add(self)

    def __repr__(self) -> str:
        """Class and URL, without secrets."""
        return f"{type(self).__name__}({self.name!r})"

    @property
    def limits(self) -> Limits:
        """How long keys, and how large results and checkpoints, may be (bytes)."""
        return self._limits

    def _forget_cached(self) -> None:
        """Begin with an empty cache: another thread may have been at work on this one when the process was forked."""
        self._cache = self._empty_cache()

    def _empty_cache(self) -> LocalCache | None:
        """A cache like this store's, where it has one."""
        return None if self._cache is None else LocalCache(self._cache.entries)

    def _configure(self, options: Options) -> Self:
        """Set what every URL may ask for, before the first use."""
        self._cache = LocalCache(options.local_cache) if options.local_cache else None
        return self

    def _live(self) -> object:
        """The driver."""
        raise NotImplementedError

    def outside_of_a_transaction(self) -> bool:
        """Whether each call over the caller's own connection is a transaction of its own; False where it cannot be
        told, and for a store with connections of its own.
        """
        driver = self._live() if self.joined else None
        return isinstance(driver, Joined) and not driver.in_transaction

    def after_fork(self) -> None:
        """In a child process: forget what belongs to the parent."""
        raise NotImplementedError

    def _cached(
        self,
        cache: LocalCache,
        key: str,
        lease: Duration,
        retention: Duration | None,
        fingerprint: bytes | None,
        token: str | None,
        wait: Duration,
    ) -> ClaimOutcome | None:
        """What the cache says to a claim. Its arguments are checked as ever, but for those that are as usual."""
        if lease is not LEASE:
            checks.duration("lease", lease)
        if retention is not DAY:
            checks.retention(retention)
        if fingerprint is not None:
            checks.fingerprint(fingerprint)
        if token is not None:
            checks.token(token)
        if wait != 0:
            checks.seconds_to_wait(wait)
        return cache.find(key, fingerprint)

    def _key(self, key: KeyLike) -> str:
        return encode_key(key, self._key_bytes)

    def _claim(
        self,
        key: str,
        lease: Duration,
        retention: Duration | None,
        fingerprint: bytes | None,
        token: str | None,
        takeover: bool,
    ) -> Ask[ClaimOutcome]:
        digest = None if fingerprint is None else checks.fingerprint(fingerprint)
        name = checks.new_token() if token is None else checks.token(token)
        usual = self._usual
        if lease is not usual[0] or retention is not usual[1]:
            self._usual = usual = (lease, retention, checks.duration("lease", lease), checks.retention(retention))
        return self._dialect.claim(key, _claim((digest, name, usual[2], usual[3], takeover)))

    def _complete(self, key: str, token: str, result: bytes, retention: Duration | None) -> Ask[SettleOutcome]:
        data, usual = checks.stored_bytes("result", result, self._value_bytes), self._usual
        kept = usual[3] if retention is usual[1] else checks.retention(retention)
        return self._dialect.complete(key, _complete((checks.token(token), data, kept)))

    def _fail(
        self, key: str, token: str, result: bytes, retention: Duration | None, retry_after: Duration | None
    ) -> Ask[SettleOutcome]:
        data = checks.stored_bytes("result", result, self._value_bytes)
        kept = checks.retention(retention)
        return self._dialect.fail(key, Fail(checks.token(token), data, kept, checks.back_off(retry_after, kept)))

    def _renew(self, key: str, token: str, lease: Duration, checkpoint: bytes | None) -> Ask[SettleOutcome]:
        if checkpoint is not None:
            checks.stored_bytes("checkpoint", checkpoint, self._value_bytes)
        return self._dialect.renew(key, Renew(checks.token(token), checks.duration("lease", lease), checkpoint))

    def _claim_one(
        self,
        key: KeyLike,
        lease: Duration,
        retention: Duration | None,
        fingerprint: bytes | None,
        token: str | None,
        takeover: bool,
    ) -> Ask[ClaimOutcome]:
        return self._claim(self._key(key), lease, retention, fingerprint, token, takeover)

    def _claims(
        self,
        keys: Sequence[KeyLike],
        fingerprints: Sequence[bytes | None] | None,
        tokens: Sequence[str | None] | None,
        lease: Duration,
        retention: Duration | None,
        takeover: bool,
    ) -> Asks[ClaimOutcome]:
        given = _listed("claim_many", keys)
        digests = each("fingerprints", fingerprints, len(given))
        names = each("tokens", tokens, len(given))
        return given, [
            _item(partial(self._claim_one, key, lease, retention, digest, token, takeover))
            for key, digest, token in zip(given, digests, names, strict=True)
        ]

    def _completions(
        self, items: Iterable[Completion | tuple[KeyLike, str, bytes]], retention: Duration | None
    ) -> Asks[SettleOutcome]:
        def one(item: Completion) -> Ask[SettleOutcome]:
            return self._complete(self._key(item.key), item.token, item.result, retention)

        return _asks(Completion, _listed("complete_many", items), one)

    def _failures(self, items: Iterable[Failure], retention: Duration | None) -> Asks[SettleOutcome]:
        def one(item: Failure) -> Ask[SettleOutcome]:
            return self._fail(self._key(item.key), item.token, item.result, retention, item.retry_after)

        return _asks(Failure, _listed("fail_many", items), one)

    def _renewals(self, items: Iterable[Renewal]) -> Asks[SettleOutcome]:
        def one(item: Renewal) -> Ask[SettleOutcome]:
            return self._renew(self._key(item.key), item.token, item.lease, item.checkpoint)

        return _asks(Renewal, _listed("renew_many", items), one)

    def _release(self, key: str, token: str) -> Ask[SettleOutcome]:
        return self._dialect.release(key, Release(checks.token(token)))

    def _releases(self, items: Iterable[tuple[KeyLike, str]]) -> Asks[SettleOutcome]:
        def one(item: Return) -> Ask[SettleOutcome]:
            return self._release(self._key(item.key), item.token)

        return _asks(Return, _listed("release_many", items), one)

    def _left(self, deadline: float) -> float:
        """Seconds left of a call that takes more than one round trip."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoreTimeout(f"{self.name} did not finish within {self.timeout:g} s: repeating the call is safe")
        return left


def each(name: str, values: Sequence[T | None] | None, count: int) -> Sequence[T | None]:
    """One value for each key of a batch; None where none are given."""
    if values is None:
        return [None] * count
    if len(values) != count:
        raise InvalidInput(f"{count} keys came with {len(values)} {name}: give one for each key, or None")
    return values


def _listed(name: str, items: Iterable[T]) -> list[T]:
    """The items of a batch. A str is iterable, and means one key where many are due."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InvalidInput(f"{name} takes a list of items, not a {type(items).__name__}")
    return list(items)


def _asks(
    kind: type[N], items: Sequence[N | tuple[object, ...]], one: Callable[[N], Ask[SettleOutcome]]
) -> Asks[SettleOutcome]:
    """What to ask about each item, which may come as a plain tuple."""
    keys: list[KeyLike | None] = []
    asks: list[Ask[SettleOutcome] | IdemstoreError] = []
    for item in items:
        known = _known(kind, item)
        keys.append(None if isinstance(known, IdemstoreError) else known.key)
        asks.append(known if isinstance(known, IdemstoreError) else _item(partial(one, known)))
    return keys, asks


def _known(kind: type[N], item: N | tuple[object, ...]) -> N | InvalidInput:
    """An item by its names; what is none stays with its place."""
    try:
        if isinstance(item, tuple):
            return item if isinstance(item, kind) else cast("Callable[..., N]", kind)(*item)
    except TypeError:
        pass
    return InvalidInput(f"an item of a batch is no {kind.__name__}: give ({', '.join(kind._fields)})")


def _item(build: Callable[[], Ask[T]]) -> Ask[T] | IdemstoreError:
    """One item of a batch; bad input stays with its item."""
    try:
        return build()
    except IdemstoreError as error:
        return error


_stores: "weakref.WeakSet[Face]" = weakref.WeakSet()
parents: list[object] = []
"""In a child process: drivers of the parent, kept so that no finalizer closes the parent's connections."""


def _after_fork() -> None:
    """In a child process: every store starts over."""
    for store in list(_stores):
        store.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
