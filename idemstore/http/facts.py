"""HTTP as the policy sees it: what a request is and what a response is. No framework in it, no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Headers = tuple[tuple[str, str], ...]
"""Names in lower case, in the order they came; a name may come twice."""


def make_headers(pairs: Iterable[tuple[bytes | str, bytes | str]]) -> Headers:
    """Headers with names in lower case; bytes are read as Latin-1, as HTTP/1.1 is (RFC 9110, 5.5)."""
    return tuple((_text(name).lower(), _text(value)) for name, value in pairs)


def _text(value: bytes | str) -> str:
    """Header bytes as text."""
    return value if isinstance(value, str) else str(value, "latin-1")


def values(headers: Headers, name: str) -> list[str]:
    """Every value of a header; ``name`` in lower case."""
    return [value for found, value in headers if found == name]


@dataclass(frozen=True, slots=True)
class Request:
    """The facts of a request.

    ``path`` is the whole path, decoded. ``route`` is its template where one is known (``paths()`` of the policy, or a
    framework), else None. ``body`` is what was read for the fingerprint: at most ``HttpPolicy.max_request`` bytes, b""
    where the policy needs none. ``context`` is the framework's own view: the ASGI scope, the WSGI environ.
    """

    method: str
    path: str
    headers: Headers = ()
    query: str = ""
    route: str | None = None
    body: bytes = field(default=b"", repr=False)
    truncated: bool = False
    """Whether the body goes on behind ``body``."""
    context: Mapping[str, object] = field(default_factory=dict, repr=False)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        found = values(self.headers, name.lower())
        return found[0] if found else None

    @property
    def operation(self) -> str:
        """Method and route: the operation, whatever its path parameters. Made to be a part of a scope."""
        return f"{self.method} {self.route or self.path}"


@dataclass(frozen=True, slots=True)
class Response:
    """A response. ``body`` None: it was too large to be kept."""

    status: int
    headers: Headers = ()
    body: bytes | None = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        found = values(self.headers, name.lower())
        return found[0] if found else None
