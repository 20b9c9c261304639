"""HTTP as the policy sees it: what a request is and what a response is. No framework in it, no I/O."""

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

Headers = tuple[tuple[str, str], ...]
"""Names in lower case, in the order they came; a name may come twice."""

LONGEST_LENGTH: Final = 18
"""Digits of a length that are read: what has more is no length that anything could have."""

NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


def make_headers(pairs: Iterable[tuple[bytes | str, bytes | str]]) -> Headers:
    """Headers with names in lower case; bytes are read as Latin-1, as HTTP/1.1 is (RFC 9110, 5.5)."""
    return tuple([(_text(name).lower(), _text(value)) for name, value in pairs])


def _text(value: bytes | str) -> str:
    """Header bytes as text."""
    return value if isinstance(value, str) else str(value, "latin-1")


def read_length(text: str) -> int | None:
    """A declared length; None where it is none."""
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text) if len(text) <= LONGEST_LENGTH else 10**LONGEST_LENGTH


def values(headers: Headers, name: str) -> list[str]:
    """Every value of a header; ``name`` in lower case."""
    return [value for found, value in headers if found == name]


class Request(NamedTuple):
    """The facts of a request. ``request._replace(route=...)`` gives another one."""

    method: str
    path: str
    """The whole path, decoded."""
    headers: Headers = ()
    query: str = ""
    route: str | None = None
    """The template of the path where one is known (``paths()`` of the policy, or a framework)."""
    body: bytes = b""
    """What was read for the fingerprint: at most ``HttpPolicy.max_request`` bytes, none where the policy needs none."""
    truncated: bool = False
    """Whether the body goes on behind ``body``."""
    context: Mapping[str, object] = NOTHING
    """The framework's own view: the ASGI scope, the WSGI environ."""

    def __repr__(self) -> str:
        """Without what may be secret."""
        return f"<Request {self.method} {self.path}>"

    def header(self, name: str) -> str | None:
        """The first value of a header; None where it is missing or blank, so that a blank one names nobody."""
        wanted = name.lower()
        for found, value in self.headers:
            if found == wanted:
                return value if value and not value.isspace() else None
        return None

    @property
    def operation(self) -> str:
        """Method and route: the operation, whatever its path parameters. Made to be a part of a scope."""
        return f"{self.method} {self.route or self.path}"


new_request: Final = partial(tuple.__new__, Request)
"""A request from a tuple of its fields, in half the time that calling the class takes."""


class Response(NamedTuple):
    """A response. ``response._replace(body=...)`` gives another one."""

    status: int
    headers: Headers = ()
    body: bytes | None = b""
    """None: it was too large to be kept."""

    def __repr__(self) -> str:
        """Without what may be secret."""
        return f"<Response {self.status}>"

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        wanted = name.lower()
        for found, value in self.headers:
            if found == wanted:
                return value
        return None
