"""Every error of idemstore: one base class, and messages that say what happened and what to do next.

An error carries ``retryable`` (the same call may succeed later, unchanged; every operation may be repeated safely) and
``status`` (a hint for HTTP adapters). Keys appear in messages only as ``idemstore.keys.redact`` shows them; passwords
and results never do.
"""

from typing import ClassVar


class IdemstoreError(Exception):
    """Base of everything that idemstore raises on purpose."""

    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500

    key: str | None = None
    """The key that the failed call was about, redacted, or None."""

    def __str__(self) -> str:
        """The message, and the redacted key where there is one."""
        text = super().__str__()
        return text if self.key is None else f"{text} (key {self.key})"


# -- bad input: refused at the door, nothing was sent -----------------------------------------------------------------


class InvalidInput(IdemstoreError, ValueError):
    """An argument that no store can take. Nothing was sent."""

    status = 400


class InvalidKey(InvalidInput):
    """An empty key or scope part, one with NUL or a lone surrogate, or one beyond the family's limit."""


class InvalidPayload(InvalidInput):
    """A payload that has no canonical form, so no fingerprint."""


class ResultTooLarge(InvalidInput):
    """A result or checkpoint beyond the limit of the store. Nothing was sent; the claim still stands."""

    status = 500


# -- configuration: raised by ``open`` and ``open_async`` -------------------------------------------------------------


class ConfigurationError(IdemstoreError):
    """The store cannot be opened as asked for."""


class InvalidUrl(ConfigurationError, ValueError):
    """The store URL cannot be read."""


class UnknownScheme(ConfigurationError, ValueError):
    """No backend is registered for the scheme of the URL."""


class UnknownOption(ConfigurationError, ValueError):
    """The URL carries an option that the backend does not know, or a value that the option cannot take."""


class MissingPackage(ConfigurationError, ImportError):
    """The client library of the backend is not installed; the message has the exact ``pip install``."""


class UnsupportedMode(ConfigurationError):
    """The driver has no sync (or no async) form; the message names one that has."""


class SchemaError(ConfigurationError):
    """Tables, indexes or functions are missing, outdated or of another shape; the message names the command."""


# -- use of a store ---------------------------------------------------------------------------------------------------


class StoreClosed(IdemstoreError):
    """The store was used after ``close``."""


class WrongEventLoop(IdemstoreError):
    """An async store was used on another event loop than the one it first ran on."""


class StoreError(IdemstoreError):
    """The server, or what it stores, stands in the way."""

    status = 503


class StoreUnavailable(StoreError):
    """The server cannot be reached, broke the connection, or cannot take the call now. Repeating the call is safe."""

    retryable = True


class StoreTimeout(StoreUnavailable):
    """No answer within the time-out. Whether the call was applied is not known; repeating it is safe."""


class Throttled(StoreUnavailable):
    """The server asks for fewer requests. Repeat the call after a pause."""


class TransactionConflict(StoreUnavailable):
    """The caller's own transaction must be run again from its start."""


class StoreFull(StoreError):
    """The server has no room for a new record. Nothing was stored."""

    retryable = True


class AccessDenied(StoreError):
    """The server refuses the credentials, or they lack a permission."""

    status = 500


class CorruptRecord(StoreError):
    """What is stored under the key is not a record of ours. Never taken for absent: look at it, then ``forget``."""

    status = 500


class StoreMisbehaved(StoreError):
    """The server answered something that its protocol does not allow here: a bug, or another program's functions."""

    status = 500


# -- guard: what a guarded call raises --------------------------------------------------------------------------------


class GuardError(IdemstoreError):
    """A guarded call did not run its function, or cannot vouch for what became of it."""


class UncarriedResult(GuardError):
    """The codec cannot carry the function's result. The work is done: the key is recorded as completed, the value is
    not kept. ``value`` has it where the function ran in this call; a replay raises this error without it.
    """

    value: object = None


class UndecodableResult(GuardError):
    """What is stored cannot be read back with this codec or these keys. It is never taken for absent."""


class OperationInFlight(GuardError):
    """Somebody else runs the operation; try again in ``retry_after`` seconds (its lease ends then, at the latest)."""

    retryable = True
    status = 409

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RetryLater(OperationInFlight):
    """The operation failed and backs off; try again in ``retry_after`` seconds."""

    status = 503


class PayloadMismatch(GuardError):
    """The key was first used with another payload. Nothing ran: use a new key for a new operation."""

    status = 422


class OperationAbandoned(GuardError):
    """An earlier owner vanished half-way and the policy forbids to run again unseen (``takeover=False``). Find out what
    it did, then settle the record with ``complete``, ``fail`` or ``release`` under ``token``.
    """

    status = 409

    def __init__(self, message: str, token: str = "", attempt: int = 0, checkpoint: bytes | None = None) -> None:
        super().__init__(message)
        self.token, self.attempt, self.checkpoint = token, attempt, checkpoint


class ReplayedFailure(GuardError):
    """The operation failed for good in an earlier call: ``type_name`` and ``message`` of its exception."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name, self.message = type_name, message

    def __str__(self) -> str:
        """What the earlier call raised."""
        return f"an earlier call failed with {self.type_name}: {self.message}"


class LeaseLostError(GuardError):
    """Somebody else has taken the key over, so the function may have run twice. ``value`` is what it returned, where it
    ran to its end; that is not stored.
    """

    status = 409

    def __init__(self, message: str, value: object = None) -> None:
        super().__init__(message)
        self.value = value


class CompletionUnknown(GuardError):
    """The function ran to its end, and the store could not be told within the lease. ``value`` is what the function
    returned. The key was not released, because the work is done.
    """

    status = 503

    def __init__(self, message: str, value: object = None) -> None:
        super().__init__(message)
        self.value = value


class NestedCall(GuardError):
    """A guarded call was made inside a guarded call of the same key: it would wait for itself."""


class OperationEnded(GuardError):
    """An operation was used after its function had ended, by a task or thread that outlived it."""


class GuardClosed(GuardError):
    """The guard was used after ``close``."""
