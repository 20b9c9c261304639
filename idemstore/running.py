"""The running operation, as the function that a guard runs sees it.

It travels in a context variable: into every function that is called, into tasks and ``asyncio.to_thread``, not into
bare threads. A task that outlives its operation finds it ended.
"""

import contextvars
import time
from typing import Final, NamedTuple, TypeVar

from idemstore.envelope import Envelope
from idemstore.errors import ConfigurationError, LeaseLostError, OperationEnded
from idemstore.face import Face
from idemstore.insist import insist
from idemstore.keepalive import Beat
from idemstore.keys import KeyLike, redact
from idemstore.outcomes import Claimed, LeaseLost, SettleOutcome
from idemstore.policy import Verdict
from idemstore.store import Store


class Home(NamedTuple):
    """What an operation needs of its guard."""

    face: Face
    envelope: Envelope
    lease: float


class BaseOperation:
    """What both modes share. ``attempt`` is 1 for the first execution. Hand ``fence`` to whatever the function changes,
    so that it can refuse an older owner. ``token`` names the claim.
    """

    __slots__ = (
        "_checkpoint",
        "attempt",
        "beat",
        "fence",
        "home",
        "key",
        "live",
        "outer",
        "settled",
        "stored",
        "token",
    )

    def __init__(
        self,
        home: Home,
        key: KeyLike,
        stored: str,
        claimed: Claimed | None,
    ) -> None:
        """``claimed`` None: it runs unprotected."""
        self.home, self.key, self.stored = home, key, stored
        self.outer = current.get()
        self.live = False
        """While its function runs. One that an interruption leaves behind in a context must not count there."""
        self.settled: Verdict | None = None
        """What became of the key when the function failed, once that is recorded."""
        self.beat: Beat | None = None
        if claimed is None:
            self.token, self.fence, self.attempt, self._checkpoint = "", 0, 1, None
        else:
            self.token, self.fence, self.attempt = claimed.token, claimed.fence, claimed.attempt
            self._checkpoint = claimed.checkpoint
            self.beat = Beat(key, claimed.token, home.lease)

    @property
    def protected(self) -> bool:
        """False: the store was down and the policy is to proceed. Nothing is kept, checkpoints neither."""
        return self.beat is not None

    @property
    def resumed_from(self) -> bytes | None:
        """The checkpoint that an earlier attempt saved last, or None. One that cannot be opened raises
        ``UndecodableResult``: it is not taken for none.
        """
        found = self._checkpoint
        return None if found is None else self.home.envelope.open_checkpoint(found, self.stored)

    @property
    def lease_lost(self) -> bool:
        """Whether the heartbeat was told that somebody else owns the key, or could not renew the lease in time. A sync
        function that runs for long asks this, and stops.
        """
        return self.beat is not None and self.beat.lost

    def _holds(self) -> Beat | None:
        """The lease that a checkpoint goes with; None where the operation runs unprotected."""
        if not self.live:
            raise OperationEnded(f"the operation {redact(self.stored)} has ended: its function has returned or raised")
        return self.beat

    def _saved(self, beat: Beat, sent: float, answer: SettleOutcome) -> None:
        """What saving a checkpoint came to; it renewed the lease, too."""
        if isinstance(answer, LeaseLost):
            beat.taken()
            raise LeaseLostError(f"somebody else has taken over {redact(self.stored)}: stop, its new owner runs it")
        beat.renewed(sent)


class Operation(BaseOperation):
    """The running operation of a sync guard."""

    __slots__ = ("_store",)

    def __init__(self, home: Home, store: Store, key: KeyLike, stored: str, claimed: Claimed | None) -> None:
        super().__init__(home, key, stored, claimed)
        self._store = store

    def checkpoint(self, data: bytes) -> None:
        """Save ``data`` for whoever takes over after a crash or retries after a failure: it comes back as
        ``resumed_from``. The step it stands for has been done, so a store that does not answer is asked until the lease
        would be over. Raises ``LeaseLostError`` where somebody else has taken over: stop, your successor runs.
        """
        beat = self._holds()
        if beat is None:
            return
        store, key, token, lease = self._store, self.key, self.token, self.home.lease
        sealed, sent = self.home.envelope.checkpoint(data, self.stored), time.monotonic()
        self._saved(
            beat, sent, insist(lambda: store.renew(key, token, lease=lease, checkpoint=sealed), until=beat.until)
        )


current: Final["contextvars.ContextVar[BaseOperation | None]"] = contextvars.ContextVar(
    "idemstore_operation", default=None
)

Op = TypeVar("Op", bound=BaseOperation)


def find(kind: type[Op], name: str, guard: str) -> Op:
    """The operation of this context, if it is of this kind and has not ended."""
    found = current.get()
    if not isinstance(found, kind):
        raise ConfigurationError(f"{name}() is for functions that {guard} runs: none runs here")
    if not found.live:
        raise OperationEnded(f"the operation {redact(found.stored)} has ended: its function has returned or raised")
    return found


def around(stored: str, face: Face) -> list[Face]:
    """The stores, of the same name as this one, of running operations of a key that this call is a part of."""
    found, outer = list[Face](), current.get()
    while outer is not None:
        if outer.live and outer.stored == stored and outer.home.face.name == face.name:
            found.append(outer.home.face)
        outer = outer.outer
    return found


def operation() -> Operation:
    """The operation that runs in this context, inside a function called by a ``Guard``."""
    return find(Operation, "operation", "a Guard")
