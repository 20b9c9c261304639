"""Keys and fingerprints: what identifies an operation, and what its payload was.

Owns the join of scope and key into one stored string, and the canonical form that a fingerprint digests. Both are part
of what is stored, so they never change without a new version.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

from idemstore.errors import InvalidKey, InvalidPayload

KeyLike = str | tuple[str, ...]
"""A key, or ``(scope, ..., key)``: the last part is the key, those before it isolate callers from each other."""

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""What a fingerprint can be taken of, beside bytes."""


class StoredKey(str):
    """A key as ``encode_key`` gave it: not encoded again by whoever is handed it. Not for what a caller sends."""

    __slots__ = ()


_MAX_DEPTH: Final = 200
_MAX_EXACT: Final = 2**53
_MAX_BITS: Final = 13_000


def encode_key(key: KeyLike, max_bytes: int) -> str:
    """Join scope and key into the stored key, or raise ``InvalidKey``.

    Parts are joined by ``:``; a ``:`` or ``%`` inside a part is percent-escaped, so different parts never give the same
    stored key and a plain key is stored as it is. Nothing is normalised: keys are equal when their bytes are.
    """
    if type(key) is str and key.isascii() and key.isprintable() and "%" not in key and key:
        stored = key.replace(":", "%3A")
        if len(stored) <= max_bytes:
            return stored  # most keys, in a fraction of the time
    elif isinstance(key, StoredKey):
        stored = str(key)
    elif isinstance(key, str):
        stored = _escape(key)
    elif isinstance(key, tuple) and key:
        stored = _joined(key)
    else:
        raise InvalidKey(f"a key is a str or a non-empty tuple of str (scope..., key), not {type(key).__name__}")
    try:
        size = len(stored) if stored.isascii() else len(stored.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"key {redact(stored)} has a lone surrogate: it is no text; send valid Unicode") from None
    if size > max_bytes:
        raise InvalidKey(
            f"key {redact(stored)} takes {size} bytes as stored, this store's limit is {max_bytes}: "
            "send a shorter key, or a digest of it"
        )
    return stored


def _joined(parts: tuple[str, ...]) -> str:
    """All parts of a key. Most have nothing to escape and nothing to object to, which one look at the whole tells."""
    if "" not in parts:
        try:
            text = ":".join(parts)
        except TypeError:
            text = "%"  # a part is no str: look closer
        if text.isascii() and text.isprintable() and "%" not in text and text.count(":") == len(parts) - 1:
            return text
    return ":".join(map(_escape, parts))


def _escape(part: str) -> str:
    """One part of a key, with the separator escaped."""
    if not isinstance(part, str):
        raise InvalidKey(f"every part of a key is a str, not {type(part).__name__}")
    if not part:
        raise InvalidKey("a key or scope part is empty: an empty scope would mix callers up; send a non-empty one")
    if "\0" in part:
        raise InvalidKey(f"key {redact(part)} has a NUL character, which not every store can hold: send a key without")
    if "%" in part or ":" in part:
        return part.replace("%", "%25").replace(":", "%3A")
    return part


def redact(stored: str) -> str:
    """How a key appears in errors and logs: its first characters, its length, and a digest to search for.

    >>> redact("order-4711")
    "'ord…' [10 chars, sha256 1c5a2ac6]"
    """
    digest = hashlib.sha256(stored.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    start = ascii(stored[: min(3, len(stored) // 3)])
    return f"{start[:-1]}…' [{len(stored)} chars, sha256 {digest}]"


def fingerprint(payload: bytes | Json) -> bytes:
    """The SHA-256 digest (32 bytes) of a payload: of bytes as they are, of JSON-like values in canonical form.

    Canonical means: members sorted by name, no white space, equal numbers equal (``1`` and ``1.0``, ``0`` and
    ``-0.0``), tuples as lists. Bytes and JSON never share a fingerprint, nor do ``"1"`` and ``1``. Anything else, NaN
    and infinity included, raises ``InvalidPayload``: turn it into one of these first.
    """
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return hashlib.sha256(b"idemstore bytes 1\n" + bytes(payload)).digest()
    import json  # only fingerprints need it

    text = json.dumps(_canonical(payload, 0), ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(b"idemstore json 1\n" + text.encode()).digest()


def _canonical(value: Json, depth: int) -> Json:
    """The same value, made of plain dict, list, str, int, float, bool and None, with equal numbers equal."""
    if depth > _MAX_DEPTH:
        raise InvalidPayload(
            f"payload is nested deeper than {_MAX_DEPTH} levels (or holds itself): fingerprint its bytes"
        )
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {_name(name): _canonical(member, depth + 1) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item, depth + 1) for item in value]
    raise InvalidPayload(
        f"payload holds a {type(value).__name__}, which has no canonical form: "
        "turn it into str, int, float, bool, None, list or dict first, or fingerprint bytes"
    )


def _integer(value: int) -> int:
    """A plain int, of a size that Python agrees to print."""
    if value.bit_length() > _MAX_BITS:
        raise InvalidPayload("payload holds an integer of thousands of digits: send it as text")
    return int(value)


def _number(value: float) -> int | float:
    """A finite float, as an int where it is one exactly."""
    if not math.isfinite(value):
        raise InvalidPayload("payload holds NaN or infinity, which JSON does not have: send a number or null")
    return int(value) if value.is_integer() and abs(value) <= _MAX_EXACT else float(value)


def _name(name: object) -> str:
    """The name of a member."""
    if not isinstance(name, str):
        raise InvalidPayload(f"payload has a member named by a {type(name).__name__}: JSON names are str")
    return str.__str__(name)  # not what a subclass makes of it: that of an enum would be the name of its member
