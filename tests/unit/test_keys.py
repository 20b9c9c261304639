"""Keys as they are stored, as they are shown, and fingerprints."""

import math
from collections import OrderedDict
from enum import Enum
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemstore.errors import IdemstoreError, InvalidKey, InvalidPayload
from idemstore.keys import StoredKey, encode_key, fingerprint, redact

LIMIT = 1000
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
PARTS = st.lists(TEXT | st.sampled_from([":", "%", "a:b", "%3A", "a%", ":%"]), min_size=1, max_size=4).map(tuple)


@given(PARTS, PARTS)
def test_encoding_is_injective(one, two):
    """Two keys are stored alike only if their parts are the same."""
    assert (encode_key(one, LIMIT) == encode_key(two, LIMIT)) == (one == two)


@given(PARTS)
def test_encoding_can_be_undone(parts):
    """Scope and key can be read back from what is stored: nothing is lost."""
    stored = encode_key(parts, LIMIT)
    assert tuple(part.replace("%3A", ":").replace("%25", "%") for part in stored.split(":")) == parts


def test_plain_keys_are_stored_as_they_are():
    """What needs no escape has none; a tuple of one is the plain key."""
    for key in ("order-4711", "a b", "ключ", "\t", "$x.y"):
        assert encode_key(key, LIMIT) == key
        assert encode_key((key,), LIMIT) == key
    assert encode_key(("scope", "key"), LIMIT) == "scope:key"
    assert encode_key(("a:b", "c%"), LIMIT) == "a%3Ab:c%25"
    assert encode_key("a:b", LIMIT) == "a%3Ab"


@pytest.mark.parametrize(
    "key",
    [
        "",
        ("",),
        ("a", ""),
        ("", "a"),
        (),
        "\0",
        "a\0b",
        ("a\0", "b"),
        "\ud800",
        ("a", "\udc00b"),
        "a" * 1001,
        5,
        None,
        b"key",
        ["a"],
        ("a", b"b"),
        ("a", None),
        (("a",), "b"),
        "é" * 501,
        ("a" * 500, "b" * 500),
        ":" * 334,
    ],
    ids=ascii,
)
def test_bad_keys(key):
    """Each is refused as InvalidKey, which is a ValueError, too; the message is short."""
    with pytest.raises(InvalidKey) as caught:
        encode_key(key, LIMIT)
    assert isinstance(caught.value, IdemstoreError)
    assert isinstance(caught.value, ValueError)
    assert 0 < len(str(caught.value)) < 300


def test_limit_counts_bytes_as_stored():
    """The limit is inclusive, and counts UTF-8, separators and escapes."""
    assert encode_key("é" * 500, LIMIT)
    assert encode_key(("a" * 499, "b" * 500), LIMIT)
    assert encode_key(":" * 333, LIMIT)
    assert encode_key("a" * 1000, LIMIT)


def test_subclasses_of_str_are_keys():
    """A str subclass is a key like its text."""

    class Name(str):
        __slots__ = ()

    assert encode_key(Name("a:b"), LIMIT) == "a%3Ab"
    assert encode_key((Name("a"), Name("b")), LIMIT) == "a:b"


@given(PARTS)
def test_what_is_stored_is_not_encoded_again(parts):
    """A key that was encoded at the door stays as it is, and drivers are handed a plain str."""
    stored = encode_key(parts, LIMIT)
    again = encode_key(StoredKey(stored), LIMIT)
    assert (type(again), again) == (str, stored)


@given(PARTS)
def test_the_short_way_gives_what_the_long_way_gives(parts):
    """A key without anything to escape is joined in one go; parts of a subclass of str take the long way."""

    class Odd(tuple):
        __slots__ = ()

    assert encode_key(parts, LIMIT) == encode_key(Odd(parts), LIMIT)


def test_limit_of_stored_keys():
    """It holds for them, too, in bytes."""
    for stored in ("a" * 11, "\xfc" * 6):
        with pytest.raises(InvalidKey, match="limit is 10"):
            encode_key(StoredKey(stored), 10)


@given(st.text(min_size=1))
def test_redaction_shows_little(key):
    """At most three characters of a key are shown, printable, of a third of it at most."""
    text = redact(key)
    assert text.isprintable()
    assert text.isascii() or "…" in text
    assert f"[{len(key)} chars, " in text
    if len(key) > 12 and key.isalnum():
        assert key not in text


def test_redaction_can_be_searched():
    """The digest is that of the key, so a key that is known can be found in a log."""
    assert redact("order-4711") == redact("order-4711")
    assert redact("order-4711") != redact("order-4712")
    assert redact("ab").startswith("'…' [2 chars")


class Member(str, Enum):  # noqa: UP042 - a StrEnum prints its text
    """The text of a member is "a", what ``str`` makes of it is "Member.A"."""

    A = "a"


SAME = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (1, 1.0),
    (0, -0.0),
    ([1, 2], (1, 2)),
    (1e15, 10**15),
    ({"a": [1.0]}, {"a": [1]}),
    ({"a": 1}, OrderedDict(a=1)),
    ({"a": 1}, MappingProxyType({"a": 1})),
    (b"x", bytearray(b"x")),
    (b"x", memoryview(b"x")),
    (b"ace", memoryview(b"abcdef")[::2]),
    ({"a": "a"}, {Member.A: Member.A}),
]
DIFFERENT = [
    ("1", 1),
    (b"1", "1"),
    (b"1", 1),
    (True, 1),
    (False, 0),
    (None, "null"),
    (None, {}),
    ([], {}),
    ([1, 2], [2, 1]),
    ("a", "A"),
    ("é", "e\u0301"),
    ({"a": None}, {}),
    (1, 1.5),
    ([[1], 2], [1, [2]]),
    (10**20, 10**20 + 1),
    ("\ud800", "?"),
]


@pytest.mark.parametrize(("one", "two"), SAME, ids=lambda payload: type(payload).__name__)
def test_equal_payloads_have_one_fingerprint(one, two):
    """The order of members, the kind of number and of sequence do not matter."""
    assert fingerprint(one) == fingerprint(two)
    assert len(fingerprint(one)) == 32


@pytest.mark.parametrize(("one", "two"), DIFFERENT, ids=ascii)
def test_different_payloads_have_different_fingerprints(one, two):
    """Type, order, case and form matter."""
    assert fingerprint(one) != fingerprint(two)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_fingerprints_do_not_depend_on_order(payload):
    """However a mapping was built, its fingerprint is the same."""

    def turned(value):
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert fingerprint(turned(payload)) == fingerprint(payload)


def test_fingerprints_never_change():
    """They are stored: these are part of the format."""
    assert fingerprint(b"").hex() == "1418afa2abc07ca00a2ad4140028a86ee9b196cb2c3c892b69ea30caf4bc57f8"
    payload = {"b": [1, 2.5, None, True], "a": "é"}
    assert fingerprint(payload).hex() == "4168f5e68cd5fb9466b49143a131574b2bb799bef40b5515bf025a896eedcc4d"


@pytest.mark.parametrize(
    "payload",
    [
        math.nan,
        math.inf,
        [-math.inf],
        {"a": {1, 2}},
        object(),
        {1: "a"},
        {None: 1},
        {"a": b"x"},
        1j,
        {b"a": 1},
        10**5000,
    ],
    ids=lambda payload: repr(type(payload)),
)
def test_payloads_without_canonical_form(payload):
    """Anything that JSON does not have is refused, wherever it is."""
    with pytest.raises(InvalidPayload):
        fingerprint(payload)


def test_deep_and_endless_payloads():
    """A payload that is nested too deeply, or in itself, is refused; one within the limit is not."""
    deep: list[object] = []
    for _ in range(150):
        deep = [deep]
    assert fingerprint(deep)  # type: ignore[arg-type]
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidPayload):
        fingerprint(endless)  # type: ignore[arg-type]
