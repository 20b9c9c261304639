"""Stale owners: whoever was replaced, in whatever way, is told ``LeaseLost`` and changes nothing."""

from idemstore.outcomes import LEASE_LOST, Completed, Failed
from idemstore.testing.contract_lab import Lab, claimed, done
from idemstore.testing.contract_settle import unchanged


class ZombieContract:
    """An owner that comes back after its successor came."""

    def test_after_takeover(self, lab: Lab) -> None:
        """The successor runs: nothing of the old owner succeeds."""
        key = lab.key()
        old = claimed(lab.store.claim(key)).token
        lab.age(key, 100)
        new = claimed(lab.store.claim(key)).token
        unchanged(lab, key, old)
        done(lab.store.complete(key, new, b"new"))
        assert lab.store.claim(key) == Completed(b"new")

    def test_after_the_successor_lapsed(self, lab: Lab) -> None:
        """Even when the successor's lease is over, too."""
        key = lab.key()
        old = claimed(lab.store.claim(key)).token
        lab.age(key, 100)
        claimed(lab.store.claim(key))
        lab.age(key, 100)
        unchanged(lab, key, old)

    def test_after_the_successor_completed(self, lab: Lab) -> None:
        """The successor's result stays, even if the old owner brings the same one."""
        key = lab.key()
        old = claimed(lab.store.claim(key)).token
        lab.age(key, 100)
        new = claimed(lab.store.claim(key)).token
        done(lab.store.complete(key, new, b"stale"))
        unchanged(lab, key, old)
        assert lab.store.claim(key) == Completed(b"stale")

    def test_after_the_successor_failed(self, lab: Lab) -> None:
        """The successor's failure stays, final or not."""
        for retry_after in (None, 0, 100):
            key = lab.key()
            old = claimed(lab.store.claim(key)).token
            lab.age(key, 100)
            new = claimed(lab.store.claim(key)).token
            done(lab.store.fail(key, new, b"stale", retry_after=retry_after))
            unchanged(lab, key, old)

    def test_after_a_retry(self, lab: Lab) -> None:
        """An owner that failed with a retry is a stranger to the next attempt."""
        key = lab.key()
        old = claimed(lab.store.claim(key)).token
        done(lab.store.fail(key, old, b"oops", retry_after=0))
        claimed(lab.store.claim(key))
        unchanged(lab, key, old)

    def test_after_release_and_a_new_claim(self, lab: Lab) -> None:
        """An owner that released is a stranger to whoever claims next; a repeated release takes nothing away."""
        key = lab.key()
        old = claimed(lab.store.claim(key)).token
        done(lab.store.release(key, old))
        claimed(lab.store.claim(key))
        unchanged(lab, key, old)

    def test_after_release(self, lab: Lab) -> None:
        """What was released cannot be completed, failed or renewed."""
        key = lab.key()
        old = claimed(lab.store.claim(key)).token
        done(lab.store.release(key, old))
        assert lab.store.complete(key, old, b"r") == LEASE_LOST
        assert lab.store.fail(key, old, b"r") == LEASE_LOST
        assert lab.store.renew(key, old) == LEASE_LOST
        assert lab.store.get(key) is None

    def test_after_forget(self, lab: Lab) -> None:
        """An operator's forget ends the claim."""
        key = lab.key()
        old = claimed(lab.store.claim(key)).token
        assert lab.store.forget(key)
        assert lab.store.complete(key, old, b"r") == LEASE_LOST
        assert lab.store.renew(key, old) == LEASE_LOST
        claimed(lab.store.claim(key))
        unchanged(lab, key, old)

    def test_after_the_end_of_retention(self, lab: Lab) -> None:
        """An owner whose record is over cannot revive it, even before anybody else came."""
        key = lab.key()
        old = claimed(lab.store.claim(key, lease=10, retention=50)).token
        lab.age(key, 100)
        assert lab.store.complete(key, old, b"r") == LEASE_LOST
        assert lab.store.fail(key, old, b"r") == LEASE_LOST
        assert lab.store.renew(key, old) == LEASE_LOST
        assert lab.store.get(key) is None
        claimed(lab.store.claim(key))
        unchanged(lab, key, old)

    def test_token_of_another_key(self, lab: Lab) -> None:
        """A token is good for its own key only."""
        one, two = lab.key(), lab.key()
        token = claimed(lab.store.claim(one)).token
        claimed(lab.store.claim(two))
        unchanged(lab, two, token)

    def test_tokens_that_look_alike(self, lab: Lab) -> None:
        """Tokens are compared byte for byte: case, prefix and trailing space count."""
        key = lab.key()
        claimed(lab.store.claim(key, token="Token"))
        for other in ("token", "Toke", "Token ", " Token", "Token%", "$Token"):
            unchanged(lab, key, other)

    def test_fences_order_owners(self, lab: Lab) -> None:
        """The zombie's fence is smaller than its successor's: a downstream system can refuse it."""
        key = lab.key()
        old = claimed(lab.store.claim(key))
        lab.age(key, 100)
        new = claimed(lab.store.claim(key))
        done(lab.store.fail(key, new.token, b"oops", retry_after=0))
        newest = claimed(lab.store.claim(key))
        assert old.fence < new.fence < newest.fence
        assert lab.store.complete(key, newest.token, b"r") != LEASE_LOST
        assert lab.store.claim(key) != Failed(b"oops")
