"""From scope and client key to the key of a store: whatever a client sends, every family takes it."""

import hashlib
from collections.abc import Sequence
from typing import Final

MAX_PART: Final = 255
"""Characters of a scope part or key that are stored as they are; a longer one is stored as its SHA-256,"""
MAX_KEY: Final = 1000
"""as all of them are where they come to more bytes than this together (every family takes that many)."""
MOST_PARTS: Final = 12
"""Parts of which even the hashes may be too much."""
SHORT: Final = 70
"""A namespace that together with ``MAX_PART`` characters, each of which may take three bytes, is within ``MAX_KEY``."""
_SHA: Final = "sha256-"


def stored_key(namespace: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The key that a store gets. Different parts never give the same."""
    text = "".join(parts)
    if len(text) <= MAX_PART and len(namespace) <= SHORT and text.isascii() and text.isprintable() and _SHA not in text:
        return (namespace, *parts)  # nearly all keys
    stored = (namespace, *map(_part, parts))
    if sum(map(len, stored)) * 3 <= MAX_KEY or _size(stored) <= MAX_KEY:
        return stored
    if len(parts) <= MOST_PARTS:
        return (namespace, *map(_hashed, parts))
    return (namespace, _hashed(repr(parts)))


def _part(part: str) -> str:
    """A part as it is stored: as it is where it is short and plain. A hash cannot be sent instead of what it is of."""
    plain = len(part) <= MAX_PART and part.isascii() and part.isprintable() and not part.startswith(_SHA)
    return part if plain else _hashed(part)


def _hashed(part: str) -> str:
    """The SHA-256 of a part."""
    return f"sha256-{hashlib.sha256(part.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _size(parts: Sequence[str]) -> int:
    """Bytes of the stored key; a colon or percent sign takes three."""
    return sum(len(part) + 1 + 2 * (part.count(":") + part.count("%")) for part in parts)
