"""Waiters: they get the result, take over, are refused, or give up in time; no change is missed."""

import queue
import time
from functools import partial

from idemstore.outcomes import Abandoned, Claimed, ClaimOutcome, Completed, Failed, InFlight, Mismatch
from idemstore.testing.contract_lab import Lab, Later, claimed, done, expect
from idemstore.testing.faults import Stop

LONG = 600.0


class Waiter:
    """A caller that waits for a key; it first stands where it has asked for the second time and not yet heard."""

    def __init__(self, lab: Lab, key: str, *, fingerprint: bytes | None = None, takeover: bool = True) -> None:
        self._lab = lab
        store, faults = lab.faulty()
        faults.passing()
        self._stop: Stop = faults.stop_after()
        self._began = time.monotonic()
        self._later: Later[ClaimOutcome] = lab.background(
            lambda: store.claim(key, fingerprint=fingerprint, takeover=takeover, lease=LONG, wait=lab.patience)
        )
        assert self._later.comes_to(self._stop), "the waiter did not wait"

    def go(self) -> None:
        """Let it hear that the key is taken, and wait."""
        self._began = time.monotonic()
        self._stop.go()

    def outcome(self) -> ClaimOutcome:
        """What it got, well before its time was up."""
        self._stop.go()
        outcome = self._later.result()
        assert self._lab.prompt(self._began), f"the waiter noticed too late, and got {outcome!r}"
        return outcome

    def report(self, to: "queue.SimpleQueue[ClaimOutcome]") -> None:
        """Put what it got into a queue."""
        to.put(self.outcome())


class WaitContract:
    """``claim(wait=...)``."""

    def both_ways(self, lab: Lab, key: str) -> list[Waiter]:
        """Two waiters: one stands between its question and its wait, the other waits (or is about to)."""
        standing, waiting = Waiter(lab, key), Waiter(lab, key)
        waiting.go()
        return [standing, waiting]

    def test_waiter_gets_the_result(self, lab: Lab) -> None:
        """The result, as soon as it is there."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        waiters = self.both_ways(lab, key)
        done(lab.store.complete(key, token, b"r"))
        assert [waiter.outcome() for waiter in waiters] == [Completed(b"r")] * 2

    def test_waiter_gets_the_failure(self, lab: Lab) -> None:
        """A final failure, too, is an answer."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        waiters = self.both_ways(lab, key)
        done(lab.store.fail(key, token, b"no"))
        assert [waiter.outcome() for waiter in waiters] == [Failed(b"no")] * 2

    def test_waiter_takes_over_on_release(self, lab: Lab) -> None:
        """A release between question and wait is not missed; nor is one later. The key is new: attempt 1."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        waiter = Waiter(lab, key)
        done(lab.store.release(key, token))
        first = claimed(waiter.outcome())
        waiter = Waiter(lab, key)
        waiter.go()
        done(lab.store.release(key, first.token))
        assert claimed(waiter.outcome()).attempt == 1

    def test_waiter_takes_over_on_forget(self, lab: Lab) -> None:
        """An operator's forget frees the key for who waits."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=LONG))
        waiter = Waiter(lab, key)
        waiter.go()
        assert lab.store.forget(key)
        assert claimed(waiter.outcome()).attempt == 1

    def test_waiter_takes_over_on_a_failure_that_may_be_retried(self, lab: Lab) -> None:
        """retry_after=0 lets the waiter run at once, attempt 2, with the checkpoint."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        done(lab.store.renew(key, token, checkpoint=b"half"))
        waiter = Waiter(lab, key)
        waiter.go()
        done(lab.store.fail(key, token, b"oops", retry_after=0))
        claim = claimed(waiter.outcome())
        assert (claim.attempt, claim.checkpoint) == (2, b"half")

    def test_waiter_sits_out_a_short_back_off(self, lab: Lab) -> None:
        """A back-off that ends in time is waited for."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        waiter = Waiter(lab, key)
        waiter.go()
        done(lab.store.fail(key, token, b"oops", retry_after=0.2))
        assert claimed(waiter.outcome()).attempt == 2

    def test_waiter_does_not_sit_out_a_long_back_off(self, lab: Lab) -> None:
        """A back-off beyond the waiter's time is answered at once, with the seconds left."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        waiter = Waiter(lab, key)
        waiter.go()
        done(lab.store.fail(key, token, b"oops", retention=None, retry_after=LONG))
        failed = expect(Failed, waiter.outcome())
        assert failed.retry_after is not None
        assert failed.retry_after > LONG / 2

    def test_waiter_takes_over_at_the_end_of_the_lease(self, lab: Lab) -> None:
        """Nobody tells a waiter that the owner died: it wakes by itself when the lease ends."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=LONG))
        lab.age(key, LONG - 0.3)
        began = time.monotonic()
        claim = claimed(lab.store.claim(key, wait=lab.patience))
        assert claim.attempt == 2
        assert lab.prompt(began), "the waiter slept past the end of the lease"

    def test_cautious_waiter_is_told_at_the_end_of_the_lease(self, lab: Lab) -> None:
        """takeover=False: it gets Abandoned then, and nothing changes."""
        key = lab.key()
        owner = claimed(lab.store.claim(key, lease=LONG))
        lab.age(key, LONG - 0.3)
        began = time.monotonic()
        found = expect(Abandoned, lab.store.claim(key, wait=lab.patience, takeover=False))
        assert found.token == owner.token
        assert lab.prompt(began)
        done(lab.store.complete(key, owner.token, b"r"))

    def test_waiter_follows_a_renewed_lease(self, lab: Lab) -> None:
        """A lease that is renewed while somebody waits is not taken over at its old end."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        lab.age(key, LONG - 10)
        waiter = Waiter(lab, key)
        done(lab.store.renew(key, token, lease=LONG))
        waiter.go()
        done(lab.store.complete(key, token, b"r"))
        assert waiter.outcome() == Completed(b"r")

    def test_waiter_with_another_payload_is_refused_at_once(self, lab: Lab) -> None:
        """Mismatch does not wait."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=LONG, fingerprint=b"a"))
        began = time.monotonic()
        assert lab.store.claim(key, fingerprint=b"b", wait=lab.patience) == Mismatch()
        assert lab.prompt(began)

    def test_waiter_never_gets_the_result_of_another_payload(self, lab: Lab) -> None:
        """While it waited the key got another payload: it is refused, then, and does not get that result."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=LONG))
        waiter = Waiter(lab, key, fingerprint=b"mine")
        lab.age(key, LONG + 100)
        other = claimed(lab.store.claim(key, lease=LONG, fingerprint=b"other"))
        done(lab.store.complete(key, other.token, b"of the other payload"))
        assert waiter.outcome() == Mismatch()

    def test_waiter_gives_up_in_time(self, lab: Lab) -> None:
        """After its time it is told InFlight, with the seconds left, and has changed nothing."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=LONG))
        before = lab.store.get(key)
        began = time.monotonic()
        busy = expect(InFlight, lab.store.claim(key, wait=0.3))
        took = time.monotonic() - began
        assert busy.retry_after > LONG / 2
        assert 0.29 <= took < 0.3 + 5
        after = lab.store.get(key)
        assert before is not None
        assert after is not None
        assert after.record == before.record

    def test_waiter_does_not_wait_without_need(self, lab: Lab) -> None:
        """A free key is claimed, a finished one replayed, an abandoned one taken over, without waiting."""
        free, finished, lapsed = lab.key(), lab.key(), lab.key()
        done(lab.store.complete(finished, claimed(lab.store.claim(finished)).token, b"r"))
        claimed(lab.store.claim(lapsed))
        lab.age(lapsed, 100)
        began = time.monotonic()
        assert claimed(lab.store.claim(free, wait=lab.patience)).attempt == 1
        assert lab.store.claim(finished, wait=lab.patience) == Completed(b"r")
        assert claimed(lab.store.claim(lapsed, wait=lab.patience)).attempt == 2
        assert lab.prompt(began)

    def test_one_of_many_waiters_takes_over(self, lab: Lab) -> None:
        """Of many waiters exactly one gets the released key; when it completes, all others get its result."""
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=LONG)).token
        outcomes: queue.SimpleQueue[ClaimOutcome] = queue.SimpleQueue()
        waiters = [Waiter(lab, key) for _ in range(4)]
        crowd = [
            lab.background(lambda: outcomes.put(lab.store.claim(key, lease=LONG, wait=lab.patience))) for _ in range(12)
        ]
        crowd += [lab.background(partial(waiter.report, outcomes)) for waiter in waiters]
        done(lab.store.release(key, token))
        winner = claimed(outcomes.get(timeout=lab.patience * 2))
        done(lab.store.complete(key, winner.token, b"r"))
        for waiting in crowd:
            waiting.result()
        assert [outcomes.get_nowait() for _ in range(15)] == [Completed(b"r")] * 15

    def test_takeover_by_one_of_many_waiters(self, lab: Lab) -> None:
        """At the end of a lease, too, exactly one takes over."""
        key = lab.key()
        claimed(lab.store.claim(key, lease=LONG))
        lab.age(key, LONG - 0.3)
        outcomes: queue.SimpleQueue[ClaimOutcome] = queue.SimpleQueue()
        crowd = [
            lab.background(lambda: outcomes.put(lab.store.claim(key, lease=LONG, wait=lab.patience))) for _ in range(8)
        ]
        winner = claimed(outcomes.get(timeout=lab.patience * 2))
        assert winner.attempt == 2
        done(lab.store.complete(key, winner.token, b"r"))
        for waiting in crowd:
            waiting.result()
        assert not any(isinstance(outcomes.get_nowait(), Claimed) for _ in range(7))
