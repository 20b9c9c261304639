"""``complete``, ``fail``, ``renew``, ``release``: what an owner may do, twice, late, and what a stale owner may not."""

from idemstore.machine import Complete, Event, Fail, Release, Renew, State
from idemstore.outcomes import DONE, LEASE_LOST, Completed, Failed, InFlight
from idemstore.testing.contract_lab import Lab, claimed, done, expect, near
from idemstore.testing.storm import perform

SECOND = 1_000_000


def settlements(token: str) -> list[Event]:
    """Everything that a token is good for."""
    return [
        Complete(token, b"stale", 60 * SECOND),
        Fail(token, b"stale", 60 * SECOND),
        Fail(token, b"stale", 60 * SECOND, 0),
        Renew(token, 500 * SECOND),
        Renew(token, 500 * SECOND, b"stale"),
        Release(token),
    ]


def unchanged(lab: Lab, key: str, token: str) -> None:
    """Nothing that ``token`` tries succeeds or leaves a trace."""
    before = lab.store.get(key)
    for event in settlements(token):
        assert perform(lab.store, key, event) == LEASE_LOST, event
        after = lab.store.get(key)
        assert (before and before.record) == (after and after.record), event


class SettleContract:
    """Ends of an execution."""

    def test_complete_is_repeatable(self, lab: Lab) -> None:
        """The same completion, delivered again and again, is done each time and changes nothing more."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.complete(key, token, b"r", retention=1000))
        first = lab.store.get(key)
        for retention in (1000, 5000, None):
            done(lab.store.complete(key, token, b"r", retention=retention))
        again = lab.store.get(key)
        assert first is not None
        assert again is not None
        assert again.record == first.record

    def test_other_result_under_a_spent_token(self, lab: Lab) -> None:
        """A second, different result is refused; the first one stays."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.complete(key, token, b"first"))
        for other in (b"second", b"", b"first\x00"):
            assert lab.store.complete(key, token, other) == LEASE_LOST
        assert lab.store.claim(key) == Completed(b"first")

    def test_completed_record_is_final(self, lab: Lab) -> None:
        """The token that completed a record can do nothing else to it."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.complete(key, token, b"r"))
        unchanged(lab, key, token)
        assert lab.store.claim(key) == Completed(b"r")

    def test_complete_clears_the_checkpoint(self, lab: Lab) -> None:
        """A completed record has a result and no checkpoint or lease."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.renew(key, token, checkpoint=b"half"))
        done(lab.store.complete(key, token, b"r"))
        found = lab.store.get(key)
        assert found is not None
        assert (found.state, found.record.result, found.record.checkpoint) == (State.COMPLETED, b"r", None)
        assert (found.lease_left, found.retry_in) == (None, None)

    def test_lapsed_owner_still_completes(self, lab: Lab) -> None:
        """The token decides, never the clock: an owner that lapsed and was not replaced completes."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        lab.age(key, 1000)
        done(lab.store.complete(key, token, b"late"))
        assert lab.store.claim(key) == Completed(b"late")

    def test_lapsed_owner_still_fails(self, lab: Lab) -> None:
        """... or fails ..."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        lab.age(key, 1000)
        done(lab.store.fail(key, token, b"late"))
        assert lab.store.claim(key) == Failed(b"late")

    def test_lapsed_owner_still_renews(self, lab: Lab) -> None:
        """... or renews, and then holds a running lease again ..."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        lab.age(key, 1000)
        done(lab.store.renew(key, token, lease=60))
        assert near(expect(InFlight, lab.store.claim(key)).retry_after, 60)

    def test_lapsed_owner_still_releases(self, lab: Lab) -> None:
        """... or releases."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        lab.age(key, 1000)
        done(lab.store.release(key, token))
        assert claimed(lab.store.claim(key)).attempt == 1

    def test_retention_of_a_result(self, lab: Lab) -> None:
        """A result is replayed until its retention is over; then the key is absent, and its old token is worthless."""
        key = lab.key()
        first = claimed(lab.store.claim(key))
        done(lab.store.complete(key, first.token, b"r", retention=1000))
        lab.age(key, 980)
        assert lab.store.claim(key) == Completed(b"r")
        lab.age(key, 40)
        assert lab.store.get(key) is None
        assert lab.store.complete(key, first.token, b"r") == LEASE_LOST
        again = claimed(lab.store.claim(key))
        assert again.attempt == 1
        assert again.fence > first.fence

    def test_retention_counts_from_completion(self, lab: Lab) -> None:
        """The retention of a result is the one given to ``complete``, not the claim's."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=10, retention=50)).token
        done(lab.store.complete(key, token, b"r", retention=5000))
        found = lab.store.get(key)
        assert found is not None
        assert near(found.expires_in, 5000)
        lab.age(key, 4000)
        assert lab.store.claim(key) == Completed(b"r")

    def test_shorter_retention_than_the_claims(self, lab: Lab) -> None:
        """A result may also be kept more briefly than its claim would have been."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=10, retention=5000)).token
        done(lab.store.complete(key, token, b"r", retention=50))
        lab.age(key, 100)
        assert claimed(lab.store.claim(key)).attempt == 1

    def test_kept_for_ever(self, lab: Lab) -> None:
        """retention=None keeps a result for good, whatever the claim's retention was."""
        key = lab.key()
        token = claimed(lab.store.claim(key, retention=100)).token
        done(lab.store.complete(key, token, b"r", retention=None))
        lab.age(key, 50 * 365 * 86400)
        assert lab.store.claim(key) == Completed(b"r")
        found = lab.store.get(key)
        assert found is not None
        assert found.expires_in is None

    def test_no_longer_kept_for_ever(self, lab: Lab) -> None:
        """A claim without end may have a result with one."""
        key = lab.key()
        token = claimed(lab.store.claim(key, retention=None)).token
        done(lab.store.complete(key, token, b"r", retention=100))
        lab.age(key, 200)
        claimed(lab.store.claim(key))

    def test_final_failure(self, lab: Lab) -> None:
        """A failure without retry is replayed for its retention, also to cautious callers."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.fail(key, token, b"no\x00", retention=1000))
        for takeover in (True, False):
            assert lab.store.claim(key, takeover=takeover) == Failed(b"no\x00", None)
        lab.age(key, 1020)
        assert claimed(lab.store.claim(key)).attempt == 1

    def test_failure_kept_for_ever(self, lab: Lab) -> None:
        """A failure may be kept for good."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.fail(key, token, b"no", retention=None))
        lab.age(key, 50 * 365 * 86400)
        assert lab.store.claim(key) == Failed(b"no")

    def test_retry_at_once(self, lab: Lab) -> None:
        """retry_after=0: the next claim runs, attempt + 1, with the checkpoint."""
        key = lab.key()
        first = claimed(lab.store.claim(key))
        done(lab.store.renew(key, first.token, checkpoint=b"half"))
        done(lab.store.fail(key, first.token, b"oops", retry_after=0))
        second = claimed(lab.store.claim(key, takeover=False))
        assert (second.attempt, second.checkpoint) == (2, b"half")
        assert second.fence > first.fence

    def test_back_off(self, lab: Lab) -> None:
        """A positive retry_after: the failure is replayed with the seconds left, then the next claim runs."""
        key = lab.key()
        first = claimed(lab.store.claim(key))
        done(lab.store.renew(key, first.token, checkpoint=b"half"))
        done(lab.store.fail(key, first.token, b"oops", retention=1000, retry_after=100))
        for left in (100, 60):
            failed = expect(Failed, lab.store.claim(key))
            assert failed.result == b"oops"
            assert near(failed.retry_after, left)
            lab.age(key, 40)
        lab.age(key, 40)
        second = claimed(lab.store.claim(key))
        assert (second.attempt, second.checkpoint) == (2, b"half")
        assert second.fence > first.fence

    def test_back_off_ends_before_retention(self, lab: Lab) -> None:
        """A failure that may be retried counts as absent after its retention: attempt 1 again."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.fail(key, token, b"oops", retention=1000, retry_after=1000))
        lab.age(key, 1020)
        assert claimed(lab.store.claim(key)).attempt == 1

    def test_fail_is_repeatable(self, lab: Lab) -> None:
        """The same failure, delivered again, is done and changes nothing: its back-off does not start anew."""
        for retry_after in (None, 0, 100):
            key = lab.key()
            token = claimed(lab.store.claim(key)).token
            done(lab.store.fail(key, token, b"oops", retention=1000, retry_after=retry_after))
            first = lab.store.get(key)
            done(lab.store.fail(key, token, b"oops", retention=1000, retry_after=retry_after))
            again = lab.store.get(key)
            assert first is not None
            assert again is not None
            assert again.record == first.record

    def test_other_failure_under_a_spent_token(self, lab: Lab) -> None:
        """Another failure, or a final one for one that may be retried, is refused."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.fail(key, token, b"oops", retry_after=100))
        assert lab.store.fail(key, token, b"other", retry_after=100) == LEASE_LOST
        assert lab.store.fail(key, token, b"oops") == LEASE_LOST
        assert lab.store.complete(key, token, b"oops") == LEASE_LOST
        assert expect(Failed, lab.store.claim(key)).result == b"oops"

    def test_failed_record_is_final(self, lab: Lab) -> None:
        """The token that failed a record can do nothing else to it, whether it may be retried or not."""
        for retry_after in (None, 0, 100):
            key = lab.key()
            token = claimed(lab.store.claim(key)).token
            done(lab.store.fail(key, token, b"oops", retry_after=retry_after))
            unchanged(lab, key, token)

    def test_renew_moves_the_lease(self, lab: Lab) -> None:
        """A renewal counts the lease from now, and moves the end of retention with it."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=60, retention=1000)).token
        lab.age(key, 50)
        done(lab.store.renew(key, token, lease=300))
        assert near(expect(InFlight, lab.store.claim(key)).retry_after, 300)
        found = lab.store.get(key)
        assert found is not None
        assert near(found.expires_in, 1300)

    def test_renew_may_shorten_the_lease(self, lab: Lab) -> None:
        """The new lease counts even where the old one was longer; the retention behind it stays the same."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=500, retention=1000)).token
        done(lab.store.renew(key, token, lease=50))
        found = lab.store.get(key)
        assert found is not None
        assert near(found.lease_left, 50)
        assert near(found.expires_in, 1050)
        lab.age(key, 70)
        assert claimed(lab.store.claim(key)).attempt == 2

    def test_renew_without_end_stays_without_end(self, lab: Lab) -> None:
        """A claim that is kept for ever has no end after a renewal either."""
        key = lab.key()
        token = claimed(lab.store.claim(key, retention=None)).token
        done(lab.store.renew(key, token))
        found = lab.store.get(key)
        assert found is not None
        assert found.expires_in is None

    def test_renew_is_repeatable(self, lab: Lab) -> None:
        """A renewal that is delivered twice is done twice; attempt, fence and token stay."""
        key = lab.key()
        claim = claimed(lab.store.claim(key))
        for _ in range(3):
            done(lab.store.renew(key, claim.token, lease=60, checkpoint=b"half"))
        found = lab.store.get(key)
        assert found is not None
        record = found.record
        assert (record.attempt, record.fence, record.token, record.checkpoint) == (1, claim.fence, claim.token, b"half")

    def test_checkpoint_is_kept_or_replaced(self, lab: Lab) -> None:
        """A renewal without checkpoint keeps the last one; another replaces it, the empty one included."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        for given, kept in ((b"one", b"one"), (None, b"one"), (b"two", b"two"), (b"", b""), (None, b"")):
            done(lab.store.renew(key, token, checkpoint=given))
            assert claimed(lab.store.claim(key, token=token)).checkpoint == kept

    def test_release_frees_the_key(self, lab: Lab) -> None:
        """A released key is as if never claimed: attempt 1, no checkpoint, any fingerprint; only the fence grows."""
        key = lab.key()
        first = claimed(lab.store.claim(key, fingerprint=b"a"))
        done(lab.store.renew(key, first.token, checkpoint=b"half"))
        done(lab.store.release(key, first.token))
        assert lab.store.get(key) is None
        again = claimed(lab.store.claim(key, fingerprint=b"b"))
        assert (again.attempt, again.checkpoint) == (1, None)
        assert again.fence > first.fence
        assert again.token != first.token

    def test_release_is_repeatable(self, lab: Lab) -> None:
        """Releasing an absent key is done: it may be the second delivery of the same release."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        for _ in range(3):
            done(lab.store.release(key, token))
        done(lab.store.release(lab.key(), "never-claimed"))

    def test_absent_key_has_no_owner(self, lab: Lab) -> None:
        """On an absent key only a release is done; nothing comes into being."""
        key = lab.key()
        for event in settlements("nobody"):
            assert perform(lab.store, key, event) == (DONE if isinstance(event, Release) else LEASE_LOST)
        assert lab.store.get(key) is None

    def test_stranger_changes_nothing(self, lab: Lab) -> None:
        """A token that never owned the key can do nothing to it, running or lapsed."""
        key = lab.key()
        claimed(lab.store.claim(key))
        unchanged(lab, key, "stranger")
        lab.age(key, 100)
        unchanged(lab, key, "stranger")
