"""The parts of the demo that need no process: plan, journal, ledger, verdict."""

import os
from pathlib import Path

import pytest

from idemstore.demo.journal import Charge, Entry, Journal, Tail, What
from idemstore.demo.ledger import Ledger, StaleFence, charges
from idemstore.demo.plan import Fault, Settings, faults, moments, names, requests, surprises
from idemstore.demo.verdict import Verdict, judge


def test_every_caller_is_some_workers_and_all_workers_take_the_keys_in_one_order():
    """Each caller of each key is asked for exactly once, and the workers meet on the same keys."""
    settings = Settings("x://", keys=7, workers=3, attempts=8, seed=4)
    lists = [requests(settings, worker) for worker in (1, 2, 3)]
    everything = [request for one in lists for request in one]
    assert sorted(everything) == [(key, caller) for key in sorted(names(settings)) for caller in range(8)]
    orders = [list(dict.fromkeys(request.key for request in one)) for one in lists]
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize(("keys", "kills", "stalls"), [(40, 9, 2), (1, 7, 3), (5, 0, 0), (3, 1, 0)])
def test_the_plan_has_as_many_faults_as_were_asked_for(keys: int, kills: int, stalls: int):
    """Kills at points and at any moment add up, and so do the stalls, however few the keys."""
    settings = Settings("x://", keys=keys, kills=kills, stalls=stalls, seed=1)
    planned = [fault for some in faults(settings).values() for fault in some]
    assert planned.count(Fault.STALL) == stalls
    assert len(planned) - stalls + surprises(settings) == kills
    assert len(moments(settings)) == surprises(settings)
    assert all(0 < moment < keys * settings.attempts for moment in moments(settings))


def test_the_seed_repeats_the_plan():
    """The same seed plans the same; another one does not."""
    plans = [(requests(one, 1), faults(one)) for one in (Settings("x://", seed=seed) for seed in (1, 1, 2))]
    assert plans[0] == plans[1] != plans[2]


def test_settings_travel_whole_and_do_not_show_the_url():
    """A worker reads what the parent wrote, and a password is not in the repr."""
    settings = Settings("redis://:secret@h/0", plugins=("a", "b"), run="r", lease=0.5)
    assert Settings.from_json(settings.to_json()) == settings
    assert "secret" not in repr(settings)


def test_a_line_cut_short_by_a_kill_is_void_and_spoils_no_other(tmp_path: Path):
    """What a killed process left half written is ended by the next writer and skipped by readers."""
    path = tmp_path / "journal"
    Journal(path, 1).write(What.STARTED)
    with path.open("ab") as file:
        file.write(b'["tried", 1, "key-')
    tail = Tail(path)
    assert tail.entries() == [Entry(What.STARTED, 1)]
    Journal(path, 1).write(What.FINISHED)
    assert tail.entries() == [Entry(What.FINISHED, 1)]
    assert Tail(path).entries() == [Entry(What.STARTED, 1), Entry(What.FINISHED, 1)]


def test_a_journal_that_is_not_there_yet_is_empty(tmp_path: Path):
    """The parent reads before a worker has started."""
    assert Tail(tmp_path / "none").entries() == []


def test_the_ledger_charges_as_often_as_it_is_asked(tmp_path: Path):
    """It must not hide a store that hands a key out twice: it knows nothing of idempotency."""
    ledger = Ledger(tmp_path / "ledger")
    receipts = {ledger.charge("k", 5, 1), ledger.charge("k", 5, 2), ledger.charge("k", 6, 1)}
    assert len(receipts) == 3
    assert {row.receipt for row in charges(tmp_path / "ledger")} == receipts


def test_the_ledger_refuses_the_fence_of_an_owner_that_was_replaced(tmp_path: Path):
    """Once a newer owner asked, an older one can neither charge nor ask; what was charged before is found."""
    old, new = Ledger(tmp_path / "ledger"), Ledger(tmp_path / "ledger")
    assert new.find("k", 6, 2) is None
    with pytest.raises(StaleFence):
        old.charge("k", 5, 1)
    with pytest.raises(StaleFence):
        old.find("k", 5, 1)
    receipt = new.charge("k", 6, 2)
    assert old.find("k", 7, 3) == receipt
    assert old.charge("other", 5, 1)
    assert len(charges(tmp_path / "ledger")) == 2


def test_a_charge_is_on_the_disk_before_the_receipt_is_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The ledger syncs the file after writing to it."""
    calls: list[str] = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda *given: (calls.append("write"), write(*given))[1])
    monkeypatch.setattr(os, "fsync", lambda *given: (calls.append("fsync"), fsync(*given))[1])
    Ledger(tmp_path / "ledger").charge("k", 1, 1)
    assert calls == ["write", "fsync"]


GOOD_LEDGER = [Charge("a", 1, 1, "ra"), Charge("b", 1, 2, ""), Charge("b", 1, 2, "rb")]
GOOD_JOURNAL = [
    Entry(What.CLAIMED, 1, "a", 1),
    Entry(What.ANSWERED, 1, "a", 0, "ra"),
    Entry(What.REPLAYED, 2, "a", 1, "ra"),
    Entry(What.CLAIMED, 2, "b", 1),
    Entry(What.CLAIMED, 1, "b", 2),
    Entry(What.REPLAYED, 1, "b", 0, "rb"),
    Entry(What.REPLAYED, 2, "b", 1, "rb"),
]


def verdict(ledger: list[Charge], journal: list[Entry]) -> Verdict:
    """On two keys with two callers each."""
    return judge(["a", "b"], 2, ledger, journal)


def test_a_run_as_promised_is_judged_so():
    """One charge for each key and one receipt for all of its callers; a question to the ledger is no charge."""
    found = verdict(GOOD_LEDGER, GOOD_JOURNAL)
    assert found.once
    assert found.headline() == "every key executed once"
    assert found.charges == 2


@pytest.mark.parametrize(
    ("ledger", "journal", "said"),
    [
        ([*GOOD_LEDGER, Charge("a", 2, 2, "rx")], GOOD_JOURNAL, "executed more than once: a (2 times)"),
        (GOOD_LEDGER[:1], GOOD_JOURNAL, "never executed: b"),
        (GOOD_LEDGER, [*GOOD_JOURNAL[:-1], Entry(What.REPLAYED, 2, "b", 1, "rx")], "different results: b"),
        (GOOD_LEDGER, GOOD_JOURNAL[:-1], "without a result: 1 of 4 callers"),
        (GOOD_LEDGER, [*GOOD_JOURNAL, Entry(What.CLAIMED, 2, "a", 1)], "handed to several workers: a (2 times)"),
    ],
)
def test_whatever_is_not_as_promised_is_named(ledger: list[Charge], journal: list[Entry], said: str):
    """Each complaint is found, names its keys, and takes the good verdict away."""
    found = verdict(ledger, journal)
    assert not found.once
    assert "every key executed once" not in found.headline()
    assert any(said in line for line in found.lines()), found.lines()


def test_a_long_list_of_keys_is_cut():
    """A verdict stays readable."""
    many = {f"k{number:03}": 2 for number in range(50)}
    lines = Verdict(50, 50, 50, 100, repeated=many).lines()
    assert "k019 (2 times) and 30 more" in lines[0]
