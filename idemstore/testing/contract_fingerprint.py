"""Fingerprints: another payload under the same key is refused in every state, and nothing changes."""

from idemstore.machine import State
from idemstore.outcomes import Claimed, Completed, Failed, InFlight, Mismatch
from idemstore.testing.contract_lab import Lab, claimed, done, expect

STATES = ("running", "lapsed", "completed", "failed", "backing off", "retryable")


def bring(lab: Lab, state: str, fingerprint: bytes | None) -> str:
    """A key whose record is in this state."""
    key = lab.key(state.replace(" ", "-"))
    token = claimed(lab.store.claim(key, fingerprint=fingerprint)).token
    match state:
        case "lapsed":
            lab.age(key, 100)
        case "completed":
            done(lab.store.complete(key, token, b"r"))
        case "failed":
            done(lab.store.fail(key, token, b"r"))
        case "backing off":
            done(lab.store.fail(key, token, b"r", retry_after=100))
        case "retryable":
            done(lab.store.fail(key, token, b"r", retry_after=0))
        case _:
            assert state == "running"
    return key


ANSWERS: dict[str, type[object]] = {
    "running": InFlight,
    "lapsed": Claimed,
    "completed": Completed,
    "failed": Failed,
    "backing off": Failed,
    "retryable": Claimed,
}


class FingerprintContract:
    """Rule 2 of a claim."""

    def test_other_payload_is_refused_in_every_state(self, lab: Lab) -> None:
        """Mismatch whatever the state, to bold and cautious callers; the record stays as it is."""
        for state in STATES:
            key = bring(lab, state, b"mine")
            before = lab.store.get(key)
            for takeover in (True, False):
                assert lab.store.claim(key, fingerprint=b"other", takeover=takeover) == Mismatch(), state
            after = lab.store.get(key)
            assert before is not None
            assert after is not None
            assert after.record == before.record, state

    def test_same_payload_is_answered_in_every_state(self, lab: Lab) -> None:
        """The same fingerprint gets the state's own answer."""
        for state in STATES:
            answer = lab.store.claim(bring(lab, state, b"mine"), fingerprint=b"mine")
            assert isinstance(answer, ANSWERS[state]), (state, answer)

    def test_caller_without_fingerprint(self, lab: Lab) -> None:
        """A caller that gives none is never refused ..."""
        for state in STATES:
            answer = lab.store.claim(bring(lab, state, b"mine"))
            assert isinstance(answer, ANSWERS[state]), (state, answer)

    def test_record_without_fingerprint(self, lab: Lab) -> None:
        """... nor is anybody by a record that has none."""
        for state in STATES:
            answer = lab.store.claim(bring(lab, state, None), fingerprint=b"any")
            assert isinstance(answer, ANSWERS[state]), (state, answer)

    def test_takeover_keeps_the_fingerprint(self, lab: Lab) -> None:
        """Who takes over without a fingerprint does not wash the record's off."""
        for state in ("lapsed", "retryable"):
            key = bring(lab, state, b"mine")
            claimed(lab.store.claim(key))
            assert lab.store.claim(key, fingerprint=b"other") == Mismatch()
            lab.age(key, 100)
            assert lab.store.claim(key, fingerprint=b"other") == Mismatch()
            claimed(lab.store.claim(key, fingerprint=b"mine"))

    def test_takeover_sets_a_missing_fingerprint(self, lab: Lab) -> None:
        """Where the first claim had none, a later claim's fingerprint becomes the record's."""
        for state in ("lapsed", "retryable"):
            key = bring(lab, state, None)
            token = claimed(lab.store.claim(key, fingerprint=b"second")).token
            assert lab.store.claim(key, fingerprint=b"third") == Mismatch()
            done(lab.store.complete(key, token, b"r"))
            assert lab.store.claim(key, fingerprint=b"third") == Mismatch()
            assert lab.store.claim(key, fingerprint=b"second") == Completed(b"r")

    def test_answers_set_no_fingerprint(self, lab: Lab) -> None:
        """A caller that only got an answer has bound nothing: the record still has no fingerprint."""
        for state in ("running", "completed", "failed", "backing off"):
            key = bring(lab, state, None)
            assert isinstance(lab.store.claim(key, fingerprint=b"one"), ANSWERS[state])
            assert isinstance(lab.store.claim(key, fingerprint=b"two"), ANSWERS[state])

    def test_fingerprint_survives_every_end(self, lab: Lab) -> None:
        """complete, fail and renew keep the record's fingerprint."""
        for state in ("completed", "failed", "backing off"):
            found = lab.store.get(bring(lab, state, b"\x00mine\xff"))
            assert found is not None
            assert found.record.fingerprint == b"\x00mine\xff"
        key = bring(lab, "running", b"mine")
        found = lab.store.get(key)
        assert found is not None
        done(lab.store.renew(key, found.record.token, checkpoint=b"half"))
        found = lab.store.get(key)
        assert found is not None
        assert (found.state, found.record.fingerprint) == (State.IN_FLIGHT, b"mine")

    def test_fingerprints_are_compared_whole(self, lab: Lab) -> None:
        """Every byte counts, of one that is as long as a fingerprint may be, too."""
        whole = bytes(range(192, 256))
        key = bring(lab, "running", whole)
        for other in (whole[:-1], whole[:-1] + b"\x00", b"\x00" + whole[1:], whole[1:], b"\x00"):
            assert lab.store.claim(key, fingerprint=other) == Mismatch()
        expect(InFlight, lab.store.claim(key, fingerprint=whole))

    def test_scope_isolates_payloads(self, lab: Lab) -> None:
        """The same key in another scope is another record: no mismatch, no replay."""
        key = lab.key()
        token = claimed(lab.store.claim(("alice", key), fingerprint=b"a")).token
        done(lab.store.complete(("alice", key), token, b"alice's"))
        claimed(lab.store.claim(("bob", key), fingerprint=b"b"))
        claimed(lab.store.claim(key, fingerprint=b"c"))
