"""How a response is stored: an envelope of this module's own version, bound to the request it answers.

``H1``, four bytes of length, a head, then the body as it is. The head is text (UTF-8), its parts set apart by NUL:
status, ``body`` or ``none`` (not kept), the operation it answers, then names and values of headers in turn. Whatever
else is found under a key is refused: it was written by another version, by a guard, or for another operation.
"""

from collections.abc import Sequence
from typing import Final

from idemstore.errors import UndecodableResult
from idemstore.http.facts import Headers, Response

MAGIC: Final = b"H1"
_FRONT: Final = len(MAGIC) + 4


def encode_response(status: int, headers: Headers, operation: str, body: Sequence[bytes] | None) -> bytes:
    """What to store. ``body`` in parts, joined here and nowhere else; None: not kept."""
    parts = [str(int(status)), "none" if body is None else "body", operation]
    for pair in headers:
        parts += pair
    text = "\0".join(parts)
    if text.count("\0") != len(parts) - 1:  # a decoded path may have a NUL, and a header of a broken application
        parts[2] = _bound(operation)
        text = "\0".join([part.replace("\0", "") for part in parts])
    head = text.encode("utf-8", "surrogatepass")
    return b"".join((MAGIC, len(head).to_bytes(4, "big"), head, *(body or ())))


def decode_response(data: bytes, operation: str) -> Response:
    """The response again; ``UndecodableResult`` where another version wrote it, or it answers another operation."""
    start = _FRONT + int.from_bytes(data[len(MAGIC) : _FRONT], "big")
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise UndecodableResult("what is stored is no response, or one of another version of idemstore.http")
    try:
        status, kept, written_for, *flat = data[_FRONT:start].decode("utf-8", "surrogatepass").split("\0")
        headers = tuple(zip(flat[::2], flat[1::2], strict=True))
        number = int(status)
    except ValueError as error:
        raise UndecodableResult("the head of the stored response cannot be read: it was damaged") from error
    if written_for != operation and written_for != _bound(operation):
        raise UndecodableResult("the stored response answers another operation: make the operation a part of the scope")
    return Response(number, headers, data[start:] if kept == "body" else None)


def _bound(operation: str) -> str:
    """An operation as it is stored; a decoded path may hold anything."""
    return operation.replace("\0", "%00")
