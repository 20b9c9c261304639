"""HTTP/1.1 as bytes: a signed request on its way, and a response as it comes in. Does no I/O."""

from typing import Final
from urllib.parse import urlsplit

from botocore.awsrequest import AWSPreparedRequest  # type: ignore[import-untyped]

HEAD_LIMIT: Final = 65536
"""Bytes of a response's head; DynamoDB's has a few hundred."""


def request_bytes(request: AWSPreparedRequest) -> bytes:
    """A signed request as it goes over the wire."""
    url = urlsplit(request.url)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    lines = [
        f"{request.method} {path} HTTP/1.1".encode(),
        b"Host: " + url.netloc.encode(),
        b"Accept-Encoding: identity",
    ]
    for name, value in request.headers.items():
        lines.append(
            name.encode("latin-1") + b": " + (value if isinstance(value, bytes) else str(value).encode("latin-1"))
        )
    body: bytes = request.body or b""
    return b"\r\n".join([*lines, b"", body])


class NotHTTP(ValueError):
    """What came is no HTTP/1 response."""


class Response:
    """A response, fed as its bytes come."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.keeps = False
        """Whether the connection may be used again."""
        self._data = bytearray()
        self._at = -1
        """Where the body, or the next chunk of it, begins; -1: the head is not whole."""
        self._length: int | None = None
        self._chunks: bytearray | None = None

    def feed(self, data: bytes) -> bool:
        """More bytes; whether the response is whole now. Raises ``NotHTTP``."""
        self._data += data
        try:
            return self._whole()
        except ValueError as error:
            raise NotHTTP(f"this is no HTTP/1 response: {error}") from error

    def _whole(self) -> bool:
        """Read on."""
        if self._at < 0 and not self._head():
            return False
        if self._chunks is not None:
            return self._dechunk(self._chunks)
        return self._length is not None and len(self._data) - self._at >= self._length

    def ends(self) -> bool:
        """Whether a response is whole because its connection has ended: one that tells no length is."""
        return self._at >= 0 and self._length is None and self._chunks is None

    @property
    def body(self) -> bytes:
        """The body of a whole response."""
        if self._chunks is not None:
            return bytes(self._chunks)
        return bytes(self._data[self._at :] if self._length is None else self._data[self._at : self._at + self._length])

    def _head(self) -> bool:
        """Read the head once it is whole."""
        end = self._data.find(b"\r\n\r\n")
        size = len(self._data) if end < 0 else end
        if size > HEAD_LIMIT or not self._data.startswith(b"HTTP/1."[: len(self._data)]):
            raise ValueError("another head")
        if end < 0:
            return False
        first, *lines = self._data[:end].decode("latin-1").split("\r\n")
        self.status = int(first[9:12])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self._at = end + 4
        self._frame(first.startswith("HTTP/1.1 "))
        return True

    def _frame(self, persistent: bool) -> None:
        """What the head says of the body's end."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = bytearray()
        elif "content-length" in self.headers:
            self._length = _size(self.headers["content-length"], 10)
        elif self.status in (204, 304):
            self._length = 0
        framed = self._chunks is not None or self._length is not None
        self.keeps = persistent and framed and self.headers.get("connection", "").lower() != "close"

    def _dechunk(self, body: bytearray) -> bool:
        """Take the chunks that are whole."""
        while (end := self._data.find(b"\r\n", self._at)) >= 0:
            size = _size(self._data[self._at : end].partition(b";")[0].decode("latin-1"), 16)
            if size == 0:
                return self._data.find(b"\r\n\r\n", end) >= 0
            if len(self._data) < end + 4 + size:
                return False
            body += self._data[end + 2 : end + 2 + size]
            self._at = end + 4 + size
        return False


def _size(digits: str, base: int) -> int:
    """A length, or ``ValueError``."""
    if not digits.strip().isalnum():
        raise ValueError("a length that is no number")
    return int(digits, base)
