"""The door: what becomes of arguments before anything is sent."""

import math
from datetime import timedelta
from enum import IntEnum
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemstore import checks
from idemstore.errors import InvalidInput, ResultTooLarge


@pytest.mark.parametrize(
    ("value", "micros"),
    [
        (1, 1_000_000),
        (0.001, 1000),
        (0.0011, 2000),
        (0.0015, 2000),
        (30.0, 30_000_000),
        (0.1 + 0.2, 300_000),
        (checks.CENTURY, 36525 * 86400 * 10**6),
        (timedelta(milliseconds=1), 1000),
        (timedelta(microseconds=1001), 2000),
        (timedelta(days=36525), 36525 * 86400 * 10**6),
    ],
    ids=repr,
)
def test_durations(value, micros):
    """Seconds become microseconds, whole milliseconds, rounded up."""
    assert checks.duration("lease", value) == micros
    assert checks.retention(value) == micros


@given(st.floats(0.001, checks.CENTURY))
def test_durations_are_never_shorter_than_asked(seconds):
    """A lease that was rounded down would end before its owner expects it."""
    micros = checks.duration("lease", seconds)
    assert micros % 1000 == 0
    assert -1e-3 <= micros / 1e6 - seconds * (1 - 1e-12) < 0.002 + seconds * 1e-9


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        0.0009,
        math.nan,
        math.inf,
        -math.inf,
        checks.CENTURY + 1,
        10**400,
        True,
        False,
        "1",
        b"1",
        None,
        [1],
        1j,
        timedelta(0),
        timedelta(microseconds=999),
        timedelta(seconds=-1),
        timedelta.max,
    ],
    ids=repr,
)
def test_bad_durations(value):
    """Anything else is refused, by a message with the argument's name."""
    with pytest.raises(InvalidInput, match="lease"):
        checks.duration("lease", value)
    if value is not None:
        with pytest.raises(InvalidInput, match="retention"):
            checks.retention(value)


def test_enormous_numbers_are_refused_like_others():
    """Python does not print an integer of more than 4300 digits, so no message may try to."""
    for call in (partial(checks.duration, "lease"), checks.retention, checks.seconds_to_wait, checks.purge_limit):
        for value in (10**5000, -(10**5000)):
            with pytest.raises(InvalidInput, match="enormous"):
                call(value)


def test_subclasses_of_numbers_are_durations():
    """The float64 of numpy is a subclass of float, an IntEnum of int."""

    class Seconds(float):
        __slots__ = ()

    class Kept(IntEnum):
        SHORT = 3

    assert checks.duration("lease", Seconds(1.5)) == 1_500_000
    assert checks.retention(Kept.SHORT) == 3_000_000


def test_true_is_not_one_even_when_one_is_known():
    """A cache of durations must not take True for 1."""
    assert checks.duration("lease", 1) == 10**6
    with pytest.raises(InvalidInput):
        checks.duration("lease", True)


def test_no_retention_is_for_ever():
    """None is kept as None."""
    assert checks.retention(None) is None


@pytest.mark.parametrize(
    ("value", "kept", "micros"),
    [(None, 10**6, None), (0, 10**6, 0), (0.0, None, 0), (timedelta(0), 1, 0), (1, 10**6, 10**6), (5, None, 5 * 10**6)],
)
def test_back_offs(value, kept, micros):
    """None never, 0 at once, else within the retention."""
    assert checks.back_off(value, kept) == micros


@pytest.mark.parametrize(
    "value", [-1, math.nan, math.inf, True, False, "0", 0.0001, 1.001, checks.CENTURY * 2], ids=repr
)
def test_bad_back_offs(value):
    """A bool, a negative one, or one beyond the retention of a second is refused."""
    with pytest.raises(InvalidInput, match="retry_after"):
        checks.back_off(value, 10**6)


def test_waits():
    """From zero seconds to a day."""
    assert checks.seconds_to_wait(0) == 0
    assert checks.seconds_to_wait(timedelta(seconds=1.5)) == 1.5
    assert checks.seconds_to_wait(86400) == 86400
    for bad in (-1, math.nan, math.inf, 86401, True, "1", None):
        with pytest.raises(InvalidInput, match="wait"):
            checks.seconds_to_wait(bad)  # type: ignore[arg-type]


def test_tokens():
    """1 to 128 printable ASCII characters; those that are made are 32 hexadecimal digits, and never the same."""
    assert checks.token("x" * 128) == "x" * 128
    for bad in ("", "x" * 129, "é", "\n", "a\0", b"x", None, 5):
        with pytest.raises(InvalidInput, match="token"):
            checks.token(bad)  # type: ignore[arg-type]
    made = {checks.new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(token) == 32 and set(token) <= set("0123456789abcdef") for token in made)


def test_fingerprints():
    """None, or 1 to 64 bytes."""
    assert checks.fingerprint(None) is None
    assert checks.fingerprint(b"x" * 64) == b"x" * 64
    for bad in (b"", b"x" * 65, "x", bytearray(b"x"), 5):
        with pytest.raises(InvalidInput, match="fingerprint"):
            checks.fingerprint(bad)  # type: ignore[arg-type]


def test_stored_bytes():
    """Bytes, and nothing else, up to the limit; the error says what to do and shows no content."""
    assert checks.stored_bytes("result", b"xyz", 3) == b"xyz"
    with pytest.raises(ResultTooLarge, match="the claim still stands") as caught:
        checks.stored_bytes("result", b"secret", 3)
    assert "secret" not in str(caught.value)
    for bad in ("text", bytearray(b"x"), memoryview(b"x"), None):
        with pytest.raises(InvalidInput, match="result is bytes"):
            checks.stored_bytes("result", bad, 3)  # type: ignore[arg-type]


def test_purge_limits():
    """A whole number from 1."""
    assert checks.purge_limit(1) == 1
    assert checks.purge_limit(checks.MAX_PURGE) == checks.MAX_PURGE
    for bad in (0, -1, 1.0, True, "1", None, checks.MAX_PURGE + 1):
        with pytest.raises(InvalidInput, match="limit"):
            checks.purge_limit(bad)  # type: ignore[arg-type]
