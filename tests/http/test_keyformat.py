"""Reading keys out of headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemstore.errors import ConfigurationError
from idemstore.http.keyformat import MAX_HEADER, BadKey, KeyFormat, Quoting

PLAIN = KeyFormat()
STRICT = KeyFormat(quoting=Quoting.REQUIRED)


def test_a_key_is_trimmed_and_may_come_in_quotes():
    """By default both forms are the same key."""
    for text in ("8e03978e", "  8e03978e\t", '"8e03978e"', '"8e03978e";v=1', '" 8e03978e "'):
        assert PLAIN.read([text]) == "8e03978e"
    assert KeyFormat(quoting=Quoting.NEVER).read(['"a"']) == '"a"'


def test_nothing_is_absent():
    """Not there, empty, blank, or a word that counts as such."""
    for found in ([], [""], [" \t "], ['""']):
        assert PLAIN.read(found) is None
    assert KeyFormat(absent_words=frozenset({"null"})).read(["null"]) is None
    assert PLAIN.read(["null"]) == "null"


@pytest.mark.parametrize(
    "found",
    [
        ["a", "b"],
        ["a", "a"],
        ["a, b"],
        ["a,a"],
        ["a\x00"],
        ["a\x1b"],
        ["a\x7f"],
        ["a\rb"],
        ["schl\xfcssel"],
        ["\u20ac"],
        ["\ud800"],
        ["a" * 256],
        ["a" * (MAX_HEADER + 1)],
        ["a" * 10_000_000],
        [" " * 10_000_000 + "a"],
    ],
    ids=lambda found: repr(found)[:30],
)
def test_what_is_no_key_is_refused(found: list[str]):
    """Given twice, not printable ASCII, too long; the message shows none of it."""
    with pytest.raises(BadKey) as caught:
        PLAIN.read(found)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "text",
    [
        *("8e03", '"8e03', '8e03"', '"a"b"', "'a'", '"a\\"', '"a\\b"', '"a" b', '"a", "b"', '"a";', '"a";B=1'),
        *('"a";b=', '"a";b="', '"a" ;b', '"a";b=1.', '"a";b=1234567890123456', ":YQ==:", "?1", "(a)", '"ü"', '"a\x00"'),
    ],
)
def test_structured_field_syntax_errors_are_refused(text: str):
    """The draft's key is a string (RFC 9651, 3.3.3), nothing else."""
    with pytest.raises(BadKey):
        STRICT.read([text])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ('"a,b"', "a,b"),
        ('"a";x;y=1;z="q\\"";t=tok/en;b=:YQ==:;f=?0;d=-1.5', "a"),
        ('"a"; x=1', "a"),
    ],
)
def test_structured_field_strings_are_read(text: str, key: str):
    """Escapes are undone, parameters ignored."""
    assert STRICT.read([text]) == key
    assert PLAIN.read([text]) == key


def test_length_and_pattern_are_of_the_key_itself():
    """Not of its quotes and spaces."""
    short = KeyFormat(max_length=3, pattern="[a-z]+")
    assert short.read([' "abc" ']) == "abc"
    for text in ("abcd", "ab1", "abc\n1"):
        with pytest.raises(BadKey):
            short.read([text])
    assert KeyFormat(max_length=None).read(["a" * MAX_HEADER]) == "a" * MAX_HEADER
    assert KeyFormat(commas=True).read(["a, b"]) == "a, b"


@given(st.lists(st.text(max_size=30), max_size=2), st.sampled_from(Quoting), st.booleans())
def test_any_header_is_absent_a_key_or_refused(found: list[str], quoting: Quoting, commas: bool):
    """Nothing else is ever raised, and a key is printable ASCII without blanks around."""
    try:
        key = KeyFormat(quoting=quoting, commas=commas).read(found)
    except BadKey:
        return
    assert key is None or (key and key.isascii() and key.isprintable() and key == key.strip())


@pytest.mark.parametrize("wrong", [{"pattern": "("}, {"max_length": 0}, {"max_length": 10**9}, {"quoting": "never"}])
def test_formats_that_no_key_fits_are_refused(wrong: dict[str, object]):
    """When they are made."""
    with pytest.raises(ConfigurationError):
        KeyFormat(**wrong)  # type: ignore[arg-type]
