"""Lost replies: the server applied the call, and the client, or its caller, sends it again.

Nobody is told ``InFlight`` about itself, or ``LeaseLost`` about its own completion.
"""

from collections.abc import Callable
from functools import partial

from idemstore.errors import StoreUnavailable
from idemstore.outcomes import LEASE_LOST, Claimed, Completed, Done, Failed, InFlight
from idemstore.testing.blocking import Client
from idemstore.testing.contract_lab import Lab, claimed, done, expect, raises
from idemstore.testing.faults import Faults

SETTLE: dict[str, Callable[[Client, str], object]] = {
    "complete": lambda store, key: store.complete(key, "owner", b"r"),
    "complete for ever": lambda store, key: store.complete(key, "owner", b"", retention=None),
    "fail": lambda store, key: store.fail(key, "owner", b"r"),
    "fail, retry at once": lambda store, key: store.fail(key, "owner", b"r", retry_after=0),
    "fail, retry later": lambda store, key: store.fail(key, "owner", b"r", retry_after=100),
    "renew": lambda store, key: store.renew(key, "owner", lease=60, checkpoint=b"c"),
    "release": lambda store, key: store.release(key, "owner"),
}


def lost(call: Callable[[], object]) -> None:
    """The call must fail for want of a reply."""
    assert raises(StoreUnavailable, call).retryable


def ready_to_lose(lab: Lab) -> tuple[Client, Faults]:
    """A store whose replies can be lost, and its orders. Everything was called once before: a server that does not
    know a script yet says so first, and that would be the reply that is lost.
    """
    claimed(lab.store.claim(lab.key("other")))
    for call in SETTLE.values():
        call(lab.store, lab.key("absent"))
    return lab.faulty()


class ResendContract:
    """Every operation may be applied twice."""

    def test_claim_resent_by_the_driver(self, lab: Lab) -> None:
        """A first claim whose replies were dropped is one claim: attempt 1, and it holds."""
        for times in (2, 3):
            store, faults = lab.faulty()
            faults.resend(times)
            key = lab.key()
            claim = claimed(store.claim(key))
            assert claim.attempt == 1
            expect(InFlight, lab.store.claim(key))
            done(lab.store.complete(key, claim.token, b"r"))

    def test_takeover_resent_by_the_driver(self, lab: Lab) -> None:
        """A takeover that is applied twice is one attempt, not two."""
        store, faults = lab.faulty()
        key = lab.key()
        claimed(lab.store.claim(key))
        lab.age(key, 100)
        faults.resend(3)
        claim = claimed(store.claim(key))
        assert claim.attempt == 2
        found = lab.store.get(key)
        assert found is not None
        assert (found.record.attempt, found.record.fence, found.record.token) == (2, claim.fence, claim.token)

    def test_retry_resent_by_the_driver(self, lab: Lab) -> None:
        """So is a claim after a failure that may be retried."""
        store, faults = lab.faulty()
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.fail(key, token, b"oops", retry_after=0))
        faults.resend(3)
        assert claimed(store.claim(key)).attempt == 2

    def test_settlements_resent_by_the_driver(self, lab: Lab) -> None:
        """complete, fail, renew and release are done, however often they are applied."""
        for name, call in SETTLE.items():
            for times in (2, 3):
                store, faults = lab.faulty()
                key = lab.key()
                claimed(lab.store.claim(key, token="owner"))
                faults.resend(times)
                assert call(store, key) == Done(), name

    def test_late_settlements_resent_by_the_driver(self, lab: Lab) -> None:
        """Also those of an owner whose lease is over."""
        for name, call in SETTLE.items():
            store, faults = lab.faulty()
            key = lab.key()
            claimed(lab.store.claim(key, token="owner"))
            lab.age(key, 100)
            faults.resend()
            assert call(store, key) == Done(), name

    def test_batches_resent_by_the_driver(self, lab: Lab) -> None:
        """A batch that is applied twice: every item as if once."""
        store, faults = lab.faulty()
        keys = [lab.key() for _ in range(20)]
        faults.resend()
        claims = [expect(Claimed, answer) for answer in store.claim_many(keys)]
        assert {claim.attempt for claim in claims} == {1}
        faults.resend()
        items = [(key, claim.token, b"r") for key, claim in zip(keys, claims, strict=True)]
        assert store.complete_many(items) == [Done()] * 20

    def test_claim_repeated_by_its_caller(self, lab: Lab) -> None:
        """A caller that lost the reply repeats its claim with its own token: the same claim, even after the lease."""
        store, faults = ready_to_lose(lab)
        for age in (0, 100):
            key = lab.key()
            faults.lose_reply()
            lost(partial(store.claim, key, token="mine"))
            expect(InFlight, lab.store.claim(key))
            lab.age(key, age)
            for takeover in (True, False):
                claim = claimed(store.claim(key, token="mine", takeover=takeover))
                assert (claim.token, claim.attempt) == ("mine", 1)

    def test_lost_request_repeated_by_its_caller(self, lab: Lab) -> None:
        """A request that never arrived has changed nothing: the repetition is the first."""
        store, faults = lab.faulty()
        key = lab.key()
        faults.lose_request()
        lost(lambda: store.claim(key, token="mine"))
        assert lab.store.get(key) is None
        assert claimed(store.claim(key, token="mine")).attempt == 1
        faults.lose_request()
        lost(lambda: store.complete(key, "mine", b"r"))
        expect(InFlight, lab.store.claim(key))
        done(store.complete(key, "mine", b"r"))

    def test_settlements_repeated_by_their_caller(self, lab: Lab) -> None:
        """The same for an owner whose reply was lost: its repetition is done."""
        for name, call in SETTLE.items():
            store, faults = lab.faulty()
            key = lab.key()
            claimed(lab.store.claim(key, token="owner"))
            faults.lose_reply()
            lost(partial(call, store, key))
            assert call(store, key) == Done(), name

    def test_completion_repeated_after_others_saw_it(self, lab: Lab) -> None:
        """Between loss and repetition others were given the result: the owner is told that it is done."""
        store, faults = ready_to_lose(lab)
        key = lab.key()
        claimed(lab.store.claim(key, token="owner"))
        faults.lose_reply()
        lost(lambda: store.complete(key, "owner", b"r"))
        assert lab.store.claim(key) == Completed(b"r")
        done(store.complete(key, "owner", b"r"))

    def test_release_repeated_after_a_new_claim(self, lab: Lab) -> None:
        """A repeated release must not take the key from whoever claimed it meanwhile."""
        store, faults = ready_to_lose(lab)
        key = lab.key()
        claimed(lab.store.claim(key, token="owner"))
        faults.lose_reply()
        lost(lambda: store.release(key, "owner"))
        other = claimed(lab.store.claim(key))
        assert store.release(key, "owner") == LEASE_LOST
        done(lab.store.complete(key, other.token, b"r"))

    def test_failure_repeated_after_a_retry_began(self, lab: Lab) -> None:
        """A repeated failure must not fail the next attempt."""
        store, faults = ready_to_lose(lab)
        key = lab.key()
        claimed(lab.store.claim(key, token="owner"))
        faults.lose_reply()
        lost(lambda: store.fail(key, "owner", b"oops", retry_after=0))
        other = claimed(lab.store.claim(key))
        assert store.fail(key, "owner", b"oops", retry_after=0) == LEASE_LOST
        done(lab.store.fail(key, other.token, b"oops again"))
        assert lab.store.claim(key) == Failed(b"oops again")

    def test_claim_repeated_after_a_takeover(self, lab: Lab) -> None:
        """A claim that was lost, lapsed and taken over is another's now: its caller is told to wait."""
        store, faults = ready_to_lose(lab)
        key = lab.key()
        faults.lose_reply()
        lost(lambda: store.claim(key, token="mine"))
        lab.age(key, 100)
        claimed(lab.store.claim(key))
        expect(InFlight, store.claim(key, token="mine"))

    def test_waiter_whose_claim_was_resent(self, lab: Lab) -> None:
        """A waiter's claim that is applied twice is one claim, too."""
        store, faults = lab.faulty()
        key = lab.key()
        faults.resend()
        assert claimed(store.claim(key, wait=5)).attempt == 1
