"""The door: every argument is checked here, before anything is sent. Durations become whole microseconds."""

import math
from datetime import timedelta
from functools import lru_cache
from os import urandom
from typing import Final

from idemstore.errors import InvalidInput, ResultTooLarge
from idemstore.machine import MICROSECONDS

Duration = float | timedelta
"""Seconds, or a timedelta. From a millisecond to a century; kept as whole milliseconds, rounded up."""

SHORTEST: Final = 0.001
CENTURY: Final = 36525 * 86400.0
MAX_TOKEN: Final = 128
MAX_FINGERPRINT: Final = 64
MAX_PURGE: Final = 100_000
MAX_WAIT: Final = 86400.0


def new_token() -> str:
    """128 random bits as 32 hexadecimal digits, read from the system each time: no fork or clone shares any."""
    return urandom(16).hex()


def duration(name: str, value: Duration) -> int:
    """A duration in microseconds, or ``InvalidInput``."""
    try:
        return _micros(name, value)
    except TypeError:  # it cannot even be hashed
        raise _bad_duration(name, value) from None


def retention(value: Duration | None, name: str = "retention") -> int | None:
    """How long a record is kept; None: for ever."""
    if value is None:
        return None
    try:
        return _micros(name, value)
    except TypeError:
        raise _bad_duration(name, value) from None


@lru_cache(maxsize=256, typed=True)
def _micros(name: str, value: Duration) -> int:
    """Whole milliseconds, as microseconds. Cached: a program uses few different durations, very often."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not SHORTEST <= seconds <= CENTURY:
        raise _bad_duration(name, value)
    return math.ceil(seconds * 1000 - 1e-6) * 1000


def _bad_duration(name: str, value: object) -> InvalidInput:
    """What is wrong with a duration."""
    if isinstance(value, int | float | timedelta) and not isinstance(value, bool):
        return InvalidInput(f"{name} is {_shown(value)}: give from {SHORTEST} to {CENTURY:.0f} seconds (a century)")
    return InvalidInput(f"{name} is seconds or a timedelta, not {type(value).__name__}")


def _shown(value: object) -> str:
    """What was given, for a message. Python refuses to print an integer of thousands of digits."""
    return "an enormous number" if isinstance(value, int) and value.bit_length() > 128 else repr(value)


def back_off(value: Duration | None, kept: int | None, name: str = "retry_after") -> int | None:
    """When a failure may be retried: None never, 0 at once, else a duration that ends within the retention."""
    if value is None:
        return None
    if not isinstance(value, bool) and value in (0, timedelta(0)):
        return 0
    micros = duration(name, value)
    if kept is not None and micros > kept:
        raise InvalidInput(
            f"{name} ({micros / MICROSECONDS:g} s) is beyond the retention ({kept / MICROSECONDS:g} s): "
            "the failure would be forgotten before its retry time; give a longer retention"
        )
    return micros


def seconds_to_wait(value: Duration) -> float:
    """How long a claim may wait for another caller: 0 (not at all) to a day, in seconds."""
    wait = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= MAX_WAIT:
        raise InvalidInput(f"wait is {_shown(value)}: give seconds from 0 (do not wait) to {MAX_WAIT:.0f} (a day)")
    return wait


def timeout(value: float | None) -> float | None:
    """A time-out in seconds, up to a day; None: the store's."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_WAIT):
        return value
    raise InvalidInput(f"timeout is {value!r:.60}: give seconds, up to {MAX_WAIT:.0f} (a day), or None for the store's")


def token(value: str) -> str:
    """A token: 1 to 128 printable ASCII characters."""
    if not isinstance(value, str) or not (0 < len(value) <= MAX_TOKEN and value.isascii() and value.isprintable()):
        raise InvalidInput(f"a token is 1 to {MAX_TOKEN} printable ASCII characters: give the one that Claimed carries")
    return value


def fingerprint(value: bytes | None) -> bytes | None:
    """A fingerprint: None, or 1 to 64 bytes."""
    if value is None or (isinstance(value, bytes) and 0 < len(value) <= MAX_FINGERPRINT):
        return value
    raise InvalidInput(f"a fingerprint is 1 to {MAX_FINGERPRINT} bytes: use idemstore.fingerprint(payload)")


def stored_bytes(name: str, value: bytes, limit: int) -> bytes:
    """A result or checkpoint within the limit of the store."""
    if not isinstance(value, bytes):
        raise InvalidInput(f"a {name} is bytes, not {type(value).__name__}: encode it first")
    if len(value) > limit:
        raise ResultTooLarge(
            f"a {name} of {len(value)} bytes is over this store's limit of {limit}: nothing was stored and the claim "
            f"still stands; store the {name} elsewhere and a reference to it here"
        )
    return value


def purge_limit(value: int) -> int:
    """How many records one purge may delete."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PURGE:
        raise InvalidInput(f"limit is {_shown(value)}: give a whole number from 1 to {MAX_PURGE}")
    return value
