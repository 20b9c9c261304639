"""Bad arguments and damaged records: one documented error each, nothing sent or overwritten."""

import math
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import cast

import pytest

from idemstore.checks import CENTURY, MAX_PURGE, MAX_TOKEN
from idemstore.errors import CorruptRecord, IdemstoreError, InvalidInput
from idemstore.outcomes import Claimed
from idemstore.testing.contract_input import every_call
from idemstore.testing.contract_lab import Lab, claimed, done, raises

BAD_DURATIONS: tuple[object, ...] = (
    0,
    0.0,
    -1,
    -0.001,
    1e-9,
    math.nan,
    math.inf,
    -math.inf,
    CENTURY + 1,
    10**400,
    1e308,
    True,
    False,
    timedelta(0),
    timedelta(seconds=-1),
    timedelta(days=36526),
    timedelta.max,
    "30",
    b"30",
    Decimal(30),
    [30],
)
BAD_TOKENS: tuple[object, ...] = ("", "\0", "é", "line\n", "x" * (MAX_TOKEN + 1), b"token", 5, "\ud800")
BAD_FINGERPRINTS: tuple[object, ...] = (b"", bytes(65), "text", bytearray(b"x"), 5)
BAD_VALUES: tuple[object, ...] = ("text", None, bytearray(b"x"), memoryview(b"x"), 5, [b"x"])


class RefusalContract:
    """What is refused at the door."""

    def test_bad_leases(self, lab: Lab) -> None:
        """Zero, negative, NaN, infinite, over a century, bool, no number: not a lease, of a claim or a renewal."""
        store, faults = lab.faulty()
        for bad in (*BAD_DURATIONS, None):
            lease = cast("float", bad)
            raises(InvalidInput, partial(store.claim, lab.key(), lease=lease), bad)
            raises(InvalidInput, partial(store.renew, lab.key(), "token", lease=lease), bad)
        assert faults.round_trips == 0

    def test_bad_retentions(self, lab: Lab) -> None:
        """Nor a retention, of a claim, a completion or a failure."""
        store, faults = lab.faulty()
        for bad in BAD_DURATIONS:
            kept = cast("float", bad)
            raises(InvalidInput, partial(store.claim, lab.key(), retention=kept), bad)
            raises(InvalidInput, partial(store.complete, lab.key(), "token", b"r", retention=kept), bad)
            raises(InvalidInput, partial(store.fail, lab.key(), "token", b"r", retention=kept), bad)
        assert faults.round_trips == 0

    def test_bad_back_offs(self, lab: Lab) -> None:
        """Nor a back-off, except 0; and one beyond the retention would never come."""
        store, faults = lab.faulty()
        for bad in BAD_DURATIONS:
            if isinstance(bad, bool) or bad not in (0, timedelta(0)):
                wait = cast("float", bad)
                raises(InvalidInput, partial(store.fail, lab.key(), "t", b"r", retention=None, retry_after=wait), bad)
        raises(
            InvalidInput, lambda: store.fail(lab.key(), "token", b"r", retention=10, retry_after=11), "beyond retention"
        )
        assert faults.round_trips == 0

    def test_bad_waits(self, lab: Lab) -> None:
        """A waiter waits from 0 seconds to a day."""
        store, faults = lab.faulty()
        for bad in (-1, math.nan, math.inf, True, 86401, "1", timedelta(days=2), timedelta(seconds=-1)):
            wait = cast("float", bad)
            raises(InvalidInput, partial(store.claim, lab.key(), wait=wait), bad)
        assert faults.round_trips == 0

    def test_bad_tokens(self, lab: Lab) -> None:
        """A token is printable ASCII, from every caller."""
        store, faults = lab.faulty()
        for bad in BAD_TOKENS:
            token = cast("str", bad)
            raises(InvalidInput, partial(store.claim, lab.key(), token=token), bad)
        for bad in (*BAD_TOKENS, None):
            token = cast("str", bad)
            raises(InvalidInput, partial(store.complete, lab.key(), token, b"r"), bad)
            raises(InvalidInput, partial(store.fail, lab.key(), token, b"r"), bad)
            raises(InvalidInput, partial(store.renew, lab.key(), token), bad)
            raises(InvalidInput, partial(store.release, lab.key(), token), bad)
        assert faults.round_trips == 0

    def test_bad_fingerprints(self, lab: Lab) -> None:
        """A fingerprint is 1 to 64 bytes."""
        store, faults = lab.faulty()
        for bad in BAD_FINGERPRINTS:
            digest = cast("bytes", bad)
            raises(InvalidInput, partial(store.claim, lab.key(), fingerprint=digest), bad)
        assert faults.round_trips == 0

    def test_bad_values(self, lab: Lab) -> None:
        """Results and checkpoints are bytes."""
        store, faults = lab.faulty()
        for bad in BAD_VALUES:
            value = cast("bytes", bad)
            raises(InvalidInput, partial(store.complete, lab.key(), "token", value), bad)
            raises(InvalidInput, partial(store.fail, lab.key(), "token", value), bad)
            if value is not None:
                raises(InvalidInput, partial(store.renew, lab.key(), "token", checkpoint=value), bad)
        assert faults.round_trips == 0

    def test_bad_limits(self, lab: Lab) -> None:
        """A purge takes a whole number from 1."""
        store, faults = lab.faulty()
        for bad in (0, -1, True, 1.5, MAX_PURGE + 1, "10", None):
            limit = cast("int", bad)
            raises(InvalidInput, partial(store.purge, limit), bad)
        assert faults.round_trips == 0

    def test_bad_input_leaves_a_claim_alone(self, lab: Lab) -> None:
        """A refused call on a live claim changes nothing: the owner goes on."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        before = lab.store.get(key)
        raises(InvalidInput, lambda: lab.store.renew(key, token, lease=0), 0)
        raises(InvalidInput, lambda: lab.store.complete(key, token, "text"), "text")  # type: ignore[arg-type]
        raises(InvalidInput, lambda: lab.store.claim(key, fingerprint=b""), b"")
        after = lab.store.get(key)
        assert before is not None
        assert after is not None
        assert after.record == before.record
        done(lab.store.complete(key, token, b"r"))

    def test_longest_durations(self, lab: Lab) -> None:
        """A century is a lease, a retention and a back-off; so is a millisecond, and so are timedeltas."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=CENTURY, retention=CENTURY)).token
        done(lab.store.renew(key, token, lease=timedelta(seconds=CENTURY)))
        done(lab.store.fail(key, token, b"r", retention=timedelta(days=36525), retry_after=CENTURY))
        found = lab.store.get(key)
        assert found is not None
        assert found.retry_in is not None
        assert found.retry_in > CENTURY - 60
        key = lab.key()
        claimed(lab.store.claim(key, lease=0.001, retention=0.001))
        lab.age(key, 30)
        claimed(lab.store.claim(key, lease=timedelta(milliseconds=1)))


def damaged(lab: Lab, *, used: bool) -> str:
    """A key under which something lies that is not a record of ours."""
    key = lab.key("damaged")
    if used:
        claimed(lab.store.claim(key))
    try:
        lab.damage(key)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    return key


class DamageContract:
    """A damaged record is an error, never an absent key."""

    def test_damaged_record(self, lab: Lab) -> None:
        """Every operation raises CorruptRecord, as often as it is asked; nothing is overwritten."""
        for used in (False, True):
            key = damaged(lab, used=used)
            calls = every_call(lab.store, key)[:-1]
            for call in calls * 2:
                assert key not in str(raises(CorruptRecord, call)), "the error shows the whole key"
            assert lab.exists(key)

    def test_forget_heals(self, lab: Lab) -> None:
        """An operator who looked at it forgets it; then the key is free."""
        key = damaged(lab, used=True)
        assert lab.store.forget(key)
        assert claimed(lab.store.claim(key)).attempt == 1

    def test_damaged_item_of_a_batch(self, lab: Lab) -> None:
        """In a batch the damage stays with its item."""
        key, sound = damaged(lab, used=True), lab.key()
        first, second = lab.store.claim_many([key, sound])
        assert isinstance(first, CorruptRecord)
        assert isinstance(second, Claimed)
        answers = lab.store.complete_many([(key, "token", b"r"), (sound, second.token, b"r")])
        assert isinstance(answers[0], CorruptRecord)
        done(answers[1])

    def test_purge_leaves_damage(self, lab: Lab) -> None:
        """A purge does not take what it cannot read."""
        key = damaged(lab, used=True)
        try:
            lab.store.purge()
        except IdemstoreError as error:
            raise AssertionError("a damaged record stops the purge of all others") from error
        assert lab.exists(key)
