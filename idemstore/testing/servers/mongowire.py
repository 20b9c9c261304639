"""As much of MongoDB's protocol and of BSON as the harness needs to run a command."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from io import BufferedReader
from typing import TypeAlias

from idemstore.testing.servers.waiting import Address, NotReady

Value: TypeAlias = "str | int | float | bool | Mapping[str, Value] | Sequence[Value] | None"
Document: TypeAlias = Mapping[str, Value]

_TIMEOUT = 5.0
_OP_MSG = 2013
_INT32 = struct.Struct("<i")
_SIZES = {0x07: 12, 0x09: 8, 0x11: 8, 0x12: 8, 0x13: 16}
"""Element types that are skipped when read, with their size: ObjectId, date, timestamp, int64, decimal."""


def _element(name: str, value: Value) -> bytes:
    """Encode one element (only the types that our commands use)."""
    key = name.encode() + b"\0"
    match value:
        case bool():
            return b"\x08" + key + bytes([value])
        case int():
            return b"\x10" + key + _INT32.pack(value)
        case str():
            text = value.encode() + b"\0"
            return b"\x02" + key + _INT32.pack(len(text)) + text
        case Mapping():
            return b"\x03" + key + encode(value)
        case Sequence():
            return b"\x04" + key + encode({str(index): item for index, item in enumerate(value)})
        case _:
            raise TypeError(type(value).__name__)


def encode(document: Document) -> bytes:
    """Encode a document."""
    body = b"".join(_element(name, value) for name, value in document.items()) + b"\0"
    return _INT32.pack(len(body) + 4) + body


def _string(data: bytes, at: int) -> tuple[str, int]:
    """Read a string with its length before it."""
    (length,) = _INT32.unpack_from(data, at)
    return data[at + 4 : at + 3 + length].decode(), at + 4 + length


def _value(kind: int, data: bytes, at: int) -> tuple[Value, int]:
    """Read one value; types that nobody asks for come back as None."""
    match kind:
        case 0x01:
            return float(struct.unpack_from("<d", data, at)[0]), at + 8
        case 0x02:
            return _string(data, at)
        case 0x03 | 0x04:
            (length,) = _INT32.unpack_from(data, at)
            inner = decode(data[at : at + length])
            return (inner if kind == 0x03 else list(inner.values())), at + length
        case 0x05:
            return None, at + 5 + int(_INT32.unpack_from(data, at)[0])
        case 0x08:
            return data[at] == 1, at + 1
        case 0x0A:
            return None, at
        case 0x10:
            return int(_INT32.unpack_from(data, at)[0]), at + 4
        case _ if kind in _SIZES:
            return None, at + _SIZES[kind]
        case _:
            raise NotReady(f"unknown BSON type {kind:#x}")


def decode(data: bytes) -> dict[str, Value]:
    """Decode a document."""
    found: dict[str, Value] = {}
    at = 4
    while data[at]:
        end = data.index(b"\0", at + 1)
        name = data[at + 1 : end].decode()
        found[name], at = _value(data[at], data, end + 1)
    return found


def _exactly(stream: BufferedReader, size: int) -> bytes:
    """Read so many bytes."""
    data = stream.read(size)
    if len(data) < size:
        raise ConnectionError("connection closed")
    return data


def command(address: Address, name: str, argument: Value = 1) -> dict[str, Value]:
    """Run an admin command over a connection of its own; its failure raises `NotReady` with the server's words."""
    body = b"\0\0\0\0\0" + encode({name: argument, "$db": "admin"})
    with socket.create_connection(address, _TIMEOUT) as connection, connection.makefile("rb") as stream:
        connection.sendall(struct.pack("<iiii", len(body) + 16, 1, 0, _OP_MSG) + body)
        (length,) = _INT32.unpack(_exactly(stream, 4))
        reply = decode(_exactly(stream, length - 4)[17:])
    if reply.get("ok") != 1:
        raise NotReady(str(reply.get("errmsg")))
    return reply
