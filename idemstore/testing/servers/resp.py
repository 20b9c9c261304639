"""As much of the Redis protocol as the harness needs to ask a server how it is."""

from __future__ import annotations

import socket
from io import BufferedReader
from typing import TypeAlias

from idemstore.testing.servers.waiting import Address, NotReady

Reply: TypeAlias = "str | int | list[Reply] | None"

_TIMEOUT = 2.0


def _read(stream: BufferedReader) -> Reply:
    """Read one RESP2 reply; an error reply raises `NotReady` with its text."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("connection closed")
    kind, rest = line[:1], line[1:-2].decode()
    match kind:
        case b"+":
            return rest
        case b"-":
            raise NotReady(rest)
        case b":":
            return int(rest)
        case b"$":
            return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
        case b"*":
            return None if rest == "-1" else [_read(stream) for _ in range(int(rest))]
        case _:
            raise NotReady(f"not a Redis server: {line!r}")


def call(address: Address, *words: str, password: str | None = None) -> Reply:
    """Send one command over a connection of its own."""
    commands = [words] if password is None else [("AUTH", password), words]
    with socket.create_connection(address, _TIMEOUT) as connection, connection.makefile("rb") as stream:
        reply: Reply = None
        for command in commands:
            parts = (f"${len(word.encode())}\r\n{word}\r\n" for word in command)
            connection.sendall(f"*{len(command)}\r\n{''.join(parts)}".encode())
            reply = _read(stream)
        return reply


def info(address: Address, section: str, password: str | None = None) -> dict[str, str]:
    """Return one section of INFO."""
    text = call(address, "INFO", section, password=password)
    pairs = (line.partition(":") for line in str(text).splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def ready(address: Address, password: str | None = None) -> None:
    """Raise unless the server answers PING and has loaded its data."""
    call(address, "PING", password=password)


def version(address: Address) -> str:
    """Return what the server calls its version (Valkey also reports the Redis version it is compatible with)."""
    answer = info(address, "server")
    return answer.get("valkey_version") or answer["redis_version"]


def table(reply: Reply) -> dict[str, str]:
    """Turn a flat list of names and values into a mapping."""
    flat = reply if isinstance(reply, list) else []
    return {str(name): str(value) for name, value in zip(flat[::2], flat[1::2], strict=False)}
