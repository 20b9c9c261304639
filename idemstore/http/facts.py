"""HTTP as the policy sees it: what a request is, what a response is, and how a response is stored. No framework in it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from idemstore.errors import UndecodableResult

Headers = tuple[tuple[str, str], ...]
"""Names in lower case, in the order they came; a name may come twice."""

NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
VERSION: Final = 1
_MAGIC: Final = b"H1"


def make_headers(pairs: Iterable[tuple[bytes | str, bytes | str]]) -> Headers:
    """Headers with names in lower case; bytes are read as Latin-1, as HTTP/1.1 is (RFC 9110, 5.5)."""
    return tuple((_text(name).lower(), _text(value)) for name, value in pairs)


def _text(value: bytes | str) -> str:
    """Header bytes as text."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def values(headers: Headers, name: str) -> list[str]:
    """Every value of a header."""
    return [value for found, value in headers if found == name]


@dataclass(frozen=True, slots=True)
class Request:
    """The facts of a request. ``route`` names the operation (a path template where the framework knows one, else the
    path); ``body`` is None until somebody needs it; ``context`` is the framework's own object for scope callables.
    """

    method: str
    path: str
    headers: Headers = ()
    query: str = ""
    route: str | None = None
    body: bytes | None = field(default=None, repr=False)
    context: Mapping[str, object] = field(default=NOTHING, repr=False)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        found = values(self.headers, name.lower())
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Response:
    """A response. ``body`` None: it was too large, or streamed too long, to be kept."""

    status: int
    headers: Headers = ()
    body: bytes | None = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        found = values(self.headers, name.lower())
        return found[0] if found else None


def encode_response(response: Response, route: str) -> bytes:
    """``H1``, four bytes of length, a JSON head (status, headers, route, whether the body was kept), then the body."""
    head = json.dumps(
        {"status": response.status, "headers": response.headers, "route": route, "kept": response.body is not None},
        separators=(",", ":"),
    ).encode()
    return b"".join((_MAGIC, len(head).to_bytes(4, "big"), head, response.body or b""))


def decode_response(data: bytes, route: str) -> Response:
    """The response again, or ``UndecodableResult`` where it was written by another version, or for another route."""
    size = int.from_bytes(data[2:6], "big")
    try:
        if data[:2] != _MAGIC or len(data) < 6 + size:
            raise ValueError("no head")
        head = json.loads(data[6 : 6 + size])
        status, kept, written_for = int(head["status"]), bool(head["kept"]), head["route"]
        headers = tuple((str(name), str(value)) for name, value in head["headers"])
    except (ValueError, KeyError, TypeError) as error:
        raise UndecodableResult("the stored response was not written by this version of idemstore.http") from error
    if written_for != route:
        raise UndecodableResult("the stored response belongs to another route: widen the scope of one of the two")
    return Response(status, headers, bytes(data[6 + size :]) if kept else None)
