"""Races at chosen points: a caller's driver stands before, between or after its round trips while others act.

Each race is run with the call stopped before its first round trip, then before its second, and so on, for as many as
the family takes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from idemstore.outcomes import LEASE_LOST, Abandoned, Claimed, ClaimOutcome, Completed, Done, Failed, InFlight
from idemstore.testing.blocking import Client
from idemstore.testing.contract_lab import Lab, Later, claimed, done, expect

T = TypeVar("T")

TRIPS = 4
"""At how many round trips of one call it is stopped, at most."""

LARGE = bytes(range(256)) * 4096
"""A result that some families store in pieces, so that there is something between."""

OWNERS_CALLS: dict[str, Callable[[Client, str], object]] = {
    "complete": lambda store, key: store.complete(key, "owner", b"owner's"),
    "complete large": lambda store, key: store.complete(key, "owner", LARGE),
    "fail": lambda store, key: store.fail(key, "owner", b"owner's"),
    "fail for now": lambda store, key: store.fail(key, "owner", b"owner's", retry_after=100),
    "renew": lambda store, key: store.renew(key, "owner", lease=600, checkpoint=b"owner's"),
    "release": lambda store, key: store.release(key, "owner"),
}


class Race(NamedTuple):
    """A call under way that stands at its ``nth`` round trip (from 0)."""

    key: str
    nth: int
    finish: Callable[[], object]
    """Let it go on; what it answered."""


def stopped(lab: Lab, call: Callable[[Client], T], *, nth: int = 0, after: bool = False) -> Callable[[], T] | None:
    """Start a call and stop it at its nth round trip; None if it has not that many."""
    store, faults = lab.faulty()
    faults.passing(nth)
    stop = faults.stop_after() if after else faults.stop_before()
    later: Later[T] = lab.background(lambda: call(store))
    if not later.comes_to(stop):
        later.result()
        return None

    def finish() -> T:
        stop.go()
        return later.result()

    return finish


def _claim(store: Client, key: str) -> ClaimOutcome:
    """A plain claim."""
    return store.claim(key)


def _flipped(call: Callable[[Client, str], T], key: str, store: Client) -> T:
    """A call on a key, that still needs its store."""
    return call(store, key)


def races(
    lab: Lab, call: Callable[[Client, str], object], prepare: Callable[[str], None] | None = None
) -> Iterator[Race]:
    """The call on fresh keys (prepared, or owned by the token "owner"), stopped at each of its round trips in turn."""
    for nth in range(TRIPS):
        key = lab.key(f"race-{nth}")
        if prepare is not None:
            prepare(key)
        else:
            claimed(lab.store.claim(key, token="owner"))
        finish = stopped(lab, partial(_flipped, call, key), nth=nth)
        if finish is None:
            assert nth > 0, "the call made no round trip"
            return
        yield Race(key, nth, finish)


class RaceContract:
    """Who wins is decided in the store, whole, and everybody is told the truth."""

    def test_two_claim(self, lab: Lab) -> None:
        """A stands before its call while B claims: one runs, the other is told so."""
        self.one_of_two(lab, lambda key: None, attempt=1)

    def test_claim_applied_but_not_yet_heard_of(self, lab: Lab) -> None:
        """A's claim is in force from the moment it is applied, before A hears of it."""
        key = lab.key()
        finish = stopped(lab, lambda store: store.claim(key), after=True)
        assert finish is not None
        expect(InFlight, lab.store.claim(key))
        claim = claimed(finish())
        done(lab.store.complete(key, claim.token, b"r"))

    def test_claim_while_another_runs_through(self, lab: Lab) -> None:
        """A stands before its call while B claims and completes: A gets B's result, or B A's claim."""
        for race in races(lab, _claim, prepare=lambda key: None):
            other = lab.store.claim(race.key)
            if isinstance(other, Claimed):
                done(lab.store.complete(race.key, other.token, b"B's"))
                assert race.finish() == Completed(b"B's")
            else:
                expect(InFlight, other)
                claimed(expect(Claimed, race.finish()))

    def test_claim_while_the_owner_releases(self, lab: Lab) -> None:
        """A stands before its call while the owner releases: A runs, attempt 1."""
        for race in races(lab, _claim):
            done(lab.store.release(race.key, "owner"))
            answer = race.finish()
            assert race.nth > 0 or expect(Claimed, answer).attempt == 1
            assert isinstance(answer, Claimed | InFlight)

    def test_owner_against_takeover(self, lab: Lab) -> None:
        """The owner stands before each of its calls and is taken over: it is told so, and its successor untouched."""
        for name, call in OWNERS_CALLS.items():
            for race in races(lab, call):
                lab.age(race.key, 100)
                taker = lab.store.claim(race.key, token="taker")
                answer = race.finish()
                assert race.nth > 0 or isinstance(taker, Claimed), (name, taker)
                if isinstance(taker, Claimed) and taker.attempt == 2:
                    assert answer == LEASE_LOST, f"{name} of a replaced owner was answered {answer!r}"
                    self.undisturbed(lab, race.key, taker)
                else:
                    assert answer == Done(), (name, taker, answer)

    def undisturbed(self, lab: Lab, key: str, owner: Claimed) -> None:
        """The record is as the claim of this owner left it, and its owner can go on."""
        found = lab.store.get(key)
        assert found is not None
        record = found.record
        assert (record.token, record.attempt, record.fence) == (owner.token, owner.attempt, owner.fence)
        assert (record.result, record.checkpoint) == (None, owner.checkpoint)
        done(lab.store.complete(key, owner.token, b"successor's"))
        assert lab.store.claim(key) == Completed(b"successor's")

    def test_owner_against_a_new_life(self, lab: Lab) -> None:
        """The owner stands before each of its calls while the key is forgotten and claimed anew: it is told so."""
        for name, call in OWNERS_CALLS.items():
            for race in races(lab, call):
                lab.store.forget(race.key)
                new = claimed(lab.store.claim(race.key, token="new"))
                answer = race.finish()
                assert race.nth > 0 or answer == LEASE_LOST, (name, answer)
                self.undisturbed(lab, race.key, new)

    def test_owners_call_applied_but_not_yet_heard_of(self, lab: Lab) -> None:
        """The owner's completion counts from the moment it is applied, and the owner is told so in the end."""
        key = lab.key()
        claimed(lab.store.claim(key, token="owner"))
        finish = stopped(lab, lambda store: store.complete(key, "owner", b"r"), after=True)
        assert finish is not None
        assert lab.store.claim(key) == Completed(b"r")
        lab.age(key, 1000)
        assert finish() == Done()

    def test_takeover_against_the_owner(self, lab: Lab) -> None:
        """The taker stands before its call while the lapsed owner completes, fails, renews or releases after all."""
        expected: dict[str, Callable[[ClaimOutcome], bool]] = {
            "complete": lambda answer: answer == Completed(b"owner's"),
            "fail": lambda answer: answer == Failed(b"owner's"),
            "renew": lambda answer: isinstance(answer, InFlight),
            "release": lambda answer: isinstance(answer, Claimed) and answer.attempt == 1,
        }
        for name, fits in expected.items():
            key = lab.key()
            claimed(lab.store.claim(key, token="owner"))
            lab.age(key, 100)
            finish = stopped(lab, partial(_flipped, _claim, key))
            assert finish is not None
            done(OWNERS_CALLS[name](lab.store, key))
            answer = finish()
            assert fits(answer), (name, answer)

    def test_two_take_over(self, lab: Lab) -> None:
        """One taker stands at each of its round trips while another takes over: one owner, attempt 2."""

        def lapse(key: str) -> None:
            claimed(lab.store.claim(key))
            lab.age(key, 100)

        self.one_of_two(lab, lapse)

    def test_two_retry(self, lab: Lab) -> None:
        """The same after a failure that may be retried."""

        def fail(key: str) -> None:
            token = claimed(lab.store.claim(key)).token
            done(lab.store.fail(key, token, b"oops", retry_after=0))

        self.one_of_two(lab, fail)

    def test_two_begin_anew(self, lab: Lab) -> None:
        """The same after the end of retention; attempt 1."""

        def expire(key: str) -> None:
            claimed(lab.store.claim(key, retention=10))
            lab.age(key, 100)

        self.one_of_two(lab, expire, attempt=1)

    def one_of_two(self, lab: Lab, prepare: Callable[[str], None], attempt: int = 2) -> None:
        """Of two that claim such a key one is granted it, the other told to wait."""
        for race in races(lab, _claim, prepare=prepare):
            other, mine = lab.store.claim(race.key), race.finish()
            assert {type(other), type(mine)} == {Claimed, InFlight}, (other, mine)
            assert [answer.attempt for answer in (other, mine) if isinstance(answer, Claimed)] == [attempt]
            assert race.nth > 0 or isinstance(other, Claimed)

    def test_operator_against_a_taker(self, lab: Lab) -> None:
        """An operator who settles an abandoned record a moment too late is told so."""
        key = lab.key()
        claimed(lab.store.claim(key))
        lab.age(key, 100)
        found = expect(Abandoned, lab.store.claim(key, takeover=False))
        finish = stopped(lab, lambda store: store.fail(key, found.token, b"by hand"))
        assert finish is not None
        taker = claimed(lab.store.claim(key))
        assert finish() == LEASE_LOST
        self.undisturbed(lab, key, taker)

    def test_purge_between_claim_and_complete(self, lab: Lab) -> None:
        """A purge never takes a claim from under its owner, lapsed or not."""
        for age in (0, 100):
            for race in races(lab, OWNERS_CALLS["complete"]):
                lab.age(race.key, age)
                lab.store.purge()
                assert race.finish() == Done()
                assert lab.store.claim(race.key) == Completed(b"owner's")

    def test_claim_between_look_and_purge(self, lab: Lab) -> None:
        """An expired record that is claimed anew while a purge is under way stays."""
        for nth in range(TRIPS):
            keys = [lab.key() for _ in range(3)]
            for key in keys:
                claimed(lab.store.claim(key, lease=10, retention=20))
                lab.age(key, 100)
            finish = stopped(lab, lambda store: store.purge(), nth=nth)
            owners = [claimed(lab.store.claim(key)) for key in keys]
            if finish is None:
                return
            finish()
            for key, owner in zip(keys, owners, strict=True):
                self.undisturbed(lab, key, owner)

    def test_expiry_under_an_owner(self, lab: Lab) -> None:
        """The record ends while its owner stands before its completion: too late, and nothing comes into being."""
        for race in races(lab, OWNERS_CALLS["complete"]):
            lab.age(race.key, 200_000)
            answer = race.finish()
            if race.nth == 0:
                assert answer == LEASE_LOST
            assert lab.store.get(race.key) is None

    def test_two_results_of_one_owner(self, lab: Lab) -> None:
        """Two threads of one owner bring two results: one is stored, the other refused."""
        for race in races(lab, OWNERS_CALLS["complete"]):
            other = lab.store.complete(race.key, "owner", b"other")
            mine = race.finish()
            assert {other, mine} == {Done(), LEASE_LOST}
            assert lab.store.claim(race.key) == Completed(b"other" if other == Done() else b"owner's")

    def test_completion_against_failure(self, lab: Lab) -> None:
        """Of a completion and a failure of one owner the first counts."""
        for race in races(lab, OWNERS_CALLS["complete large"]):
            other = lab.store.fail(race.key, "owner", b"failed")
            assert {other, race.finish()} == {Done(), LEASE_LOST}
            assert isinstance(lab.store.claim(race.key), Failed if other == Done() else Completed)
