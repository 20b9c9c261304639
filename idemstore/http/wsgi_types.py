"""WSGI's own names, and the few steps that every request takes."""

import io
from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Protocol

from idemstore.http.facts import Headers, Request, Response, read_length

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
StartResponse = Callable[..., Callable[[bytes], object]]
"""``start_response(status, headers, exc_info=None) -> write``."""
WsgiApp = Callable[[Environ, Any], Iterable[bytes]]

CHUNK: Final = 65536
BODILESS: Final = frozenset({204, 304})
PHRASES: Final = {one.value: one.phrase for one in HTTPStatus}


class Readable(Protocol):
    """What is read of ``wsgi.input``."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""
        ...


def read_request(environ: Environ) -> Request:
    """The facts of an environ. Its text is bytes in Latin-1 (PEP 3333), the path is UTF-8."""
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    if not path.isascii():
        path = path.encode("latin-1", "replace").decode("utf-8", "backslashreplace")
    return Request(
        environ["REQUEST_METHOD"], path, _headers(environ), environ.get("QUERY_STRING", ""), None, b"", False, environ
    )


def _headers(environ: Environ) -> Headers:
    """The request headers."""
    found = [(_name(name), value) for name, value in environ.items() if name.startswith("HTTP_")]
    found += [(_name(name), environ[name]) for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)]
    return tuple(found)


@lru_cache(maxsize=512)
def _name(variable: str) -> str:
    """The header of a variable. Cached: clients send the same few."""
    return variable.removeprefix("HTTP_").replace("_", "-").lower()


class Cut(Exception):
    """The client went away before its request was whole."""


class Body(io.RawIOBase):
    """What was read for the fingerprint, then what the server still has."""

    def __init__(self, front: bytes, rest: Readable, left: int | None) -> None:
        """``left``: how much of the rest there is; None: the server knows where it ends."""
        super().__init__()
        self._front, self._rest, self._left = io.BytesIO(front), rest, left

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """The next bytes."""
        size = len(buffer)
        data = self._front.read(size)
        if not data:
            data = self._rest.read(size if self._left is None else min(size, self._left))
            self._left = None if self._left is None else self._left - len(data)
        buffer[: len(data)] = data
        return len(data)


def read_body(environ: Environ, limit: int) -> tuple[bytes, bool]:
    """The body up to the limit, and whether it goes on; ``Cut`` where it ends before its declared length. The
    application finds all of it.
    """
    source: Readable = environ["wsgi.input"]
    length = read_length(str(environ.get("CONTENT_LENGTH") or ""))
    if length is not None:
        front = _read(source, min(length, limit + 1))
        if len(front) < min(length, limit + 1):
            raise Cut
        left: int | None = length - len(front)
    elif environ.get("wsgi.input_terminated"):
        front, left = _read(source, limit + 1), None
    else:
        return b"", False  # no length, no end: servers give no body
    if len(front) <= limit:
        environ["wsgi.input"] = io.BytesIO(front)
        return front, False
    environ["wsgi.input"] = io.BufferedReader(Body(front, source, left))
    return front[:limit], True


def _read(source: Readable, size: int) -> bytes:
    """So many bytes, or all there are."""
    try:
        data = source.read(size)
        if len(data) == size or not data:
            return data
        parts, got = [data], len(data)
        while got < size and (data := source.read(min(size - got, CHUNK))):
            parts.append(data)
            got += len(data)
    except OSError as error:
        raise Cut from error
    return b"".join(parts)


def status_line(status: int) -> str:
    """The status with its phrase."""
    return f"{status} {PHRASES.get(status, 'Unknown')}"


def send_response(start_response: StartResponse, response: Response, method: str) -> list[bytes]:
    """A whole response, its length counted."""
    body = response.body or b""
    headers = [(_title(name), value.encode("latin-1", "replace").decode("latin-1")) for name, value in response.headers]
    if response.status not in BODILESS:
        headers.append(("Content-Length", str(len(body))))
    start_response(status_line(response.status), headers)
    return [b"" if method == "HEAD" else body]


def _title(name: str) -> str:
    """As WSGI servers write names."""
    return "-".join(part.capitalize() for part in name.split("-"))
