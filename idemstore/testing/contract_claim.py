"""Rules 1 to 7 of ``claim``: who runs, who is told what, and what an answer must never change."""

from idemstore.machine import State
from idemstore.outcomes import Abandoned, Claimed, Completed, Failed, InFlight, LeaseLost, Mismatch
from idemstore.testing.contract_lab import Lab, claimed, done, expect, near


class ClaimContract:
    """What ``claim`` answers in every state of a record."""

    def test_first_claim_runs(self, lab: Lab) -> None:
        """An absent key is claimed: attempt 1, no checkpoint, a token and a fence."""
        claim = claimed(lab.store.claim(lab.key()))
        assert (claim.attempt, claim.checkpoint) == (1, None)
        assert claim.token
        assert claim.fence > 0

    def test_tokens_are_made_for_each_claim(self, lab: Lab) -> None:
        """No two claims share a token: 128 random bits each."""
        tokens = {claimed(lab.store.claim(lab.key())).token for _ in range(20)}
        assert len(tokens) == 20
        assert all(len(token) == 32 for token in tokens)

    def test_given_token_is_used(self, lab: Lab) -> None:
        """A caller may bring its own token."""
        assert claimed(lab.store.claim(lab.key(), token="my-token")).token == "my-token"

    def test_second_caller_is_told_to_wait(self, lab: Lab) -> None:
        """A running lease answers InFlight with the seconds left."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=60))
        busy = expect(InFlight, lab.store.claim(key, lease=5))
        assert near(busy.retry_after, 60)

    def test_busy_answer_counts_down(self, lab: Lab) -> None:
        """The seconds left shrink as the lease ages."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=60))
        lab.age(key, 40)
        assert near(expect(InFlight, lab.store.claim(key)).retry_after, 20)

    def test_busy_answer_writes_nothing(self, lab: Lab) -> None:
        """A caller that is told InFlight leaves no trace: not its lease, retention, fingerprint or token."""
        key = lab.key()
        claim = claimed(lab.store.claim(key, lease=60, retention=100))
        before = lab.store.get(key)
        expect(InFlight, lab.store.claim(key, lease=600, retention=1000, fingerprint=b"other", token="other"))
        after = lab.store.get(key)
        assert before is not None
        assert after is not None
        assert after.record == before.record
        assert after.record.token == claim.token

    def test_completed_key_replays(self, lab: Lab) -> None:
        """After completion every claim gets the result, byte for byte, as often as it asks."""
        key = lab.key()
        claim = claimed(lab.store.claim(key))
        done(lab.store.complete(key, claim.token, b"result \x00\xff\n"))
        for _ in range(3):
            assert lab.store.claim(key) == Completed(b"result \x00\xff\n")

    def test_replay_writes_nothing(self, lab: Lab) -> None:
        """A replay changes neither the record nor its end."""
        key = lab.key()
        claim = claimed(lab.store.claim(key))
        done(lab.store.complete(key, claim.token, b"r", retention=1000))
        before = lab.store.get(key)
        assert lab.store.claim(key, lease=600, retention=5000, fingerprint=b"new") == Completed(b"r")
        after = lab.store.get(key)
        assert before is not None
        assert after is not None
        assert after.record == before.record

    def test_replay_reaches_other_stores(self, lab: Lab) -> None:
        """A result stored by one store is replayed by another on the same URL."""
        key = lab.key()
        claim = claimed(lab.store.claim(key))
        done(lab.open().complete(key, claim.token, b"r"))
        assert lab.open().claim(key) == Completed(b"r")

    def test_cautious_claim_of_a_free_key_runs(self, lab: Lab) -> None:
        """takeover=False changes nothing for an absent key or one that runs."""
        key = lab.key()
        claimed(lab.store.claim(key, takeover=False))
        expect(InFlight, lab.store.claim(key, takeover=False))

    def test_same_token_claims_again(self, lab: Lab) -> None:
        """A claim that is re-sent while it runs gets the same answer, and nothing changes."""
        key = lab.key()
        first = claimed(lab.store.claim(key, token="mine", lease=60, retention=100))
        before = lab.store.get(key)
        lab.age(key, 10)
        assert lab.store.claim(key, token="mine", lease=600, retention=1000) == first
        after = lab.store.get(key)
        assert before is not None
        assert after is not None
        assert near(after.lease_left, 50)
        assert near(after.expires_in, 150)
        assert after.record.attempt == before.record.attempt

    def test_same_token_claims_again_after_its_lease(self, lab: Lab) -> None:
        """The owner's own claim, re-sent after the lease, is still the same claim, with its checkpoint."""
        key = lab.key()
        first = claimed(lab.store.claim(key, token="mine"))
        done(lab.store.renew(key, "mine", checkpoint=b"half"))
        lab.age(key, 100)
        for takeover in (True, False):
            again = claimed(lab.store.claim(key, token="mine", takeover=takeover))
            assert again == Claimed("mine", first.fence, 1, b"half")

    def test_takeover(self, lab: Lab) -> None:
        """After the lease the next caller takes over: attempt + 1, a greater fence, a token of its own."""
        key = lab.key()
        first = claimed(lab.store.claim(key))
        lab.age(key, 100)
        second = claimed(lab.store.claim(key))
        assert second.attempt == 2
        assert second.fence > first.fence
        assert second.token != first.token

    def test_takeover_has_a_lease_of_its_own(self, lab: Lab) -> None:
        """Who took over holds the key: the next caller waits, by the new lease and retention."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=30, retention=1000))
        lab.age(key, 100)
        claimed(lab.store.claim(key, lease=200, retention=3000))
        assert near(expect(InFlight, lab.store.claim(key)).retry_after, 200)
        found = lab.store.get(key)
        assert found is not None
        assert near(found.expires_in, 3200)

    def test_takeover_counts_on(self, lab: Lab) -> None:
        """Attempt and fence grow with every takeover."""
        key = lab.key()
        fences = []
        for attempt in range(1, 6):
            claim = claimed(lab.store.claim(key))
            assert claim.attempt == attempt
            fences.append(claim.fence)
            lab.age(key, 100)
        assert fences == sorted(set(fences))

    def test_takeover_gets_the_checkpoint(self, lab: Lab) -> None:
        """Who takes over gets what the last owner saved, and so does whoever takes over from it."""
        key = lab.key()
        first = claimed(lab.store.claim(key))
        done(lab.store.renew(key, first.token, checkpoint=b"page 7\x00"))
        for attempt in (2, 3):
            lab.age(key, 100)
            claim = claimed(lab.store.claim(key))
            assert (claim.attempt, claim.checkpoint) == (attempt, b"page 7\x00")

    def test_cautious_claim_gets_abandoned(self, lab: Lab) -> None:
        """takeover=False after the lease: Abandoned, with what the last owner left; nothing changes."""
        key = lab.key()
        first = claimed(lab.store.claim(key))
        done(lab.store.renew(key, first.token, checkpoint=b"half"))
        lab.age(key, 100)
        before = lab.store.get(key)
        for _ in range(2):
            found = expect(Abandoned, lab.store.claim(key, takeover=False))
            assert found == Abandoned(first.token, first.fence, 1, b"half")
        after = lab.store.get(key)
        assert before is not None
        assert after is not None
        assert after.record == before.record

    def test_abandoned_key_can_still_be_taken_over(self, lab: Lab) -> None:
        """One cautious caller does not stop a bold one."""
        key = lab.key()
        claimed(lab.store.claim(key))
        lab.age(key, 100)
        expect(Abandoned, lab.store.claim(key, takeover=False))
        assert claimed(lab.store.claim(key)).attempt == 2

    def test_abandoned_key_is_completed_under_its_token(self, lab: Lab) -> None:
        """Who found out what happened settles the record: with a result ..."""
        key = lab.key()
        claimed(lab.store.claim(key))
        lab.age(key, 100)
        found = expect(Abandoned, lab.store.claim(key, takeover=False))
        done(lab.store.complete(key, found.token, b"found out"))
        assert lab.store.claim(key, takeover=False) == Completed(b"found out")

    def test_abandoned_key_is_failed_under_its_token(self, lab: Lab) -> None:
        """... with a failure ..."""
        key = lab.key()
        claimed(lab.store.claim(key))
        lab.age(key, 100)
        found = expect(Abandoned, lab.store.claim(key, takeover=False))
        done(lab.store.fail(key, found.token, b"broken"))
        assert lab.store.claim(key, takeover=False) == Failed(b"broken")

    def test_abandoned_key_is_released_under_its_token(self, lab: Lab) -> None:
        """... or as if nothing had happened."""
        key = lab.key()
        first = claimed(lab.store.claim(key))
        lab.age(key, 100)
        found = expect(Abandoned, lab.store.claim(key, takeover=False))
        done(lab.store.release(key, found.token))
        again = claimed(lab.store.claim(key, takeover=False))
        assert again.attempt == 1
        assert again.fence > first.fence

    def test_settled_by_an_operator_the_old_owner_is_told(self, lab: Lab) -> None:
        """After an operator's settlement another result of the old owner is refused."""
        key = lab.key()
        owner = claimed(lab.store.claim(key))
        lab.age(key, 100)
        found = expect(Abandoned, lab.store.claim(key, takeover=False))
        done(lab.store.fail(key, found.token, b"by hand"))
        assert lab.store.complete(key, owner.token, b"late") == LeaseLost()
        assert lab.store.claim(key) == Failed(b"by hand")

    def test_crash_stays_visible_for_the_retention(self, lab: Lab) -> None:
        """An in-flight record outlives its lease by the retention: until then it is taken over, not begun anew."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=30, retention=1000))
        lab.age(key, 30 + 1000 - 20)
        found = lab.store.get(key)
        assert found is not None
        assert found.state is State.IN_FLIGHT
        assert found.lease_left is not None
        assert found.lease_left < 0
        assert claimed(lab.store.claim(key)).attempt == 2

    def test_crash_is_forgotten_after_the_retention(self, lab: Lab) -> None:
        """After lease and retention the key is absent: attempt 1, no checkpoint, any fingerprint, a greater fence."""
        key = lab.key()
        first = claimed(lab.store.claim(key, lease=30, retention=1000, fingerprint=b"a"))
        done(lab.store.renew(key, first.token, lease=30, checkpoint=b"half"))
        lab.age(key, 30 + 1000 + 20)
        assert lab.store.get(key) is None
        again = claimed(lab.store.claim(key, fingerprint=b"b", takeover=False))
        assert (again.attempt, again.checkpoint) == (1, None)
        assert again.fence > first.fence

    def test_crash_without_retention_stays_for_ever(self, lab: Lab) -> None:
        """retention=None keeps a crashed claim for good."""
        key = lab.key()
        claimed(lab.store.claim(key, retention=None))
        lab.age(key, 50 * 365 * 86400)
        assert claimed(lab.store.claim(key)).attempt == 2

    def test_fence_grows_across_lives(self, lab: Lab) -> None:
        """Release, forget and the end of retention start the attempts anew, but never the fence."""
        key = lab.key()
        fences = []
        for end in ("release", "forget", "expiry", "release", "forget"):
            claim = claimed(lab.store.claim(key, retention=100))
            assert claim.attempt == 1
            fences.append(claim.fence)
            if end == "release":
                done(lab.store.release(key, claim.token))
            elif end == "forget":
                assert lab.store.forget(key)
            else:
                lab.age(key, 200)
        assert fences == sorted(set(fences))

    def test_fence_is_the_servers_time(self, lab: Lab) -> None:
        """A first fence is the server's clock in microseconds."""
        before = lab.store.ping()
        fence = claimed(lab.store.claim(lab.key())).fence
        assert abs(fence - before) < 60 * 1_000_000

    def test_rule_order_expiry_before_mismatch(self, lab: Lab) -> None:
        """A record whose retention is over has no fingerprint to differ from."""
        key = lab.key()
        claim = claimed(lab.store.claim(key, fingerprint=b"a"))
        done(lab.store.complete(key, claim.token, b"r", retention=10))
        assert lab.store.claim(key, fingerprint=b"b") == Mismatch()
        lab.age(key, 20)
        claimed(lab.store.claim(key, fingerprint=b"b"))

    def test_rule_order_mismatch_before_token(self, lab: Lab) -> None:
        """Even the owner's token does not excuse another payload."""
        key = lab.key()
        claimed(lab.store.claim(key, fingerprint=b"a", token="mine"))
        assert lab.store.claim(key, fingerprint=b"b", token="mine") == Mismatch()
