"""Store URLs: read once, without a password in any text."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemstore.errors import IdemstoreError, InvalidUrl, UnknownOption
from idemstore.url import Host, Options, StoreUrl, parse_url, read_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Options):
    """Options of every kind."""

    size: int = field(default=5, metadata={"min": 1, "max": 10})
    ratio: float | None = field(default=None, metadata={"min": 0, "max": 1})
    flag: bool = False
    name: str = "x"


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("memory://", StoreUrl("memory")),
        ("MEMORY://Name", StoreUrl("memory", hosts=(Host("Name", None),))),
        ("sqlite:///a/b.db", StoreUrl("sqlite", path="/a/b.db")),
        ("redis://h:1/0", StoreUrl("redis", hosts=(Host("h", 1),), path="/0")),
        ("redis://a:1,b,c:3/0", StoreUrl("redis", hosts=(Host("a", 1), Host("b", None), Host("c", 3)), path="/0")),
        ("redis://[::1]:6379", StoreUrl("redis", hosts=(Host("::1", 6379),))),
        ("redis://[::1]", StoreUrl("redis", hosts=(Host("::1", None),))),
        ("x://u:p@h", StoreUrl("x", "u", "p", (Host("h", None),))),
        ("x://:p@h", StoreUrl("x", None, "p", (Host("h", None),))),
        ("x://u@h", StoreUrl("x", "u", None, (Host("h", None),))),
        ("x://u%40:p%3A%2F@h", StoreUrl("x", "u@", "p:/", (Host("h", None),))),
        ("x://u:p@w:x@h", StoreUrl("x", "u", "p@w:x", (Host("h", None),))),
        ("x://h?a=1&b=%20", StoreUrl("x", hosts=(Host("h", None),), query=(("a", "1"), ("b", " ")))),
        ("x://h?a=", StoreUrl("x", hosts=(Host("h", None),), query=(("a", ""),))),
        ("x:///a%20b", StoreUrl("x", path="/a b")),
    ],
)
def test_urls(url, parsed):
    """What is read from each."""
    assert parse_url(url) == parsed


def test_scheme_has_family_and_driver():
    """``family+driver``."""
    assert (parse_url("a+b://").family, parse_url("a+b://").driver) == ("a", "b")
    assert (parse_url("a://").family, parse_url("a://").driver) == ("a", None)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:",
        "memory:/",
        "://h",
        "a b://h",
        "x://h:port",
        "x://h:0",
        "x://h:65536",
        "x://h:-1",
        "x://h:²",
        "x://[::1",
        "x://[::1]x",
        "x://h?a",
        "x://h?a=1&b",
        "x://h?=&&",
        "x://u:sec/ret@h:1",
        "x://h?a=%ff",
        "x://h:" + "9" * 5000,
        "x://h/\ud800",
        "x://u:sec\ud800ret@h",
    ],
)
def test_bad_urls(url):
    """Each is refused, and the message does not repeat it: it may hold a password."""
    with pytest.raises(InvalidUrl) as caught:
        parse_url(url)
    assert isinstance(caught.value, ValueError)
    assert "sec" not in str(caught.value).replace("seconds", "")


@pytest.mark.parametrize("url", [None, 5, b"memory://", ["memory://"]])
def test_urls_are_text(url):
    """No other type."""
    with pytest.raises(InvalidUrl, match="is a str"):
        parse_url(url)


@given(st.text(max_size=30).map(lambda text: f"x://{text}"))
def test_any_text_is_read_or_refused(url):
    """Nothing but InvalidUrl comes out of a URL that cannot be read."""
    try:
        parse_url(url)
    except IdemstoreError as error:
        assert isinstance(error, InvalidUrl)  # noqa: PT017


def test_password_is_in_no_text():
    """Neither str nor repr show it, nor option values, some of which are secrets."""
    parsed = parse_url("redis://user:hunter2@host:1/0?secret=hunter3")
    for text in (str(parsed), repr(parsed)):
        assert "hunter" not in text
    assert str(parsed) == "redis://user:***@host:1/0?…"
    assert str(parse_url("redis://hunter2@host")) == "redis://***@host"  # the colon in front was forgotten
    assert str(parse_url("redis://[::1]:1,b/0")) == "redis://[::1]:1,b/0"
    assert str(parse_url("memory://")) == "memory://"


def test_options():
    """Text becomes what the field is."""
    read = read_options(parse_url("x://h?size=7&ratio=0.5&flag=yes&name=a%20b&timeout=2.5"), Sample)
    assert read == Sample(size=7, ratio=0.5, flag=True, name="a b", timeout=2.5)
    assert read_options(parse_url("x://"), Sample) == Sample()
    for text, flag in (("1", True), ("true", True), ("ON", True), ("0", False), ("no", False), ("False", False)):
        assert read_options(parse_url(f"x://?flag={text}"), Sample).flag is flag


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ("sise=5", "did you mean 'size'"),
        ("zzz=5", "it knows coalesce, flag, local_cache, name, ratio, size, timeout"),
        ("size=x", "whole number from 1 to 10"),
        ("size=1.5", "whole number"),
        ("size=0", "from 1 to 10"),
        ("size=11", "from 1 to 10"),
        ("size=", "whole number"),
        ("ratio=nan", "a number from 0 to 1"),
        ("ratio=inf", "a number"),
        ("flag=maybe", "switch"),
        ("flag=", "switch"),
        ("timeout=0", "timeout"),
        ("timeout=nan", "timeout"),
        ("timeout=3601", "timeout"),
        ("size=1&size=2", "given twice"),
    ],
)
def test_bad_options(query, match):
    """An option nobody knows, twice, or with a value it cannot take."""
    with pytest.raises(UnknownOption, match=match):
        read_options(parse_url(f"x://h?{query}"), Sample)
