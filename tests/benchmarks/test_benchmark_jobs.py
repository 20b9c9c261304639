"""The jobs that benchmarks give: contenders are told apart by what they do, and bulk records are real ones."""

import asyncio
from contextlib import contextmanager

import pytest

from benchmarks import loaders
from benchmarks.peers import ours
from benchmarks.peers.contender import Entry, Job, opened
from benchmarks.scale import compare
from idemstore import Completed

KEYS = [f"key-{number}" for number in range(40)]


@pytest.mark.parametrize("entry", [*ours.SYNC, *ours.ASYNC], ids=lambda entry: f"{entry.name}-{entry.mode}")
def test_our_own_contenders_run_each_key_once(entry):
    """New keys run the function, replays do not, and both give the same result."""
    with asyncio.Runner() as runner, opened(entry, "memory://", runner) as contender:
        first, again = contender.run(KEYS, 8), contender.run(KEYS, 8)
        assert (len(first.calls), len(again.calls)) == (len(KEYS), len(KEYS))
        assert not first.raised + again.raised
        assert sorted(contender.job.ran) == sorted(KEYS)
        assert contender.job.most() == 1


def test_a_contender_that_runs_twice_is_found_out():
    """The count is by key, whatever the contender says."""

    @contextmanager
    def careless(url: str, job: Job):
        yield job.run

    with asyncio.Runner() as runner, opened(Entry("careless", careless, "sync"), "", runner) as contender:
        contender.run(KEYS, 4)
        contender.run(KEYS[:1], 1)
        assert contender.job.most() == 2


def test_what_a_contender_raises_is_counted():
    """One that is busy elsewhere says so; the run goes on."""
    with asyncio.Runner() as runner, opened(ours.ASYNC[0], "memory://", runner) as contender:
        contender.job.seconds = 0.02
        timing = contender.run(["one"] * 6, 6)
        assert timing.raised == {"OperationInFlight": 5}
        assert contender.job.most() == 1


def test_keys_of_a_batch_differ_ascend_and_spread():
    """As a B-tree likes them, and so that random keys fall between them."""
    keys = [loaders.key_of(3, number, 1000) for number in range(1000)]
    assert sorted(set(keys)) == keys
    assert {len(key) for key in keys} == {32}
    assert {key[0] for key in keys} == set("0123456789abcdef")


def test_bulk_records_of_sqlite_are_records(tmp_path):
    """The library replays them, and purges those that are over, and no others."""
    place = loaders.Sqlite(tmp_path / "scale.db")
    with place.store as store:
        place.load(1, 100)
        place.load(2, 60, expired=True)
        loaders.check(place, 1, 100, range(100))
        assert place.live() == 101
        assert isinstance(store.claim(loaders.key_of(1, 7, 100), fingerprint=loaders.FINGERPRINT), Completed)
        assert store.purge() == 60
        assert place.live() == 101


def test_sizes_are_compared_in_turns():
    """Both stores are asked as often, and stay as large as they are."""
    small, large = loaders.Memory(), loaders.Memory()
    small.load(0, 1000)
    large.load(0, 2000)
    clock = compare(small, large, {0: 2000}, 20)
    assert {key: len(times) for key, times in clock.times.items()} == {
        (what, where): 20 for what in ("claim", "replay") for where in ("small", "large")
    }
