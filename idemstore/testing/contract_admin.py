"""``get``, ``forget``, ``purge``, ``ping``, ``migrate`` and the batch forms."""

from collections.abc import Sequence
from functools import partial

from idemstore.errors import InvalidInput, InvalidKey, ResultTooLarge, StoreClosed
from idemstore.keys import KeyLike
from idemstore.machine import State
from idemstore.outcomes import LEASE_LOST, Claimed, Completed, Done, InFlight, Mismatch
from idemstore.testing.contract_lab import Lab, claimed, done, expect, near, raises


class AdminContract:
    """What operators use."""

    def test_get_shows_the_record(self, lab: Lab) -> None:
        """A look at each state: all fields, and the times left."""
        key = lab.key()
        assert lab.store.get(key) is None
        claim = claimed(lab.store.claim(key, lease=60, retention=1000, fingerprint=b"f"))
        found = lab.store.get(key)
        assert found is not None
        record = found.record
        assert (record.state, record.token, record.fence) == (State.IN_FLIGHT, claim.token, claim.fence)
        assert (record.attempt, record.fingerprint, record.result, record.checkpoint) == (1, b"f", None, None)
        assert near(found.lease_left, 60)
        assert near(found.expires_in, 1060)
        assert found.retry_in is None
        done(lab.store.fail(key, claim.token, b"no", retention=500, retry_after=50))
        found = lab.store.get(key)
        assert found is not None
        assert (found.state, found.record.result, found.lease_left) == (State.FAILED, b"no", None)
        assert near(found.retry_in, 50)
        assert near(found.expires_in, 500)

    def test_get_changes_nothing(self, lab: Lab) -> None:
        """A look is not a claim."""
        key = lab.key()
        assert lab.store.get(key) is None
        claimed(lab.store.claim(key))
        first, second = lab.store.get(key), lab.store.get(key)
        assert first is not None
        assert second is not None
        assert first.record == second.record

    def test_snapshot_hides_secrets(self, lab: Lab) -> None:
        """No token, result or checkpoint in a repr: it may be logged."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.renew(key, token, checkpoint=b"checkpoint-bytes"))
        done(lab.store.fail(key, token, b"result-bytes"))
        text = repr(lab.store.get(key))
        assert token not in text
        assert "result-bytes" not in text
        assert "checkpoint-bytes" not in text

    def test_forget(self, lab: Lab) -> None:
        """A forgotten record is gone, whatever its state was; True says that there was one."""
        for end in ("running", "completed", "failed"):
            key = lab.key()
            assert lab.store.forget(key) is False
            token = claimed(lab.store.claim(key, fingerprint=b"a")).token
            if end == "completed":
                done(lab.store.complete(key, token, b"r"))
            elif end == "failed":
                done(lab.store.fail(key, token, b"r"))
            assert lab.store.forget(key) is True
            assert lab.store.forget(key) is False
            assert lab.store.get(key) is None
            assert claimed(lab.store.claim(key, fingerprint=b"b")).attempt == 1

    def test_purge_takes_the_expired_only(self, lab: Lab) -> None:
        """Expired records of every kind go; live ones of every kind stay, each by its own end."""
        expired, live = self._expired(lab), self._live(lab)
        before = [lab.store.get(key) for key in live]
        for _ in range(10_000):
            if lab.store.purge(1000) == 0:
                break
        assert not any(lab.exists(key) for key in expired)
        after = [lab.store.get(key) for key in live]
        assert all(found is not None for found in before)
        assert [found and found.record for found in after] == [found and found.record for found in before]

    def _expired(self, lab: Lab) -> list[str]:
        """Records whose retention is over: a crash, a result, a failure; and a renewed claim that ended at last."""
        keys = [lab.key("expired") for _ in range(4)]
        tokens = [claimed(lab.store.claim(key, lease=10, retention=50)).token for key in keys]
        done(lab.store.complete(keys[1], tokens[1], b"r", retention=50))
        done(lab.store.fail(keys[2], tokens[2], b"r", retention=50, retry_after=10))
        done(lab.store.renew(keys[3], tokens[3], lease=20))
        for key in keys:
            lab.age(key, 100)
        return keys

    def _live(self, lab: Lab) -> list[str]:
        """Records that stay: running, renewed, lapsed, for ever, a long result after a short claim, a retry to come."""
        keys = [lab.key("live") for _ in range(7)]
        tokens = [claimed(lab.store.claim(key, lease=10, retention=150)).token for key in keys[:6]]
        done(lab.store.renew(keys[1], tokens[1], lease=1000))
        done(lab.store.complete(keys[2], tokens[2], b"r", retention=1000))
        done(lab.store.complete(keys[3], tokens[3], b"r", retention=None))
        done(lab.store.fail(keys[4], tokens[4], b"r", retention=1000, retry_after=500))
        done(lab.store.fail(keys[5], tokens[5], b"r", retention=None, retry_after=0))
        claimed(lab.store.claim(keys[6], lease=10, retention=None))
        for key in keys:
            lab.age(key, 100)
        return keys

    def test_purge_is_bounded(self, lab: Lab) -> None:
        """One purge deletes no more than its limit."""
        keys = [lab.key("expired") for _ in range(7)]
        for key in keys:
            claimed(lab.store.claim(key, lease=10, retention=50))
        for key in keys:
            lab.age(key, 100)
        there = sum(lab.exists(key) for key in keys)
        gone = lab.store.purge(3)
        assert gone <= 3
        assert there - sum(lab.exists(key) for key in keys) <= 3

    def test_purged_key_starts_anew(self, lab: Lab) -> None:
        """After a purge the key is free; its fence still grows."""
        key = lab.key()
        first = claimed(lab.store.claim(key, lease=10, retention=50))
        lab.age(key, 100)
        lab.store.purge()
        again = claimed(lab.store.claim(key))
        assert again.attempt == 1
        assert again.fence > first.fence

    def test_ping_is_the_servers_clock(self, lab: Lab) -> None:
        """Microseconds since the epoch, and it goes on."""
        first, second = lab.store.ping(), lab.store.ping()
        assert 1_600_000_000_000_000 < first <= second < first + 60_000_000

    def test_migrate_may_be_repeated(self, lab: Lab) -> None:
        """Preparing a server twice changes nothing that is stored."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        for _ in range(2):
            lab.store.migrate()
        done(lab.store.complete(key, token, b"r"))

    def test_closed_store_says_so(self, lab: Lab) -> None:
        """A closed store raises StoreClosed; closing twice is fine; others on the same records go on."""
        for used in (False, True):
            store = lab.open()
            if used:
                store.ping()
            store.close()
            store.close()
            raises(StoreClosed, partial(store.claim, lab.key()))
        lab.store.ping()


class BatchContract:
    """``claim_many`` and ``complete_many``: one answer per item, in order."""

    def many(self, lab: Lab) -> int:
        """How many keys are a big batch: more than one request takes, unless the server is slow."""
        return 620

    def test_many(self, lab: Lab) -> None:
        """A big batch: all claimed, told to wait, completed, replayed, each with its own answer in its place."""
        keys = [lab.key("many") for _ in range(self.many(lab))]
        claims = [claimed(self._sound(answer)) for answer in lab.store.claim_many(keys)]
        assert len({claim.token for claim in claims}) == len(keys)
        busy = lab.store.claim_many(keys[:5])
        assert all(isinstance(answer, InFlight) for answer in busy)
        items = [(key, claim.token, f"{n}".encode()) for n, (key, claim) in enumerate(zip(keys, claims, strict=True))]
        assert lab.store.complete_many(items) == [Done()] * len(keys)
        assert lab.store.claim_many(keys) == [Completed(f"{n}".encode()) for n in range(len(keys))]

    def _sound(self, answer: object) -> Claimed:
        """An item that went well."""
        return expect(Claimed, answer)

    def test_empty_batches(self, lab: Lab) -> None:
        """Nothing asked, nothing answered."""
        assert lab.store.claim_many([]) == []
        assert lab.store.complete_many([]) == []

    def test_same_key_twice(self, lab: Lab) -> None:
        """A key that occurs several times in a batch is claimed once."""
        key, other = lab.key(), lab.key()
        answers = lab.store.claim_many([key, other, key, key])
        assert sum(isinstance(answer, Claimed) for answer in answers) == 2
        assert sum(isinstance(answer, InFlight) for answer in answers) == 2
        assert isinstance(answers[1], Claimed)

    def test_same_completion_twice(self, lab: Lab) -> None:
        """A completion that occurs twice in a batch is done twice; another result for the key is refused."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        assert lab.store.complete_many([(key, token, b"r"), (key, token, b"r")]) == [Done(), Done()]
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        answers = lab.store.complete_many([(key, token, b"one"), (key, token, b"two")])
        assert answers in ([Done(), LEASE_LOST], [LEASE_LOST, Done()])
        assert lab.store.claim(key) == Completed(b"one" if answers[0] == Done() else b"two")

    def test_bad_items_leave_their_neighbours_alone(self, lab: Lab) -> None:
        """Every bad item has its own error; every good one its outcome."""
        good = [lab.key() for _ in range(4)]
        keys: Sequence[KeyLike] = [
            good[0],
            "",
            good[1],
            ("scope", "nul\0"),
            "x" * (lab.store.limits.key_bytes + 1),
            good[2],
            "\ud800",
            good[3],
        ]
        answers = lab.store.claim_many(keys)
        assert [isinstance(answer, InvalidKey) for answer in answers] == [key not in good for key in keys]
        claims = [answer for answer in answers if isinstance(answer, Claimed)]
        assert len(claims) == 4
        large = bytes(lab.store.limits.value_bytes + 1)
        results = lab.store.complete_many(
            [
                (good[0], claims[0].token, b"0"),
                ("", "token", b"r"),
                (good[1], "", b"r"),
                (good[1], claims[1].token, large),
                (good[1], "stranger", b"r"),
                (good[3], claims[3].token, b"3"),
            ]
        )
        assert (results[0], results[4], results[5]) == (Done(), LEASE_LOST, Done())
        assert isinstance(results[1], InvalidKey)
        assert isinstance(results[2], InvalidInput)
        assert isinstance(results[3], ResultTooLarge)
        assert lab.store.claim(good[3]) == Completed(b"3")
        expect(InFlight, lab.store.claim(good[1]))

    def test_bad_arguments_of_a_batch(self, lab: Lab) -> None:
        """A bad lease, or fingerprints that do not match the keys in number, store nothing."""
        key = lab.key()
        for lease in (0, float("nan"), -1):
            assert all(isinstance(answer, InvalidInput) for answer in lab.store.claim_many([key], lease=lease))
        raises(InvalidInput, lambda: lab.store.claim_many([key], fingerprints=[b"a", b"b"]))
        assert lab.store.get(key) is None

    def test_batch_arguments(self, lab: Lab) -> None:
        """Fingerprints belong to their keys; lease, retention and takeover are those of a single claim."""
        one, two = lab.key(), lab.key()
        answers = lab.store.claim_many([one, two], fingerprints=[b"1", None], lease=60, retention=100)
        assert all(isinstance(answer, Claimed) for answer in answers)
        assert lab.store.claim_many([one, two], fingerprints=[b"2", b"2"])[0] == Mismatch()
        found = lab.store.get(one)
        assert found is not None
        assert near(found.lease_left, 60)
        assert near(found.expires_in, 160)
        lab.age(one, 100)
        lab.age(two, 200)
        careful = lab.store.claim_many([one, two], takeover=False)
        assert [type(answer).__name__ for answer in careful] == ["Abandoned", "Claimed"]
        assert [expect(Claimed, answer).attempt for answer in lab.store.claim_many([one], takeover=True)] == [2]

    def test_batch_goes_out_together(self, lab: Lab) -> None:
        """A batch is one trip to the driver, not one per key."""
        store, faults = lab.faulty()
        keys = [lab.key() for _ in range(50)]
        store.claim_many(keys)
        before = faults.round_trips
        store.claim_many(keys)
        assert faults.round_trips - before == 1


class TripContract:
    """One operation, one round trip."""

    def test_one_round_trip_each(self, lab: Lab) -> None:
        """Claim, busy answer, renewal, completion, replay, look and release each take one trip to the driver."""
        store, faults = lab.faulty()
        store.ping()
        store.release(lab.key(), "warm-up")
        key, other = lab.key(), lab.key()
        before = faults.round_trips
        token = claimed(store.claim(key, fingerprint=b"f")).token
        store.claim(key)
        store.renew(key, token)
        store.complete(key, token, b"r")
        store.claim(key, wait=5)
        store.get(key)
        store.release(other, "token")
        assert faults.round_trips - before == 7
