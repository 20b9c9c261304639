"""The Lua scripts: files of their own, found by the digest that ``EVALSHA`` names."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, NamedTuple

from idemstore.backends.redis.resp import Chunks, bulk, pack_after

_FOLDER: Final = files("idemstore.backends.redis") / "scripts"


def _read(name: str) -> bytes:
    """The text of a script."""
    return (_FOLDER / f"{name}.lua").read_bytes()


@dataclass(frozen=True, slots=True)
class Script:
    """One script. Every call names one key, so every call runs on the one server or node that holds the record."""

    name: str
    source: bytes
    digest: str
    by_digest: tuple[bytes, ...]
    """The start of an EVALSHA with 0, 1, 2, ... arguments behind the key."""

    def call(self, key: bytes, *arguments: bytes) -> Chunks:
        """The usual call: by digest."""
        return pack_after(self.by_digest[len(arguments)], (key, *arguments))

    def load(self, key: bytes, *arguments: bytes) -> Chunks:
        """The call for a server that has forgotten the script: with its source, which it remembers from then on."""
        count = len(arguments) + 4
        return pack_after(b"*%d\r\n$4\r\nEVAL\r\n" % count, (self.source, b"1", key, *arguments))


_MOST: Final = 6


_SILENT: Final = b"local function tell() end\n"
"""In place of ``tell.lua`` where waiters are not notified."""


def script(name: str, *heads: bytes) -> Script:
    """Read ``scripts/<name>.lua`` and put the heads in front."""
    source = b"\n".join((*heads, _read(name)))
    digest = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    tail = b"$7\r\nEVALSHA\r\n" + bulk(digest.encode()) + bulk(b"1")
    return Script(name, source, digest, tuple(b"*%d\r\n%b" % (count + 4, tail) for count in range(_MOST + 1)))


class Settling(NamedTuple):
    """The scripts that end a claim."""

    complete: Script
    fail: Script
    release: Script


_HEAD: Final = _read("record")

CLAIM: Final = script("claim", _HEAD)
RENEW: Final = script("renew", _HEAD)
GET: Final = script("get", _HEAD)
PING: Final = script("ping")
TELLING: Final = Settling(*(script(name, _HEAD, _read("tell")) for name in Settling._fields))
"""They publish to the channel that waiters listen to."""
SILENT: Final = Settling(*(script(name, _HEAD, _SILENT) for name in Settling._fields))
