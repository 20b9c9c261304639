"""Reading the key out of a header: absent, a key, or a reason why it is none."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_HEADER: Final = 65536

_STRING: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"[ \t]*(;.*)?')
_PARAMETERS: Final = re.compile(
    r"(?:;[ ]*[a-z*][a-z0-9_.*-]*(?:=(?:"
    r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"|-?[0-9]{1,15}(?:\.[0-9]{1,3})?|[A-Za-z*][!#$%&\'*+.^_`|~:/0-9A-Za-z-]*|'
    r":[A-Za-z0-9+/=]*:|\?[01]))?)*"
)


class Quoting(StrEnum):
    """Whether the key is a structured-field string (RFC 8941, 3.3.3), in double quotes."""

    NEVER = "never"
    """Taken as it is; quotes are part of the key."""
    ACCEPTED = "accepted"
    """Unwrapped where it comes in quotes."""
    REQUIRED = "required"
    """Refused where it does not."""


class BadKey(ValueError):
    """Why a header holds no key. The message is for the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFormat:
    """What a key looks like. Length in characters, after trimming and unquoting."""

    max_length: int | None = 255
    """None: as long as a header may be; what is longer than a store takes is kept as its SHA-256."""
    pattern: str | None = None
    """A regular expression that the whole key must match."""
    quoting: Quoting = Quoting.NEVER
    trim: bool = True
    absent_words: frozenset[str] = frozenset()
    """Keys that count as no key, such as ``null``."""

    def read(self, found: list[str]) -> str | None:
        """The key; None where there is none; ``BadKey`` where there is something else."""
        if not found:
            return None
        if len(found) > 1:
            raise BadKey("it is given more than once")
        text = found[0].strip(" \t") if self.trim else found[0]
        if not text.strip(" \t"):
            return None
        if len(text) > MAX_HEADER or not all(" " <= character <= "~" for character in text):
            raise BadKey("it has characters other than printable ASCII, or is too long for a header")
        key = self._unquote(text)
        if not key.strip(" ") or key in self.absent_words:
            return None
        if self.max_length is not None and len(key) > self.max_length:
            raise BadKey(f"it is longer than {self.max_length} characters")
        if self.pattern is not None and re.fullmatch(self.pattern, key) is None:
            raise BadKey(f"it does not match {self.pattern}")
        return key

    def _unquote(self, text: str) -> str:
        """The string within the quotes; parameters are allowed, and ignored."""
        if self.quoting is Quoting.NEVER or (self.quoting is Quoting.ACCEPTED and not text.startswith('"')):
            return text
        match = _STRING.fullmatch(text)
        if match is None or _PARAMETERS.fullmatch(match[2] or "") is None:
            raise BadKey('it is no structured-field string: send it in double quotes, such as "8e03978e"')
        return re.sub(r"\\(.)", r"\1", match[1])
