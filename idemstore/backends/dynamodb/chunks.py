"""Results beyond the item limit: divided over further items, written before the completion that points to them.

Parts are named by a digest of who wrote what (key, token, retention, bytes). So two deliveries of one completion write
the same parts twice, while a stale owner's parts, or those of another result, never mix with anybody's. What is read
back is checked by length and SHA-256; a mismatch is ``CorruptRecord``, never a shorter result.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from idemstore.backends.dynamodb.messages import Attr, Item
from idemstore.errors import CorruptRecord

MARK: Final = "%part:"
"""Behind the key in the id of a part. A stored key has no ``%`` but in ``%25`` and ``%3A``, so the two never meet."""
ID_BYTES: Final = len(MARK) + 32 + 1 + 5
"""How much longer the id of a part is than its key."""
PART_BYTES: Final = 390_000
"""Bytes in one part: an item holds 409,600 with its names and its id."""
PER_WRITE: Final = 2
"""Parts written in one round trip: a request stays below 1 MiB, so that none holds an event loop up, or a slow line."""
PER_READ: Final = 8
"""Parts read in one round trip: 3 MB, where the server sends up to 16."""

OWNER: Final = "part_of"
CHECK: Final = "check_at"
DATA: Final = "part_data"


class Parts(NamedTuple):
    """Where a result lies, and what it must be when it is put together again."""

    name: str
    pieces: int
    length: int
    digest: str

    def pointer(self) -> str:
        """What the record holds in place of the result."""
        return f"{self.name}.{self.pieces}.{self.length}.{self.digest}"

    def holds(self, data: bytes) -> bool:
        """Whether these parts are those bytes."""
        return self.length == len(data) and self.digest == hashlib.sha256(data).hexdigest()

    def ids(self, key: str) -> list[str]:
        """The ids of the items, in order."""
        return [f"{key}{MARK}{self.name}.{index}" for index in range(self.pieces)]


def divide(key: str, token: str, retention: int | None, data: bytes) -> tuple[Parts, list[bytes]]:
    """Divide a result."""
    pieces = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    digest = hashlib.sha256(data).hexdigest()
    name = hashlib.sha256("\0".join((key, token, str(retention), digest)).encode()).hexdigest()[:32]
    return Parts(name, len(pieces), len(data), digest), pieces


def _decimal(text: str) -> bool:
    """Digits that ``int`` reads: not those of other scripts, which are digits, too, nor thousands of them."""
    return text.isascii() and text.isdigit() and len(text) < 20


def read_pointer(pointer: str) -> Parts:
    """Read ``Parts.pointer``, or raise ``CorruptRecord``."""
    match pointer.split("."):
        case [name, count, length, digest] if _decimal(count) and _decimal(length) and 0 < int(count) < 10**5:
            return Parts(name, int(count), int(length), digest)
        case _:
            raise CorruptRecord("a record points to a divided result in a way that does not read: forget() the key")


def batches(ids: Sequence[str], size: int) -> list[Sequence[str]]:
    """So many at a time."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def join(key: str, parts: Parts, items: Iterable[Item]) -> bytes:
    """Put a result together from the items that were found, in any order, or raise ``CorruptRecord``."""
    found = {_id(item): item.get(DATA, {}).get("B") for item in items}
    pieces = [piece for piece in map(found.get, parts.ids(key)) if isinstance(piece, bytes)]
    data = b"".join(pieces)
    if len(pieces) != parts.pieces or not parts.holds(data):
        raise CorruptRecord(
            f"{len(pieces)} of the {parts.pieces} parts of a result were found, and they are not what was stored: "
            "somebody changed or deleted them; forget() the key, or restore the table"
        )
    return data


def _id(item: Item) -> str:
    """The id of an item."""
    value = item.get("id", {}).get("S")
    return value if isinstance(value, str) else ""


def owner(item: Item) -> tuple[str, str] | None:
    """Whose part an item is: key and name; None where it is no part."""
    key, name = _text(item.get(OWNER)), _id(item)
    head, mark, tail = name.rpartition(MARK)
    return (key, tail.partition(".")[0]) if key is not None and mark and head == key else None


def _text(attr: Attr | None) -> str | None:
    """The string of an attribute."""
    value = None if attr is None else attr.get("S")
    return value if isinstance(value, str) else None


def found_items(body: Mapping[str, object], table: str) -> list[Item]:
    """The items in the response to a ``BatchGetItem``."""
    responses = body.get("Responses")
    items = responses.get(table) if isinstance(responses, Mapping) else None
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
