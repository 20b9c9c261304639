"""Keys, results and limits: what every store must take as it is, and what none may."""

import unicodedata
from collections.abc import Callable
from functools import partial
from typing import cast

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import binary, characters, text

from idemstore.errors import InvalidKey, ResultTooLarge
from idemstore.keys import KeyLike
from idemstore.outcomes import Completed
from idemstore.testing.blocking import Client
from idemstore.testing.contract_lab import Lab, claimed, done, raises

ODD = (
    "plain",
    "$set",
    "$",
    "a.b",
    ".",
    "..",
    "{slot}",
    "a{b}c",
    "'; --",
    '"',
    "\\",
    "\\x00",
    "%",
    "%00",
    "%3A",
    "/",
    "?",
    "#",
    "*",
    "[x]",
    "_",
    "\t",
    "\n",
    "\r\n",
    "\x01\x7f",
    "\u0085\u2028\ufeff",
    "ключ",
    "鍵",
    "🔑",
    "\U0010ffff",
    "\uffff",
    "null",
    "None",
    "true",
    "0",
    "-1",
    "1e5",
)
"""Parts of keys that mean something to some server, or nothing to any."""

BAD_KEYS: tuple[object, ...] = (
    "",
    ("",),
    ("scope", ""),
    ("", "key"),
    (),
    "nul\0",
    ("nul\0", "key"),
    "\ud800",
    "half\udfff",
    ("\ud83d", "\udd11"),
    b"bytes",
    5,
    None,
    ["scope", "key"],
    ("scope", 5),
    (("nested",), "key"),
)


def every_call(store: Client, key: KeyLike) -> list[Callable[[], object]]:
    """Everything that can be done to a key."""
    return [
        partial(store.claim, key),
        partial(store.claim, key, fingerprint=b"f", takeover=False),
        partial(store.claim, key, wait=5),
        partial(store.complete, key, "token", b"r"),
        partial(store.fail, key, "token", b"r", retry_after=0),
        partial(store.renew, key, "token", checkpoint=b"c"),
        partial(store.release, key, "token"),
        partial(store.get, key),
        partial(store.forget, key),
    ]


def distinct(lab: Lab, keys: list[KeyLike]) -> None:
    """Each of these keys is a key of its own: it is claimed, and replays its own result."""
    for number, key in enumerate(keys):
        token = claimed(lab.store.claim(key)).token
        done(lab.store.complete(key, token, b"%d" % number))
    for number, key in enumerate(keys):
        assert lab.store.claim(key) == Completed(b"%d" % number), key


class KeyContract:
    """What identifies a record."""

    def test_odd_keys(self, lab: Lab) -> None:
        """Any text is a key: at its start, at its end, alone in a scope or as one."""
        base = lab.key()
        distinct(lab, [odd + base for odd in ODD])
        distinct(lab, [base + odd for odd in ODD])
        distinct(lab, [(base, odd) for odd in ODD])
        distinct(lab, [(odd, base) for odd in ODD])

    def test_scope_and_key_never_run_together(self, lab: Lab) -> None:
        """("a:b", "c") is not ("a", "b:c"), however the parts are cut or look escaped."""
        base = lab.key()
        keys: list[KeyLike] = [
            (base, "a:b", "c"),
            (base, "a", "b:c"),
            (base, "a", "b", "c"),
            (base, "a:b:c"),
            (base, "a%3Ab", "c"),
            (base, "a", "b%3Ac"),
            (f"{base}:a", "b:c"),
            (f"{base}:a:b", "c"),
            f"{base}:a:b:c",
            (base, "a", ":b", "c"),
            (base, "a:", "b", "c"),
        ]
        distinct(lab, keys)

    def test_nothing_is_normalised(self, lab: Lab) -> None:
        """Case, spaces around, and combining forms make other keys."""
        base = lab.key()
        forms = [unicodedata.normalize(form, "Åﬁ①") for form in ("NFC", "NFD", "NFKC", "NFKD")]
        assert len(set(forms)) == 4
        words = ["key", "Key", "KEY", "key ", " key", "key\t", "key\n", "ss", "ß", "SS", "ı", "i", "İ", "I", *forms]
        distinct(lab, [(base, word) for word in words])
        distinct(lab, [base + word for word in words])

    def test_scopes_isolate(self, lab: Lab) -> None:
        """One scope's release or forget does not touch another's record."""
        key = lab.key()
        one = claimed(lab.store.claim(("one", key))).token
        two = claimed(lab.store.claim(("two", key))).token
        done(lab.store.release(("one", key), one))
        assert lab.store.forget(("one", key)) is False
        done(lab.store.complete(("two", key), two, b"two"))
        assert lab.store.get(("one", key)) is None

    def test_one_part_tuple_is_the_plain_key(self, lab: Lab) -> None:
        """A tuple of one part has no scope."""
        key = lab.key()
        token = claimed(lab.store.claim((key,))).token
        done(lab.store.complete(key, token, b"r"))

    def test_longest_key(self, lab: Lab) -> None:
        """A key may be as long as the limit says, in bytes; keys that differ at their end only are different."""
        size = lab.store.limits.key_bytes
        base = lab.key()
        room = size - len(base.encode())
        keys: list[KeyLike] = [base + "x" * room, base + "x" * (room - 1), base + "x" * (room - 1) + "y"]
        distinct(lab, keys)
        wide = base + "é" * (room // 2) + "x" * (room % 2)
        assert len(wide.encode()) == size
        distinct(lab, [wide])

    def test_key_over_the_limit(self, lab: Lab) -> None:
        """One byte more is refused before anything is sent, scope, escapes and all; the error shows no whole key."""
        store, faults = lab.faulty()
        size = store.limits.key_bytes
        over: list[KeyLike] = [
            "x" * (size + 1),
            "é" * (size // 2) + "xx",
            ("x" * (size - 1), "x"),
            ":" * (size // 3 + 1),
            "🔑" * size,
        ]
        for key in over:
            assert len(str(raises(InvalidKey, partial(store.claim, key)))) < 400
        assert faults.round_trips == 0

    def test_bad_keys(self, lab: Lab) -> None:
        """An empty key or part, NUL, a lone surrogate, no str at all: InvalidKey from every operation, nothing sent."""
        store, faults = lab.faulty()
        for bad in BAD_KEYS:
            for call in every_call(store, cast("KeyLike", bad)):
                raises(InvalidKey, call, bad)
        assert faults.round_trips == 0


TEXT = text(characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
RESULTS = (
    b"",
    b"\x00",
    bytes(range(256)),
    bytes(reversed(range(256))) * 3,
    b"$set",
    b"$$NOW",
    b'{"a.b": "$c"}',
    b"plain text",
    b" trailing space ",
    b"line\r\nend\n",
    b"\xff\xfe\xc3\x28\x80",
    b"null",
    b"0",
    b"1.50",
    "Ünïcode 🔑".encode(),
)


class ValueContract:
    """What is stored comes back byte for byte."""

    def test_results(self, lab: Lab) -> None:
        """Any bytes are a result, of a completion, a failure or a checkpoint, the empty ones included."""
        for result in RESULTS:
            key = lab.key()
            token = claimed(lab.store.claim(key)).token
            done(lab.store.renew(key, token, checkpoint=result))
            assert claimed(lab.store.claim(key, token=token)).checkpoint == result
            done(lab.store.complete(key, token, result))
            assert lab.store.claim(key) == Completed(result)
            done(lab.store.complete(key, token, result))

    def test_failures(self, lab: Lab) -> None:
        """... and of a failure, with the checkpoint beside it."""
        for result in RESULTS:
            key = lab.key()
            token = claimed(lab.store.claim(key)).token
            done(lab.store.renew(key, token, checkpoint=result))
            done(lab.store.fail(key, token, result, retry_after=0))
            found = lab.store.get(key)
            assert found is not None
            assert (found.record.result, found.record.checkpoint) == (result, result)
            assert claimed(lab.store.claim(key)).checkpoint == result

    def test_any_key_and_result(self, lab: Lab) -> None:
        """Whatever text and bytes Hypothesis thinks of: claimed once, and replayed as it was stored."""
        base = lab.key()
        stored: dict[KeyLike, bytes] = {}

        @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(TEXT, TEXT, binary(max_size=50))
        def check(scope: str, name: str, result: bytes) -> None:
            key = (base, scope, name)
            answer = lab.store.claim(key)
            if key not in stored:
                done(lab.store.complete(key, claimed(answer).token, result))
                stored[key] = result
            assert lab.store.claim(key) == Completed(stored[key])

        check()

    def test_large_result(self, lab: Lab) -> None:
        """A result of 1 MiB, and one around every power of two below."""
        block = bytes(range(256)) * 4096
        for size in (4095, 65537, 2**20):
            key = lab.key()
            token = claimed(lab.store.claim(key)).token
            done(lab.store.complete(key, token, block[:size]))
            answer = lab.store.claim(key)
            assert isinstance(answer, Completed)
            assert answer.result == block[:size], "the result came back changed"

    def test_large_checkpoint(self, lab: Lab) -> None:
        """A checkpoint may be as large as a result."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        block = bytes(range(256)) * 1024
        done(lab.store.renew(key, token, checkpoint=block))
        lab.age(key, 100)
        assert claimed(lab.store.claim(key)).checkpoint == block, "the checkpoint came back changed"

    def test_value_over_the_limit(self, lab: Lab) -> None:
        """A result or checkpoint over the limit is refused before it is sent; the claim still stands."""
        store, faults = lab.faulty()
        key = lab.key()
        token = claimed(store.claim(key)).token
        large = bytes(store.limits.value_bytes + 1)
        calls: list[Callable[[], object]] = [
            lambda: store.complete(key, token, large),
            lambda: store.fail(key, token, large),
            lambda: store.renew(key, token, checkpoint=large),
        ]
        for call in calls:
            assert str(len(large)) in str(raises(ResultTooLarge, call))
        assert faults.round_trips == 1
        done(store.complete(key, token, b"small"))

    def test_odd_tokens(self, lab: Lab) -> None:
        """Any printable ASCII is a token, of 1 to 128 characters."""
        for token in ("$", "$set", "a.b", "{}", "'", '"', "\\", " ", "%s", "0", "null", "x" * 128):
            key = lab.key()
            assert claimed(lab.store.claim(key, token=token)).token == token
            found = lab.store.get(key)
            assert found is not None
            assert found.record.token == token
            done(lab.store.renew(key, token))
            done(lab.store.complete(key, token, b"r"))

    def test_odd_fingerprints(self, lab: Lab) -> None:
        """Any 1 to 64 bytes are a fingerprint."""
        for fingerprint in (b"\x00", b"$", b".", b"\xff" * 64, bytes(32), b"text"):
            key = lab.key()
            claimed(lab.store.claim(key, fingerprint=fingerprint))
            found = lab.store.get(key)
            assert found is not None
            assert found.record.fingerprint == fingerprint
