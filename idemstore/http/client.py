"""The client's side: one key per logical operation, made outside the retry loop and persisted with the job.

A key that is made inside a retry loop protects nothing, and one that is kept in memory is lost in the crash that it is
for. Three ways to have the same key again after one:

- ``derived_key("shop", job_id, "charge")``: computed from the job. Nothing to store; needs an id that is the job's own.
- ``job_key(job, "charge", save)``: made once and saved with the job, before it is used.
- ``StoredKeys(store).key(job_id, "charge")``: made once for all workers and kept in a store of idemstore.

``idemstore.http.httpx`` and ``idemstore.http.requests`` put it on requests: ``with sending(key): client.post(...)``.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from idemstore.async_store import AsyncStore
from idemstore.checks import Duration
from idemstore.errors import ConfigurationError, InvalidInput, OperationInFlight, UndecodableResult
from idemstore.outcomes import Claimed, ClaimOutcome, Completed, InFlight, LeaseLost, SettleOutcome
from idemstore.store import Store

DAY: Final = 86400.0
_current: ContextVar[str | None] = ContextVar("idemstore_client_key", default=None)


def new_key() -> str:
    """A key that nobody had before: a random UUID."""
    return str(uuid.uuid4())


def derived_key(*parts: str) -> str:
    """The key of a job, in the form of a UUID: the same parts always give the same. Begin with the name of your
    service, end with the step where a job sends more than one request.
    """
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise InvalidInput("derived_key() takes at least one str, none of them empty")
    front = b"".join(b"%d:%s" % (len(part.encode()), part.encode()) for part in parts)
    return str(uuid.UUID(bytes=hashlib.sha256(b"idemstore client 1\n" + front).digest()[:16], version=5))


def job_key(job: MutableMapping[str, str], step: str, save: Callable[[], object]) -> str:
    """The key of a job's step, as the job has it under ``step``; made and saved the first time. ``save`` persists the
    job, and has to be done when it returns.
    """
    found = job.get(step)
    if found:
        return found
    key = job[step] = new_key()
    save()
    return key


# -- kept in a store -------------------------------------------------------------------------------------------------


class _Keys:
    """What both kinds share."""

    def __init__(self, namespace: str, retention: Duration | None) -> None:
        self.namespace, self.retention = namespace, retention

    def _stored(self, job: tuple[str, ...]) -> tuple[str, ...]:
        """The store's key."""
        if not job:
            raise InvalidInput("key() takes the id of the job, and the step where it sends more than one request")
        return (self.namespace, *job)

    @staticmethod
    def _known(outcome: ClaimOutcome) -> str | None:
        """The key, where there is one; None: it is to be made."""
        match outcome:
            case Claimed():
                return None
            case Completed(result):
                return result.decode("ascii")
            case InFlight():
                raise OperationInFlight("another worker makes the key of this job and does not come to its end")
            case _:
                raise UndecodableResult("what is stored under this job was stored by something else")

    @staticmethod
    def _kept(answer: SettleOutcome) -> bool:
        """Whether the key that was made is the job's."""
        return not isinstance(answer, LeaseLost)


class StoredKeys(_Keys):
    """Keys of jobs in a store: whoever asks first makes it, everybody gets the same."""

    def __init__(self, store: Store, *, namespace: str = "client", retention: Duration | None = 30 * DAY) -> None:
        super().__init__(namespace, retention)
        self.store = store

    def key(self, *job: str) -> str:
        """The key of a job. It is stored before it is returned."""
        stored = self._stored(job)
        while True:
            outcome = self.store.claim(stored, lease=5, retention=self.retention, wait=10)
            known = self._known(outcome)
            if known is not None:
                return known
            made, token = new_key(), outcome.token if isinstance(outcome, Claimed) else ""
            if self._kept(self.store.complete(stored, token, made.encode(), retention=self.retention)):
                return made


class AsyncStoredKeys(_Keys):
    """As ``StoredKeys``, on an ``AsyncStore``."""

    def __init__(self, store: AsyncStore, *, namespace: str = "client", retention: Duration | None = 30 * DAY) -> None:
        super().__init__(namespace, retention)
        self.store = store

    async def key(self, *job: str) -> str:
        """The key of a job. It is stored before it is returned."""
        stored = self._stored(job)
        while True:
            outcome = await self.store.claim(stored, lease=5, retention=self.retention, wait=10)
            known = self._known(outcome)
            if known is not None:
                return known
            made, token = new_key(), outcome.token if isinstance(outcome, Claimed) else ""
            if self._kept(await self.store.complete(stored, token, made.encode(), retention=self.retention)):
                return made


# -- on requests -----------------------------------------------------------------------------------------------------


@contextmanager
def sending(key: str) -> Iterator[str]:
    """Requests sent inside have this key: one request and its retries. Put the retry loop inside."""
    outer = _current.set(key)
    try:
        yield key
    finally:
        _current.reset(outer)


def current_key() -> str | None:
    """The key of the innermost ``sending``."""
    return _current.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHeader:
    """How an API wants its keys."""

    name: str = "Idempotency-Key"
    quoted: bool = False
    """Send a structured-field string, in double quotes, as the IETF draft has it."""
    methods: frozenset[str] = frozenset({"POST", "PATCH"})
    required: bool = False
    """Refuse to send a request of these methods without a key."""

    def put(self, headers: MutableMapping[str, str], method: str, key: str | None) -> None:
        """Put a key on a request that has none; ``ConfigurationError`` where there must be one."""
        if self.name in headers or (method or "").upper() not in self.methods:
            return
        if key is not None:
            headers[self.name] = self.text(key)
        elif self.required:
            raise ConfigurationError(f"a {method} without a key: send it inside 'with sending(key)'")

    def text(self, key: str) -> str:
        """The value of the header."""
        if not (key and key.isascii() and key.isprintable() and key == key.strip()):
            raise InvalidInput("an idempotency key is printable ASCII, without blanks around it")
        return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"' if self.quoted else key
