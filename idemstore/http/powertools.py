"""AWS Lambda: a persistence layer for Powertools' ``@idempotent``, so that its users get every family of idemstore.

::

    layer = IdemstorePersistenceLayer(idemstore.open("postgresql://..."))

    @idempotent(persistence_store=layer, config=IdempotencyConfig(event_key_jmespath="order_id"))
    def handler(event, context): ...

What it keeps, beside what Powertools' own layers do: an execution whose place was taken (it ran longer than Lambda lets
it, or was frozen) cannot overwrite or delete what its successor stored; ``save_success`` raises instead. The lease of
an execution is the time that Lambda leaves it; without a Lambda context it is ``lease``.
"""

import json
import math
import threading
import time
from typing import Final, assert_never

from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyItemAlreadyExistsError,
    IdempotencyItemNotFoundError,
    IdempotencyValidationError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import STATUS_CONSTANTS, DataRecord

from idemstore.checks import Duration
from idemstore.errors import ConfigurationError, LeaseLostError, UndecodableResult
from idemstore.exchange import Snapshot
from idemstore.keys import redact
from idemstore.machine import MICROSECONDS, State
from idemstore.outcomes import Abandoned, Claimed, Completed, Failed, InFlight, LeaseLost, Mismatch
from idemstore.store import Store

IN_PROGRESS: Final = STATUS_CONSTANTS["INPROGRESS"]
NOBODY: Final = "0" * 32
"""A token of no claim."""
COMPLETED: Final = STATUS_CONSTANTS["COMPLETED"]


class IdemstorePersistenceLayer(BasePersistenceLayer):
    """On a sync store, which stays yours to close. ``namespace`` keeps its keys apart from what else is stored."""

    def __init__(self, store: Store, *, namespace: str = "powertools", lease: Duration = 900) -> None:
        if not isinstance(store, Store):
            raise ConfigurationError("IdemstorePersistenceLayer takes a Store: use idemstore.open(url)")
        super().__init__()  # type: ignore[no-untyped-call]
        self.store, self.namespace, self.lease = store, namespace, lease
        self._claims = threading.local()

    # -- what Powertools asks for ------------------------------------------------------------------------------------

    def _put_record(self, data_record: DataRecord) -> None:
        """Claim; ``IdempotencyItemAlreadyExistsError`` with what is there where that cannot be."""
        key = data_record.idempotency_key
        outcome = self.store.claim(
            self._key(key),
            lease=self._lease(data_record),
            retention=self.expires_after_seconds,
            fingerprint=bytes.fromhex(data_record.payload_hash) or None,
        )
        match outcome:
            case Claimed(token):
                self._tokens[key] = token
            case Completed(result):
                raise IdempotencyItemAlreadyExistsError(old_data_record=_completed(key, result))
            case InFlight(retry_after):
                raise IdempotencyItemAlreadyExistsError(old_data_record=self._running(key, retry_after))
            case Mismatch():
                raise IdempotencyValidationError("Payload does not match stored record for this event key")
            case Failed() | Abandoned():
                raise UndecodableResult(f"what is stored under {redact(key)} was stored by something else")
            case _:
                assert_never(outcome)

    def _update_record(self, data_record: DataRecord) -> None:
        """Complete."""
        key = data_record.idempotency_key
        result = json.dumps([data_record.response_data, data_record.payload_hash]).encode()
        token = self._tokens.pop(key, "") or self._adopted(key)
        answer = self.store.complete(self._key(key), token, result, retention=self.expires_after_seconds)
        if isinstance(answer, LeaseLost):
            raise LeaseLostError(
                f"{redact(key)} was taken over while it ran: it may have run twice, and this result is not stored"
            )

    def _delete_record(self, data_record: DataRecord) -> None:
        """Release, so that the next invocation runs; where another one has taken over there is nothing to release."""
        key = data_record.idempotency_key
        self.store.release(self._key(key), self._tokens.pop(key, "") or self._adopted(key))

    def _get_record(self, idempotency_key: str) -> DataRecord:
        """What is stored."""
        found = self.store.get(self._key(idempotency_key))
        if found is None or (found.state is State.IN_FLIGHT and (found.lease_left or 0) <= 0):
            raise IdempotencyItemNotFoundError
        return self._data_record(idempotency_key, found)

    # -- how it is kept ----------------------------------------------------------------------------------------------

    @property
    def _tokens(self) -> dict[str, str]:
        """The claims of this thread: Powertools puts, runs and updates in one."""
        tokens: dict[str, str] | None = getattr(self._claims, "tokens", None)
        if tokens is None:
            tokens = self._claims.tokens = {}
        return tokens

    def _adopted(self, key: str) -> str:
        """The token of an execution that another process began: a durable function that Powertools goes on with
        (``is_replay``). Nobody comes here who claimed by himself, so nobody's claim is taken.
        """
        found = self.store.get(self._key(key))
        return found.record.token if found is not None else NOBODY

    def _key(self, key: str) -> tuple[str, str]:
        """The store's key."""
        return (self.namespace, key)

    def _lease(self, data_record: DataRecord) -> Duration:
        """The time that Lambda leaves this invocation."""
        until = data_record.in_progress_expiry_timestamp
        return self.lease if until is None else max(0.001, until / 1000 - time.time())

    def _running(self, key: str, seconds: float) -> DataRecord:
        """An execution that is in progress for that long; Powertools compares it with its own clock."""
        until = math.ceil((time.time() + seconds) * 1000) + 1000
        return DataRecord(key, IN_PROGRESS, in_progress_expiry_timestamp=until)

    def _data_record(self, key: str, found: Snapshot) -> DataRecord:
        """A snapshot as Powertools has it."""
        if found.state is State.COMPLETED and found.record.result is not None:
            return _completed(key, found.record.result, found.record.expires_at)
        if found.state is State.IN_FLIGHT:
            running = self._running(key, found.lease_left or 0)
            running.payload_hash = (found.record.fingerprint or b"").hex()
            return running
        raise UndecodableResult(f"what is stored under {redact(key)} was stored by something else")


def _completed(key: str, result: bytes, expires_at: int | None = None) -> DataRecord:
    """A completed execution."""
    try:
        response, digest = json.loads(result)
    except (ValueError, TypeError) as error:
        raise UndecodableResult(f"what is stored under {redact(key)} was stored by something else") from error
    until = None if expires_at is None else math.ceil(expires_at / MICROSECONDS)
    return DataRecord(key, COMPLETED, expiry_timestamp=until, response_data=response, payload_hash=digest)
