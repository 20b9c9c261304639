"""As much of the PostgreSQL protocol as the harness needs: trusted login and simple queries."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from io import BufferedReader

from idemstore.testing.servers.waiting import Address, NotReady

_TIMEOUT = 5.0
_PROTOCOL_3 = 196608


def _messages(stream: BufferedReader) -> Iterator[tuple[bytes, bytes]]:
    """Yield messages up to ReadyForQuery; an ErrorResponse raises `NotReady` with its text."""
    kind = b""
    while kind != b"Z":
        head = stream.read(5)
        if len(head) < 5:
            raise ConnectionError("connection closed")
        kind, length = head[:1], struct.unpack("!i", head[1:])[0]
        body = stream.read(length - 4)
        if kind == b"E":
            raise NotReady(_error(body))
        yield kind, body


def _error(body: bytes) -> str:
    """Return the message of an ErrorResponse."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0")}
    return fields.get(b"M", "unknown error")


def _framed(body: bytes, kind: bytes = b"") -> bytes:
    """Put the length before a message."""
    return kind + struct.pack("!i", len(body) + 4) + body


def _log_in(connection: socket.socket, stream: BufferedReader, user: str, database: str) -> dict[str, str]:
    """Log in without a password; return what the server says of itself."""
    words = f"user\0{user}\0database\0{database}\0\0".encode()
    connection.sendall(_framed(struct.pack("!i", _PROTOCOL_3) + words))
    told: dict[str, str] = {}
    for kind, body in _messages(stream):
        if kind == b"R" and struct.unpack("!i", body[:4])[0] != 0:
            raise NotReady("the server wants a password")
        if kind == b"S":
            name, value, _ = body.decode().split("\0")
            told[name] = value
    return told


def _first_column(row: bytes) -> str:
    """Return the first column of a DataRow as text (NULL as nothing)."""
    (length,) = struct.unpack("!i", row[2:6])
    return row[6 : 6 + max(length, 0)].decode()


def ask(address: Address, user: str, database: str, *statements: str) -> list[str]:
    """Run statements over a connection of its own; return the first column of all rows."""
    with socket.create_connection(address, _TIMEOUT) as connection, connection.makefile("rb") as stream:
        _log_in(connection, stream, user, database)
        answers: list[str] = []
        for statement in statements:
            connection.sendall(_framed(statement.encode() + b"\0", b"Q"))
            answers += [_first_column(body) for kind, body in _messages(stream) if kind == b"D"]
        connection.sendall(_framed(b"", b"X"))
        return answers


def ready(address: Address, user: str, database: str) -> None:
    """Raise unless a query is answered."""
    ask(address, user, database, "SELECT 1")
