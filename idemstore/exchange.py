"""The seam between what is said and how it is sent: exchanges, dialects, drivers.

A **dialect** (one per family, pure) turns an operation into an ``Exchange``: a request, and how to read the reply.
A **driver** (one per client and mode) carries requests to the server and decides nothing. So every rule is written once
for sync and async, and can be tested without a server.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, Generic, NamedTuple, Protocol, TypeVar, Union, runtime_checkable

from idemstore.errors import IdemstoreError
from idemstore.machine import MICROSECONDS, Claim, Complete, Fail, Record, Release, Renew, State
from idemstore.outcomes import ClaimOutcome, SettleOutcome

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")
Q_co = TypeVar("Q_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)
Q_contra = TypeVar("Q_contra", contravariant=True)
R_contra = TypeVar("R_contra", contravariant=True)


class Exchange(NamedTuple, Generic[Q, R, T]):
    """One round trip as a value. ``parse`` reads the reply, or names the exchange that must follow (a script that the
    server has forgotten, a lost race between two upserts, a result stored in pieces). It raises ``CorruptRecord`` for
    what it cannot read.
    """

    request: Q
    parse: Callable[[R], Union[T, "Exchange[Q, R, T]"]]


make_exchange: Final = partial(tuple.__new__, Exchange)
"""``make_exchange((request, parse))``: the same in a fifth of the time, for what every call has to make."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a family can take. Sizes in bytes: of the stored key as UTF-8, of a result or checkpoint as it is."""

    key_bytes: int
    value_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``get`` found: the record, and the server's clock when it was read (microseconds since the epoch)."""

    record: Record
    now: int

    @property
    def state(self) -> State:
        """In-flight, completed or failed."""
        return self.record.state

    @property
    def lease_left(self) -> float | None:
        """Seconds until the lease ends (negative: it is over); None once finished."""
        return self._until(self.record.lease_until)

    @property
    def expires_in(self) -> float | None:
        """Seconds until the record counts as absent; None: never."""
        return self._until(self.record.expires_at)

    @property
    def retry_in(self) -> float | None:
        """Seconds until a failure may be retried (negative: it may); None where it may not."""
        return self._until(self.record.retry_at)

    def _until(self, moment: int | None) -> float | None:
        """Seconds from the server's now to ``moment``."""
        return None if moment is None else (moment - self.now) / MICROSECONDS


class Dialect(Protocol[Q, R]):
    """How a family says each operation. Pure: no I/O, no clock, no client library. Keys come encoded and checked."""

    @property
    def limits(self) -> Limits:
        """What the family can take; the store checks it before anything is sent."""
        ...

    def claim(self, key: str, event: Claim) -> Exchange[Q, R, ClaimOutcome]:
        """``machine.step`` for a claim, atomically, by the server's clock."""
        ...

    def complete(self, key: str, event: Complete) -> Exchange[Q, R, SettleOutcome]:
        """``machine.step`` for a completion."""
        ...

    def fail(self, key: str, event: Fail) -> Exchange[Q, R, SettleOutcome]:
        """``machine.step`` for a failure."""
        ...

    def renew(self, key: str, event: Renew) -> Exchange[Q, R, SettleOutcome]:
        """``machine.step`` for a renewal."""
        ...

    def release(self, key: str, event: Release) -> Exchange[Q, R, SettleOutcome]:
        """``machine.step`` for a release."""
        ...

    def get(self, key: str) -> Exchange[Q, R, Snapshot | None]:
        """Read a record; None where it is absent or its retention is over."""
        ...

    def forget(self, key: str) -> Exchange[Q, R, bool]:
        """Delete a record whatever its state; True where there was one (expired or not)."""
        ...

    def purge(self, limit: int) -> Exchange[Q, R, int]:
        """Delete at most ``limit`` records whose retention is over, never a live one; how many went."""
        ...

    def ping(self) -> Exchange[Q, R, int]:
        """The server's clock, microseconds since the epoch: proof that it answers and that calls would be allowed."""
        ...

    def migrate(self) -> Exchange[Q, R, None]:
        """Create or update what the family needs on its server; may be repeated. Families without a schema: a ping."""
        ...


@runtime_checkable
class Joined(Protocol):
    """A driver over a caller's own connection or session (``Store.on``)."""

    @property
    def in_transaction(self) -> bool:
        """Whether what it does next is a part of a transaction of the caller's."""
        ...


class Watch(Protocol):
    """One waiter's interest in one key, armed before the waiter asks, so that no change falls between."""

    def wait(self, poll: float, limit: float) -> None:
        """Return when the key changed since the last ``wait`` (or since it was armed); after ``poll`` seconds where
        the driver cannot know; after ``limit`` seconds at the latest. Returning early is always allowed.
        """
        ...

    def close(self) -> None:
        """End the interest."""
        ...


class AsyncWatch(Protocol):
    """``Watch`` for async drivers."""

    async def wait(self, poll: float, limit: float) -> None:
        """As ``Watch.wait``."""
        ...

    def close(self) -> None:
        """As ``Watch.close``."""
        ...


class Driver(Protocol[Q_contra, R_co]):
    """One client library in sync mode, safe for many threads. Translates the client's errors into ours, in one place.

    ``timeout`` (seconds) covers the whole call: waiting for a connection, connecting, every re-send, the reply.
    """

    def execute(self, request: Q_contra, timeout: float) -> R_co:
        """Carry one request and bring its reply; a failed condition is a reply, not an error."""
        ...

    def execute_many(self, requests: Sequence[Q_contra], timeout: float) -> Sequence[R_co | IdemstoreError]:
        """Carry many, in one round trip where the server can; one reply or error per request, in order."""
        ...

    def watch(self, key: str) -> Watch:
        """Arm a watch on a key."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class AsyncDriver(Protocol[Q_contra, R_co]):
    """One client library in async mode, bound to the event loop it was made on."""

    def execute(self, request: Q_contra, timeout: float) -> Coroutine[object, object, R_co]:
        """As ``Driver.execute``: a coroutine function, or what hands on the coroutine of one."""
        ...

    async def execute_many(self, requests: Sequence[Q_contra], timeout: float) -> Sequence[R_co | IdemstoreError]:
        """As ``Driver.execute_many``."""
        ...

    def watch(self, key: str) -> AsyncWatch:
        """As ``Driver.watch``."""
        ...

    async def close(self) -> None:
        """As ``Driver.close``."""
        ...


class Alone(Enum):
    """In place of a reply: nothing of this call was applied, since it would make its neighbours wait. Send it alone."""

    ALONE = "alone"


ALONE: Final = Alone.ALONE


@runtime_checkable
class Together(Protocol[Q_contra, R_co]):
    """What an async driver may offer beside ``execute_many``: batches of calls that are strangers to each other."""

    async def execute_together(
        self, requests: Sequence[Q_contra], timeout: float
    ) -> Sequence[R_co | IdemstoreError | Alone]:
        """As ``execute_many``, but a call that has to wait for somebody's lock does not make its neighbours wait."""
        ...
