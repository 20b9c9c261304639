"""Reading the key out of a header: absent, a key, or a reason why it is none."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from idemstore.errors import ConfigurationError

MAX_HEADER: Final = 65536

_STRING: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"(;.*)?')
_NUMBER: Final = r"-?(?:[0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})"
_TOKEN: Final = r"[A-Za-z*][!#$%&'*+.^_`|~:/0-9A-Za-z-]*"  # noqa: S105 - the grammar's word for a bare word
_PARAMETERS: Final = re.compile(
    r"(?:; *[a-z*][a-z0-9_.*-]*(?:=(?:"
    rf'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"|{_NUMBER}|{_TOKEN}|:[A-Za-z0-9+/=]*:|\?[01]))?)*'
)


class Quoting(StrEnum):
    """Whether the key is a structured-field string (RFC 9651, 3.3.3), in double quotes."""

    NEVER = "never"
    """Taken as it is; quotes are part of the key."""
    ACCEPTED = "accepted"
    """Unwrapped where it comes in quotes, taken as it is where it does not."""
    REQUIRED = "required"
    """Refused where it does not come in quotes."""


_REQUIRED: Final = Quoting.REQUIRED  # on CPython 3.11 it is slow to look up on its enum


class BadKey(ValueError):
    """Why a header holds no key. The message is for the client, and shows nothing of what it sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFormat:
    """What a key looks like. Printable ASCII always; length in characters, after trimming and unquoting."""

    max_length: int | None = 255
    """None: as long as a header may be (64 KiB). A key that is longer than stores take is stored as its SHA-256."""
    pattern: str | None = None
    """A regular expression that the whole key must match."""
    quoting: Quoting = Quoting.ACCEPTED
    commas: bool = False
    """Take a key with a comma outside of quotes. Servers and proxies join a header that is given twice with a comma,
    so without commas that is noticed everywhere.
    """
    absent_words: frozenset[str] = frozenset()
    """Keys that count as no key, such as ``null``."""

    def __post_init__(self) -> None:
        """Refuse what no key could match."""
        if self.max_length is not None and not 0 < self.max_length <= MAX_HEADER:
            raise ConfigurationError(f"KeyFormat.max_length is from 1 to {MAX_HEADER}, or None")
        if not isinstance(self.quoting, Quoting):
            raise ConfigurationError("KeyFormat.quoting is a Quoting")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ConfigurationError(f"KeyFormat.pattern is no regular expression: {error}") from error

    def read(self, found: list[str]) -> str | None:
        """The key in the values of a header; None where there is none; ``BadKey`` where there is something else."""
        if not found:
            return None
        if len(found) > 1:
            raise BadKey("it is given more than once")
        (text,) = found
        if len(text) > MAX_HEADER:
            raise BadKey("it is too long for a header")
        text = text.strip(" \t")
        if not text:
            return None
        if not (text.isascii() and text.isprintable()):
            raise BadKey("it has characters other than printable ASCII")
        bare = text[0] != '"' and "," not in text and self.quoting is not _REQUIRED
        key = text if bare else self._unquote(text)
        if not key or key in self.absent_words:
            return None
        if self.max_length is not None and len(key) > self.max_length:
            raise BadKey(f"it is longer than {self.max_length} characters")
        if self.pattern is not None and re.fullmatch(self.pattern, key) is None:
            raise BadKey("it does not match the pattern that this API documents")
        return key

    def _unquote(self, text: str) -> str:
        """The string within the quotes, trimmed; parameters are allowed, and ignored (RFC 9651)."""
        quoted = self.quoting is Quoting.REQUIRED or (self.quoting is Quoting.ACCEPTED and text[0] == '"')
        if not quoted:
            if "," in text and not self.commas:
                raise BadKey("it has a comma, as a header that is given twice gets")
            return text
        match = _STRING.fullmatch(text)
        if match is None or (match[2] and _PARAMETERS.fullmatch(match[2]) is None):
            raise BadKey('it is no structured-field string: send it in double quotes, such as "8e03978e"')
        return re.sub(r"\\(.)", r"\1", match[1]).strip(" ")
