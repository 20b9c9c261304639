"""What a guard stores, and how it reads it again: values, failures, checkpoints, and a marker for work whose value no
codec could carry. The first byte says which; then the codec seals the whole.
"""

import json
import reprlib
from typing import Final

from idemstore.codec.base import Codec
from idemstore.errors import IdemstoreError, ReplayedFailure, UncarriedResult, UndecodableResult
from idemstore.keys import redact

VALUE: Final = b"v"
FAILURE: Final = b"f"
CHECKPOINT: Final = b"c"
UNCARRIED: Final = b"x"

MAX_MESSAGE: Final = 10_000
"""Characters of an exception's message that are kept."""


Sealed = tuple[bytes, UncarriedResult | None]
"""A result ready to be stored, and what to raise once it is (None: nothing)."""


class Envelope:
    """A codec, and the limit of the store that it writes for."""

    def __init__(self, codec: Codec[object], value_bytes: int) -> None:
        self._codec, self._limit = codec, value_bytes
        self._plain = type(codec).seal is Codec.seal
        self._encode = codec.encode

    def value(self, value: object, stored: str) -> Sealed:
        """A value. The work is done: where no codec can carry it, a marker is stored instead."""
        try:
            data = VALUE + self._encode(value)
            if not self._plain:
                data = self._codec.seal(data, stored.encode())
        except Exception as error:  # noqa: BLE001 - whatever a codec raises, the work is done and must be recorded
            return self._marked(_uncarried(error, stored), value, stored)
        if len(data) <= self._limit:
            return data, None
        reason = f"it takes {len(data)} bytes, the store's limit is {self._limit}: return a reference to it instead"
        return self._marked(UncarriedResult(f"the result of {redact(stored)} is not kept: {reason}"), value, stored)

    def _marked(self, trouble: UncarriedResult, value: object, stored: str) -> Sealed:
        """The marker, with the reason where that can be stored."""
        trouble.value = value
        reason = str(trouble)[:MAX_MESSAGE].encode(errors="replace")
        return self._short(UNCARRIED, reason, stored), trouble

    def failure(self, error: BaseException, stored: str) -> bytes:
        """A failure: type and message, nothing that could run."""
        body = {"type": type(error).__qualname__, "message": _message(error)}
        short = {"type": type(error).__qualname__, "message": ""}
        return self._short(FAILURE, json.dumps(body).encode(), stored, json.dumps(short).encode())

    def _short(self, kind: bytes, body: bytes, stored: str, shorter: bytes = b"") -> bytes:
        """The body, or a shorter one where that is too long, or the codec cannot seal."""
        for text in (body, shorter):
            try:
                data = self._codec.seal(kind + text, stored.encode())
            except Exception as error:  # noqa: BLE001 - a codec that cannot seal must not hide what became of the work
                return kind + f"the codec cannot seal ({type(error).__name__})".encode()
            if len(data) <= self._limit:
                break
        return data

    def checkpoint(self, data: bytes, stored: str) -> bytes:
        """A checkpoint."""
        return self._codec.seal(CHECKPOINT + data, stored.encode())

    def open_checkpoint(self, data: bytes, stored: str) -> bytes:
        """A checkpoint again."""
        kind, body = self._open(data, stored)
        if kind != CHECKPOINT:
            raise UndecodableResult(f"the checkpoint stored under {redact(stored)} was not written by a guard")
        return body

    def open_value(self, data: bytes, stored: str) -> object:
        """The value of an earlier execution."""
        kind, body = self._open(data, stored)
        if kind == UNCARRIED:
            reason = body.decode(errors="replace")
            raise UncarriedResult(f"{redact(stored)} was completed, but its value could not be stored: {reason}")
        if kind != VALUE:
            raise UndecodableResult(
                f"what is stored under {redact(stored)} was not written by a guard: read it yourself"
            )
        try:
            return self._codec.decode(body)
        except IdemstoreError:
            raise
        except Exception as error:
            raise UndecodableResult(f"the codec cannot read the result of {redact(stored)}: it raised") from error

    def open_failure(self, data: bytes, stored: str) -> ReplayedFailure:
        """The failure of an earlier execution."""
        kind, body = self._open(data, stored)
        try:
            found = json.loads(body) if kind == FAILURE else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UndecodableResult(f"the failure stored under {redact(stored)} was not written by a guard")
        return ReplayedFailure(str(found.get("type")), str(found.get("message")))

    def _open(self, data: bytes, stored: str) -> tuple[bytes, bytes]:
        """The kind and body of what is stored."""
        if not self._plain:
            try:
                data = self._codec.unseal(data, stored.encode())
            except IdemstoreError:
                raise
            except Exception as error:
                raise UndecodableResult(f"the codec cannot unseal what {redact(stored)} holds: it raised") from error
        return data[:1], data[1:]


def _uncarried(error: Exception, stored: str) -> UncarriedResult:
    """The error for a value that a codec cannot carry."""
    if isinstance(error, UncarriedResult):
        return error
    reason = f"the codec raised {type(error).__name__}"
    made = UncarriedResult(f"the result of {redact(stored)} is not kept: {reason}")
    made.__cause__ = error
    return made


def _message(error: BaseException) -> str:
    """The message of an exception, cut to what is kept; some cannot be asked for theirs."""
    try:
        return str(error)[:MAX_MESSAGE]
    except Exception:  # noqa: BLE001 - the failure is recorded all the same
        return f"({reprlib.repr(type(error))} has no message)"
