"""Results to bytes and back.

A codec turns a value into bytes (``encode``, ``decode``) and may seal all bytes that are stored, failures included
(``seal``, ``unseal``): compression and encryption wrap any codec. Nothing is unpickled unless ``PickleCodec`` is asked
for by name. Whatever cannot be read back raises ``UndecodableResult``; it is never taken for an absent record.
"""

import dataclasses
import json
import pickle  # only PickleCodec uses it, by explicit choice
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast, get_type_hints

from idemstore.errors import ConfigurationError, UncarriedResult, UndecodableResult
from idemstore.registry import need

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

T = TypeVar("T")

MAX_INFLATED: Final = 256 * 2**20
"""Bytes that a compressed result may unfold to."""


class Codec(Generic[T]):
    """Base of all codecs: subclass it, and define ``encode`` and ``decode``."""

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


class JsonCodec(Codec[object]):
    """JSON: str, int, float, bool, None, list and dict with str names. A tuple is replayed as a list.

    Refuses what JSON would change silently: NaN, infinity, names that are not str, lone surrogates.
    """

    def encode(self, value: object) -> bytes:
        """Compact JSON as UTF-8."""
        try:
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
        except ValueError as error:
            raise UndecodableResult("the stored result is not JSON: it was written with another codec") from error
        return value


def _refuse_odd_names(value: object) -> None:
    """``json.dumps`` turns ``{1: ...}`` into ``{"1": ...}``: a replay would differ from the first answer."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            if not isinstance(name, str):
                raise TypeError(f"a dict has a member named by a {type(name).__name__}, JSON names are str")
            _refuse_odd_names(member)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_odd_names(item)


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


class PickleCodec(Codec[T]):
    """Pickle, by explicit choice only: whoever can write to the store can run code in your process."""

    def encode(self, value: T) -> bytes:
        """Pickle, protocol 5."""
        try:
            return pickle.dumps(value, protocol=5)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise UncarriedResult(f"pickle cannot carry the result ({type(value).__name__}): {error}") from error

    def decode(self, data: bytes) -> T:
        """Unpickle."""
        try:
            return cast("T", pickle.loads(data))  # noqa: S301 - the class is this choice
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError) as error:
            raise UndecodableResult(f"the stored result cannot be unpickled: {error}") from error


class PydanticCodec(Codec[T]):
    """Anything that pydantic can describe, as JSON that is validated when it is replayed."""

    def __init__(self, kind: type[T]) -> None:
        """``kind``: a model, dataclass, TypedDict, or annotation such as ``list[Receipt]``."""
        self._errors = need("pydantic_core", "pydantic")
        self._adapter = need("pydantic", "pydantic").TypeAdapter(kind)

    def encode(self, value: T) -> bytes:
        """JSON by pydantic."""
        try:
            return cast("bytes", self._adapter.dump_json(value, warnings="error"))
        except (self._errors.PydanticSerializationError, ValueError) as error:
            raise UncarriedResult(f"pydantic cannot carry the result ({type(value).__name__}): {error}") from error

    def decode(self, data: bytes) -> T:
        """Validated again."""
        try:
            return cast("T", self._adapter.validate_json(data))
        except self._errors.ValidationError as error:
            raise UndecodableResult(
                f"the stored result is no {self._adapter.core_schema.get('type', 'value')} of today: "
                f"{error.error_count()} errors"
            ) from error


class MsgspecCodec(Codec[T]):
    """Structs, dataclasses and annotations that msgspec knows, as JSON that is validated when it is replayed."""

    def __init__(self, kind: type[T]) -> None:
        """``kind``: a Struct, dataclass, TypedDict, or annotation such as ``list[Receipt]``."""
        self._msgspec = need("msgspec", "msgspec")
        self._encoder = self._msgspec.json.Encoder()
        self._decoder = self._msgspec.json.Decoder(kind)

    def encode(self, value: T) -> bytes:
        """JSON by msgspec."""
        try:
            return cast("bytes", self._encoder.encode(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise UncarriedResult(f"msgspec cannot carry the result ({type(value).__name__}): {error}") from error

    def decode(self, data: bytes) -> T:
        """Validated again."""
        try:
            return cast("T", self._decoder.decode(data))
        except self._msgspec.DecodeError as error:
            raise UndecodableResult(f"the stored result does not fit its type any more: {error}") from error


class DataclassCodec(Codec[T]):
    """Dataclasses (nested ones, too) of JSON values, with the standard library alone."""

    def __init__(self, kind: type[T]) -> None:
        """``kind``: a dataclass."""
        self._kind, self._json = kind, JsonCodec()

    def encode(self, value: T) -> bytes:
        """A JSON object of its fields."""
        if not isinstance(value, self._kind):
            raise UncarriedResult(f"the codec carries {self._kind.__name__}, the result is a {type(value).__name__}")
        return self._json.encode(dataclasses.asdict(value))  # type: ignore[call-overload]

    def decode(self, data: bytes) -> T:
        """The dataclass, made from its fields."""
        return cast("T", _build(self._kind, self._json.decode(data)))


def _build(kind: object, value: object) -> object:
    """A dataclass from a dict, its dataclass fields likewise; anything else as it is."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return value
    hints = get_type_hints(kind)
    try:
        if not isinstance(value, dict):
            raise TypeError(f"it is a {type(value).__name__}")
        return kind(**{name: _build(hints.get(name), member) for name, member in value.items()})
    except TypeError as error:
        raise UndecodableResult(f"the stored result is no {kind.__name__} of today: {error}") from error


def typed(kind: type[T]) -> Codec[T]:
    """The codec for a type: pydantic models by pydantic, msgspec structs by msgspec, dataclasses by whichever of the
    two is installed (msgspec first), plain dataclasses by the standard library otherwise.
    """
    origin = {base.__module__.partition(".")[0] for base in getattr(kind, "__mro__", ())}
    if "pydantic" in origin:
        return PydanticCodec(kind)
    if "msgspec" in origin or _installed("msgspec"):
        return MsgspecCodec(kind)
    if _installed("pydantic"):
        return PydanticCodec(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return DataclassCodec(kind)
    raise ConfigurationError(f"no codec for {kind!r}: pip install 'idemstore[msgspec]' or 'idemstore[pydantic]'")


def _installed(module: str) -> bool:
    """Whether a package can be imported, without importing it."""
    import importlib.util

    return importlib.util.find_spec(module) is not None


class _Wrapper(Codec[T]):
    """A codec around a codec: values go through unchanged, sealed bytes do not."""

    def __init__(self, inner: Codec[T]) -> None:
        self._inner = inner

    def encode(self, value: T) -> bytes:
        """As the inner codec."""
        return self._inner.encode(value)

    def decode(self, data: bytes) -> T:
        """As the inner codec."""
        return self._inner.decode(data)


class Compressed(_Wrapper[T]):
    """Compress (zlib) what is larger than ``threshold`` bytes, where it gets smaller. Put it inside ``Encrypted``."""

    def __init__(self, inner: Codec[T], threshold: int = 1024, level: int = 6) -> None:
        """``level``: 1 (fast) to 9 (small)."""
        super().__init__(inner)
        self._threshold, self._level = threshold, level

    def seal(self, data: bytes, context: bytes) -> bytes:
        """One byte says whether the rest is compressed."""
        data = self._inner.seal(data, context)
        if len(data) > self._threshold:
            packed = zlib.compress(data, self._level)
            if len(packed) < len(data):
                return b"z" + packed
        return b"-" + data

    def unseal(self, data: bytes, context: bytes) -> bytes:
        """Unpack, up to ``MAX_INFLATED`` bytes."""
        kind, rest = data[:1], data[1:]
        if kind == b"z":
            rest = _inflate(rest)
        elif kind != b"-":
            raise UndecodableResult("the stored result was not written by Compressed: open it with the codec it was")
        return self._inner.unseal(rest, context)


def _inflate(data: bytes) -> bytes:
    """Bounded decompression of a whole stream."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise UndecodableResult(f"the compressed result is damaged: {error}") from error
    if not stream.eof or stream.unused_data:
        raise UndecodableResult("the compressed result is cut short, followed by other bytes, or unfolds without end")
    return plain


class Encrypted(_Wrapper[T]):
    """Encrypt with AES-GCM (package ``cryptography``). The first key encrypts, every key decrypts: to rotate, put the
    new key first and drop the old one when the longest retention is over.

    Stored: ``E1``, 4 bytes that name the key, 12 random bytes of nonce, ciphertext with its tag. The record's key is
    authenticated along with it, so a ciphertext copied to another record does not open (NIST SP 800-38D).
    """

    _HEAD: Final = 2 + 4 + 12

    def __init__(self, inner: Codec[T], keys: Sequence[bytes]) -> None:
        """``keys``: 16, 24 or 32 random bytes each, newest first."""
        super().__init__(inner)
        if not keys or any(len(key) not in (16, 24, 32) for key in keys):
            raise ConfigurationError("Encrypted takes one or more keys of 16, 24 or 32 random bytes, newest first")
        aead = need("cryptography.hazmat.primitives.ciphers.aead", "encryption")
        self._invalid = need("cryptography.exceptions", "encryption").InvalidTag
        self._keys: dict[bytes, AESGCM] = {_name_of(key): aead.AESGCM(key) for key in reversed(keys)}
        self._newest = _name_of(keys[0])

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Encrypt with the newest key."""
        import os

        nonce = os.urandom(12)
        head = b"E1" + self._newest + nonce
        return head + self._keys[self._newest].encrypt(nonce, self._inner.seal(data, context), context)

    def unseal(self, data: bytes, context: bytes) -> bytes:
        """Decrypt with the key that it names."""
        if data[:2] != b"E1" or len(data) < self._HEAD:
            raise UndecodableResult("the stored result is not encrypted, or cut short: it was written by another codec")
        cipher = self._keys.get(data[2:6])
        if cipher is None:
            raise UndecodableResult("the stored result is encrypted with a key that is not among those given")
        try:
            plain = cipher.decrypt(data[6 : self._HEAD], data[self._HEAD :], context)
        except self._invalid as error:
            raise UndecodableResult("the stored result was changed, cut short, or moved from another record") from error
        return self._inner.unseal(plain, context)


def _name_of(key: bytes) -> bytes:
    """Four bytes that name a key without telling anything of it."""
    import hashlib

    return hashlib.sha256(b"idemstore key name 1\n" + key).digest()[:4]
