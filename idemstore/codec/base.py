"""The base of all codecs, and those that need nothing but the standard library."""

import json
from typing import Final, Generic, TypeVar

from idemstore.errors import UncarriedResult, UndecodableResult

T = TypeVar("T")


class Codec(Generic[T]):
    """Base of all codecs: subclass it, and define ``encode`` and ``decode``. Must be safe for many threads."""

    def encode(self, value: T) -> bytes:
        """The value as bytes, or ``UncarriedResult`` where this codec cannot carry it."""
        raise NotImplementedError

    def decode(self, data: bytes) -> T:
        """The value again, or ``UndecodableResult``."""
        raise NotImplementedError

    def seal(self, data: bytes, context: bytes) -> bytes:
        """What is stored for ``data``. ``context`` names the record, so that bytes cannot be moved to another one."""
        return data

    def unseal(self, data: bytes, context: bytes) -> bytes:
        """The data again, or ``UndecodableResult``."""
        return data


_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_NESTED: Final = (dict, list, tuple)


class JsonCodec(Codec[object]):
    """JSON: str, int, float, bool, None, list and dict with str names. A tuple is replayed as a list, a member of an
    enumeration of str or int as its value.

    Refuses what JSON would change beyond that: NaN, infinity, names that are not str, lone surrogates.
    """

    def encode(self, value: object) -> bytes:
        """Compact JSON as UTF-8."""
        if value is None:
            return b"null"  # what many functions return
        try:
            if isinstance(value, _NESTED):
                _refuse_odd_names(value)
            return _JSON.encode(value).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UncarriedResult(
                f"JSON cannot carry the result ({type(value).__name__}): {error}. Return str, int, float, bool, None, "
                "list or dict, or give the guard a codec such as idemstore.codec.typed(YourType)"
            ) from error

    def decode(self, data: bytes) -> object:
        """Read JSON."""
        try:
            value: object = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UndecodableResult("the stored result is not JSON: it was written with another codec") from error
        return value


def _refuse_odd_names(value: dict[object, object] | list[object] | tuple[object, ...]) -> None:
    """``json.dumps`` turns ``{1: ...}`` into ``{"1": ...}``: a replay would differ from the first answer."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"a dict has a member named by a {type(name).__name__}, JSON names are str")
    for member in value.values() if isinstance(value, dict) else value:
        if isinstance(member, _NESTED):
            _refuse_odd_names(member)


class BytesCodec(Codec[bytes]):
    """Bytes as they are, for callers that encode for themselves."""

    def encode(self, value: bytes) -> bytes:
        """The value."""
        if not isinstance(value, bytes):
            raise UncarriedResult(f"BytesCodec carries bytes, the result is a {type(value).__name__}")
        return value

    def decode(self, data: bytes) -> bytes:
        """The data."""
        return data
