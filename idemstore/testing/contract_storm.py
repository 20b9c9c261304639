"""Storms: at least 32 clients on one key, and histories that must have an order."""

import itertools
import random
from functools import partial

import pytest

from idemstore.machine import MICROSECONDS, Claim, Complete, Event, Fail, Release, Renew
from idemstore.outcomes import Claimed, Completed, Done, InFlight
from idemstore.testing.contract_lab import Lab, claimed, done
from idemstore.testing.linearize import linearizable
from idemstore.testing.storm import Operation, processes, together

CLIENTS = 32
LONG = 1000 * MICROSECONDS


def claim(token: str) -> Claim:
    """A claim with a long lease."""
    return Claim(b"same payload", token, LONG, LONG)


def winners(history: list[Operation]) -> list[Claimed]:
    """Every claim that was granted."""
    return [operation.outcome for operation in history if isinstance(operation.outcome, Claimed)]


class StormContract:
    """Exactly one runs."""

    def storm(self, lab: Lab, key: str) -> Claimed:
        """All claim at once; the one that was granted. All others are told to wait."""
        history = together(lab.store, key, [[claim(f"client-{n}")] for n in range(CLIENTS)])
        granted = winners(history)
        assert len(granted) == 1, f"{len(granted)} of {CLIENTS} clients were told to run"
        assert sum(isinstance(operation.outcome, InFlight) for operation in history) == CLIENTS - 1
        return granted[0]

    def test_storm_on_a_new_key(self, lab: Lab) -> None:
        """One of 32 claims a key that nobody has."""
        for _ in range(3):
            assert self.storm(lab, lab.key()).attempt == 1

    def test_storm_on_an_abandoned_key(self, lab: Lab) -> None:
        """One of 32 takes over, once: attempt 2."""
        key = lab.key()
        claimed(lab.store.claim(key, fingerprint=b"same payload"))
        lab.age(key, 100)
        assert self.storm(lab, key).attempt == 2

    def test_storm_on_a_failed_key(self, lab: Lab) -> None:
        """One of 32 retries."""
        key = lab.key()
        token = claimed(lab.store.claim(key, fingerprint=b"same payload")).token
        done(lab.store.fail(key, token, b"oops", retry_after=0))
        assert self.storm(lab, key).attempt == 2

    def test_storm_on_an_expired_key(self, lab: Lab) -> None:
        """One of 32 begins anew: attempt 1."""
        key = lab.key()
        token = claimed(lab.store.claim(key)).token
        done(lab.store.complete(key, token, b"old", retention=10))
        lab.age(key, 100)
        assert self.storm(lab, key).attempt == 1

    def test_storm_of_whole_executions(self, lab: Lab) -> None:
        """All claim and complete at once: one result, and nobody else is told that its own was stored."""
        key = lab.key()
        scripts: list[list[Event]] = [
            [claim(f"c{n}"), Complete(f"c{n}", b"%d" % n, LONG), claim(f"d{n}")] for n in range(CLIENTS)
        ]
        history = together(lab.store, key, scripts)
        granted = winners(history)
        assert len(granted) == 1
        stored = [operation for operation in history if operation.outcome == Done()]
        assert [operation.event[0] for operation in stored] == [granted[0].token]
        assert lab.store.claim(key) == Completed(granted[0].token[1:].encode())

    def test_storm_of_releases(self, lab: Lab) -> None:
        """All claim and release: never two at once, and the fences grow in the order of the claims."""
        key = lab.key()
        scripts: list[list[Event]] = [
            [claim(f"{n}-{turn}") if step == 0 else Release(f"{n}-{turn}") for turn in range(3) for step in (0, 1)]
            for n in range(CLIENTS)
        ]
        history = together(lab.store, key, scripts)
        fences = [granted.fence for granted in winners(history)]
        assert fences
        assert len(set(fences)) == len(fences)
        assert {granted.attempt for granted in winners(history)} == {1}

    def test_storm_of_one_claim(self, lab: Lab) -> None:
        """One claim that is sent 32 times at once is one claim: all are granted, the same."""
        key = lab.key()
        history = together(lab.store, key, [[claim("the-one")] for _ in range(CLIENTS)])
        granted = set(winners(history))
        assert len(winners(history)) == CLIENTS
        assert len(granted) == 1

    def test_storm_of_batches(self, lab: Lab) -> None:
        """Eight clients claim the same keys in different orders, in batches: one winner for each key, no deadlock."""
        keys = [lab.key() for _ in range(40)]
        orders = [keys[n * 5 :] + keys[: n * 5] for n in range(4)]
        orders += [list(reversed(order)) for order in orders]
        calls = [lab.background(partial(lab.store.claim_many, order)) for order in orders]
        granted = [
            (key, answer)
            for order, call in zip(orders, calls, strict=True)
            for key, answer in zip(order, call.result(), strict=True)
            if not isinstance(answer, InFlight)
        ]
        assert sorted(key for key, _ in granted) == sorted(keys)
        items = [(key, claimed(answer).token, key.encode()) for key, answer in granted]
        replays = [lab.background(partial(lab.store.complete_many, items[n:] + items[:n])) for n in range(0, 40, 5)]
        assert all(call.result() == [Done()] * 40 for call in replays)

    def test_storm_of_stores(self, lab: Lab) -> None:
        """The same with a store, and so connections, of each client's own."""
        key = lab.key()
        stores = [lab.open() for _ in range(CLIENTS)]
        for store in stores:
            store.ping()
        calls = [lab.background(partial(store.claim, key)) for store in stores]
        answers = [call.result() for call in calls]
        assert sum(isinstance(answer, Claimed) for answer in answers) == 1
        assert sum(isinstance(answer, InFlight) for answer in answers) == CLIENTS - 1

    def test_storm_of_processes(self, lab: Lab) -> None:
        """32 processes claim the same keys at once: one winner for each key."""
        if not lab.subject.shared:
            pytest.skip(f"{lab.subject.name} is not shared by processes")
        keys = [lab.key() for _ in range(10)]
        granted = processes(lab.subject.url, lab.mode, keys, CLIENTS)
        assert granted == dict.fromkeys(keys, 1)


class HistoryContract:
    """Whatever clients do at once has an order that the machine explains."""

    def test_histories_are_linearizable(self, lab: Lab) -> None:
        """Four clients with eight random operations each, again and again, on fresh keys."""
        seed = random.SystemRandom().randrange(2**32)
        chance = random.Random(seed)  # noqa: S311 - a test's choice
        for turn in range(12):
            history = together(lab.store, lab.key(), [script(chance, client) for client in range(4)])
            assert len(history) == 4 * 8
            assert linearizable(history), f"no order explains turn {turn} of seed {seed}: {history}"


def script(chance: random.Random, client: int) -> list[Event]:
    """Eight operations of a client that mostly claims and settles, and sometimes uses another client's token."""
    events: list[Event] = []
    turns = itertools.count()
    mine = "none"
    for _ in range(8):
        token = mine if chance.random() < 0.8 else f"{chance.randrange(4)}-{chance.randrange(3)}"
        kind = chance.choice(["claim", "claim", "claim", "complete", "fail", "fail", "renew", "release", "release"])
        if kind == "claim":
            mine = f"{client}-{next(turns)}"
            events.append(Claim(None, mine, LONG, LONG))
        elif kind == "complete":
            events.append(Complete(token, b"%d" % client, LONG))
        elif kind == "fail":
            events.append(Fail(token, b"%d" % client, LONG, chance.choice([None, 0, 0, 0])))
        elif kind == "renew":
            events.append(Renew(token, LONG, chance.choice([None, b"%d" % client])))
        else:
            events.append(Release(token))
    return events
