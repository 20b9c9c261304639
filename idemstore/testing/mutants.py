"""The memory family with one fault each, to prove that the contract finds it.

A mutant names the tests that must fail on it: by an ``AssertionError``, in both modes. The same tests must pass on the
unmutated store, through the same runner. Anything else that a test raises, an import error say, is no catch.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from idemstore.async_store import AsyncStore
from idemstore.backends.memory import AsyncMemoryDriver, Engine, MemoryDialect, MemoryDriver
from idemstore.machine import Complete, Fail, Release, Renew
from idemstore.store import Store
from idemstore.testing import mutations as m
from idemstore.testing.contract import StoreContract
from idemstore.testing.contract_lab import Lab, Mode
from idemstore.testing.families.memory import MemorySubject
from idemstore.testing.model import model_of

VALUE_BYTES: Final = 64 * 2**20


class Mutant(NamedTuple):
    """A fault, the parts that have it, and the tests of ``StoreContract`` that must find it."""

    name: str
    tests: tuple[str, ...]
    engine: Callable[[], Engine] = Engine
    dialect: type[MemoryDialect] = MemoryDialect
    driver: type[MemoryDriver] = MemoryDriver
    async_driver: type[AsyncMemoryDriver] = AsyncMemoryDriver
    sequential: bool = False
    """Whether a sequence of calls is enough to show it, so that the model must find it, too."""


def stepping(name: str, step: m.Step, *tests: str) -> Mutant:
    """A mutant with another step."""
    return Mutant(name, tests, partial(m.MutantEngine, step), sequential=True)


MUTANTS: Final = (
    stepping(
        "complete ignores the token", m.ignoring_token(Complete), "test_after_takeover", "test_owner_against_takeover"
    ),
    stepping("fail ignores the token", m.ignoring_token(Fail), "test_after_takeover", "test_owner_against_takeover"),
    stepping("renew ignores the token", m.ignoring_token(Renew), "test_after_takeover", "test_owner_against_takeover"),
    stepping(
        "release ignores the token", m.ignoring_token(Release), "test_after_takeover", "test_owner_against_takeover"
    ),
    stepping("a finished record can be renewed", m.renew_finished, "test_completed_record_is_final"),
    stepping("a second complete overwrites", m.complete_overwrites, "test_other_result_under_a_spent_token"),
    Mutant(
        "claim reads, then writes",
        ("test_two_claim", "test_storm_on_a_new_key", "test_histories_are_linearizable", "test_two_take_over"),
        dialect=m.ReadThenWrite,
        driver=m.Yielding,
        async_driver=m.AsyncYielding,
    ),
    Mutant("a token is handed out twice", ("test_tokens_are_made_for_each_claim",), dialect=m.TokenTwice),
    stepping("fingerprint not stored", m.fingerprint_not_stored, "test_other_payload_is_refused_in_every_state"),
    stepping(
        "fingerprint ignored on takeover",
        m.fingerprint_ignored_on_takeover,
        "test_other_payload_is_refused_in_every_state",
    ),
    Mutant(
        "fingerprint ignored by a waiter", ("test_waiter_never_gets_the_result_of_another_payload",), m.ForgetfulWaiters
    ),
    stepping(
        "fingerprint compared on replay only",
        m.fingerprint_only_of_results,
        "test_other_payload_is_refused_in_every_state",
    ),
    stepping("lease never ends", m.lease_never_ends, "test_takeover"),
    stepping("lease ignored", m.lease_ignored, "test_second_caller_is_told_to_wait", "test_storm_on_a_new_key"),
    stepping("retention ignored", m.retention_ignored, "test_retention_of_a_result"),
    stepping("a crash is forgotten with its lease", m.crash_forgotten, "test_crash_stays_visible_for_the_retention"),
    stepping("a result ends when its claim would", m.retention_of_claim, "test_retention_counts_from_completion"),
    stepping("result bytes changed", m.bytes_changed, "test_results"),
    stepping("attempt does not grow", m.attempt_stands_still, "test_takeover_counts_on"),
    stepping("fence does not grow", m.fence_stands_still, "test_takeover_counts_on"),
    stepping("fence starts anew", m.fence_starts_anew, "test_fence_grows_across_lives"),
    Mutant("a waiter misses a release", ("test_waiter_takes_over_on_release",), m.SilentRelease),
    Mutant(
        "a waiter misses the end of a lease",
        ("test_waiter_takes_over_at_the_end_of_the_lease",),
        driver=m.Oversleeping,
        async_driver=m.AsyncOversleeping,
    ),
    Mutant(
        "a waiter misses a change between question and wait",
        ("test_waiter_gets_the_result",),
        driver=m.Late,
        async_driver=m.AsyncLate,
    ),
    stepping("takeover=False takes over", m.always_takes_over, "test_cautious_claim_gets_abandoned"),
    stepping("checkpoint lost on takeover", m.checkpoint_lost, "test_takeover_gets_the_checkpoint"),
    stepping("a repeated complete is refused", m.complete_once, "test_settlements_resent_by_the_driver"),
    stepping("a repeated release is refused", m.release_once, "test_settlements_repeated_by_their_caller"),
    stepping("a repeated fail backs off anew", m.fail_again, "test_fail_is_repeatable"),
    stepping("a repeated claim waits for itself", m.claim_resent_is_busy, "test_claim_repeated_by_its_caller"),
    stepping("a lapsed owner is refused", m.late_owner_refused, "test_lapsed_owner_still_completes"),
    stepping("renew leaves the end of retention", m.renew_leaves_end, "test_renew_moves_the_lease"),
    stepping("renew drops the checkpoint", m.renew_drops_checkpoint, "test_checkpoint_is_kept_or_replaced"),
    stepping("a busy answer extends the lease", m.busy_answer_extends, "test_busy_answer_writes_nothing"),
    stepping("a replay extends the retention", m.replay_extends, "test_replay_writes_nothing"),
    stepping("back-off ignored", m.back_off_ignored, "test_back_off"),
    Mutant(
        "purge takes lapsed claims",
        ("test_purge_takes_the_expired_only", "test_purge_between_claim_and_complete"),
        m.PurgesLapsed,
    ),
    Mutant("purge ignores its limit", ("test_purge_is_bounded",), m.PurgesAll),
)
"""Every mutant; all must be caught."""

UNMUTATED: Final = Mutant("none", tuple(dict.fromkeys(test for mutant in MUTANTS for test in mutant.tests)))
"""The memory family as it is: passes what the mutants fail."""


class MutantLab(Lab):
    """A lab whose stores share one mutated engine."""

    def __init__(self, mutant: Mutant, mode: Mode) -> None:
        self.mutant = mutant
        self._subject = MemorySubject("memory://mutant")
        self._subject.engine = mutant.engine()
        super().__init__(self._subject, mode, m.PATIENCE)

    def connect(self, url: str) -> Store:
        """A sync store with the fault."""
        mutant, engine = self.mutant, self._subject.engine
        return Store(mutant.dialect(VALUE_BYTES), lambda: mutant.driver(engine), timeout=5.0, name=mutant.name)

    def connect_async(self, url: str) -> AsyncStore:
        """An async store with the fault."""
        mutant, engine = self.mutant, self._subject.engine
        return AsyncStore(
            mutant.dialect(VALUE_BYTES), lambda: mutant.async_driver(engine), timeout=5.0, name=mutant.name
        )


def found_by_model(mutant: Mutant) -> bool:
    """Whether the Hypothesis model, by itself, finds the fault; always the same examples are tried."""
    with MutantLab(mutant, "sync") as lab:
        try:
            run_state_machine_as_test(
                model_of(lab),
                settings=settings(
                    max_examples=300,
                    stateful_step_count=40,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        except AssertionError:
            return True
    return False


def catch(mutant: Mutant, mode: Mode, test: str) -> str | None:
    """Run one test of the contract on a mutant: what its assertion said, or None if it passed."""
    run: Callable[[Lab], None] = getattr(StoreContract(), test)
    with MutantLab(mutant, mode) as lab:
        try:
            run(lab)
        except AssertionError as caught:
            return str(caught) or "assertion failed"
    return None
