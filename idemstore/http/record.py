"""How a response is stored: an envelope of this module's own version, bound to the request it answers.

``H1``, four bytes of length, a JSON head (status, headers, the operation it answers, whether the body was kept), then
the body as it is. Whatever else is found under a key is refused: it was written by another version, by a guard, or for
another operation.
"""

import json
from collections.abc import Sequence
from typing import Final

from idemstore.errors import UndecodableResult
from idemstore.http.facts import Headers, Response

MAGIC: Final = b"H1"
_FRONT: Final = len(MAGIC) + 4

_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


def encode_response(status: int, headers: Headers, operation: str, body: Sequence[bytes] | None) -> bytes:
    """What to store. ``body`` in parts, joined here and nowhere else; None: not kept."""
    head = _encode([status, body is not None, operation, headers]).encode()
    return b"".join((MAGIC, len(head).to_bytes(4, "big"), head, *(body or ())))


def decode_response(data: bytes, operation: str) -> Response:
    """The response again; ``UndecodableResult`` where another version wrote it, or it answers another operation."""
    start = _FRONT + int.from_bytes(data[len(MAGIC) : _FRONT], "big")
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise UndecodableResult("what is stored is no response, or one of another version of idemstore.http")
    try:
        status, kept, written_for, pairs = json.loads(data[_FRONT:start])
        headers = tuple((str(name), str(value)) for name, value in pairs)
        status = int(status)
    except (ValueError, TypeError) as error:
        raise UndecodableResult("the head of the stored response cannot be read: it was damaged") from error
    if written_for != operation:
        raise UndecodableResult("the stored response answers another operation: make the operation a part of the scope")
    return Response(status, headers, data[start:] if kept else None)
