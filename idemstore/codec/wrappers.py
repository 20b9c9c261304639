"""Codecs around a codec: compression, encryption. Both at once: ``Encrypted(Compressed(JsonCodec()), keys)``."""

import hashlib
import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from idemstore.codec.base import Codec
from idemstore.errors import ConfigurationError, UndecodableResult
from idemstore.registry import need

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

T = TypeVar("T")

MAX_INFLATED: Final = 256 * 2**20
"""Bytes that a compressed result may unfold to."""


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
    """Compress (zlib) what is larger than ``threshold`` bytes, where it gets smaller. Put it inside ``Encrypted``:
    ciphertext does not get smaller.
    """

    def __init__(self, inner: Codec[T], threshold: int = 1024, level: int = 6) -> None:
        """``level``: 1 (fast) to 9 (small)."""
        super().__init__(inner)
        if threshold < 0 or not 1 <= level <= 9:
            raise ConfigurationError("Compressed takes a threshold of 0 or more bytes and a level from 1 to 9")
        self._threshold, self._level = threshold, level

    def seal(self, data: bytes, context: bytes) -> bytes:
        """One byte says whether the rest is compressed."""
        data = self._inner.seal(data, context)
        if self._threshold < len(data) <= MAX_INFLATED:
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
        plain = stream.decompress(data, MAX_INFLATED + 1)
    except zlib.error as error:
        raise UndecodableResult(f"the compressed result is damaged: {error}") from error
    if not stream.eof or stream.unused_data or len(plain) > MAX_INFLATED:
        raise UndecodableResult("the compressed result is cut short, followed by other bytes, or unfolds without end")
    return plain


class Encrypted(_Wrapper[T]):
    """Encrypt with AES-GCM (package ``cryptography``). The first key encrypts, every key decrypts: to rotate, first add
    the new key as the last one everywhere, then move it to the front, and drop the old one when the longest retention
    is over. Use a key for this alone, and rotate it before 2^32 results (random nonces, NIST SP 800-38D, 8.3).

    Stored: ``E1``, 4 bytes that name the key, 12 random bytes of nonce, ciphertext with its tag. All that stands before
    the ciphertext and the record's key are authenticated along with it, so a ciphertext that was changed, cut short or
    copied to another record does not open.
    """

    _HEAD: Final = 2 + 4 + 12

    def __init__(self, inner: Codec[T], keys: Sequence[bytes]) -> None:
        """``keys``: 16, 24 or 32 random bytes each, the one to encrypt with first."""
        super().__init__(inner)
        if not keys or any(not isinstance(key, bytes) or len(key) not in (16, 24, 32) for key in keys):
            raise ConfigurationError("Encrypted takes a list of keys of 16, 24 or 32 random bytes each, newest first")
        aead = need("cryptography.hazmat.primitives.ciphers.aead", "encryption")
        self._invalid = need("cryptography.exceptions", "encryption").InvalidTag
        self._keys: dict[bytes, AESGCM] = {_name_of(key): aead.AESGCM(key) for key in reversed(keys)}
        self._newest = _name_of(keys[0])

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Encrypt with the newest key."""
        nonce = os.urandom(12)
        head = b"E1" + self._newest + nonce
        return head + self._keys[self._newest].encrypt(nonce, self._inner.seal(data, context), head + context)

    def unseal(self, data: bytes, context: bytes) -> bytes:
        """Decrypt with the key that it names."""
        head, rest = data[: self._HEAD], data[self._HEAD :]
        if head[:2] != b"E1" or len(head) < self._HEAD:
            raise UndecodableResult("the stored result is not encrypted, or cut short: it was written by another codec")
        cipher = self._keys.get(head[2:6])
        if cipher is None:
            raise UndecodableResult("the stored result is encrypted with a key that is not among those given")
        try:
            plain = cipher.decrypt(head[6:], rest, head + context)
        except self._invalid as error:
            raise UndecodableResult("the stored result was changed, cut short, or moved from another record") from error
        return self._inner.unseal(plain, context)


def _name_of(key: bytes) -> bytes:
    """Four bytes that name a key without telling anything of it."""
    return hashlib.sha256(b"idemstore key name 1\n" + key).digest()[:4]
