"""The local cache: what is answered without asking, to whom, for how long, and what never is."""

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest

import idemstore
from idemstore import cache as module
from idemstore.cache import MAX_AGE, MAX_RESULT, LocalCache
from idemstore.errors import InvalidInput, StoreClosed, StoreTimeout, UnknownOption, UnsupportedMode
from idemstore.exchange import Snapshot
from idemstore.machine import MICROSECONDS, Record, State
from idemstore.outcomes import DONE, MISMATCH, Claimed, Completed, Failed, InFlight
from idemstore.store import Store
from idemstore.testing.blocking import BlockingStore, Client, LoopThread
from idemstore.testing.faults import Faults, inject

PRINT, OTHER = b"f" * 32, b"g" * 32


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest):
    """Opens a store in one mode and counts its round trips."""
    thread = LoopThread() if request.param == "async" else None
    stores: list[Client] = []

    def make(url: str = "memory://?local_cache=3") -> tuple[Client, Faults]:
        plain = idemstore.open(url) if thread is None else BlockingStore(idemstore.open_async(url), thread)
        faults = Faults()
        stores.extend((plain, inject(plain, faults)))
        return stores[-1], faults

    yield make
    for store in stores:
        store.close()
    if thread is not None:
        thread.close()


Open = Callable[..., tuple[Client, Faults]]


def finish(store: Client, key: str, result: bytes = b"r", fingerprint: bytes | None = None, **kept: object) -> None:
    """Claim and complete."""
    claim = store.claim(key, fingerprint=fingerprint)
    assert isinstance(claim, Claimed)
    assert store.complete(key, claim.token, result, **kept) == DONE  # type: ignore[arg-type]


def trips(faults: Faults, call: Callable[[], object]) -> tuple[object, int]:
    """What a call answers, and how many round trips it takes."""
    before = faults.round_trips
    return call(), faults.round_trips - before


def test_replays_take_one_round_trip_in_all(opened: Open):
    """The first after the completion is fetched; the later ones touch no network."""
    store, faults = opened()
    finish(store, "key")
    assert trips(faults, lambda: [store.claim("key") for _ in range(10)]) == ([Completed(b"r")] * 10, 1)
    assert trips(faults, lambda: store.claim("key", wait=1, token="mine")) == (Completed(b"r"), 0)


def test_final_failures_are_kept_too(opened: Open):
    """A failure that may be retried is not: it changes."""
    store, faults = opened()
    for retry_after, expected in ((None, 1), (100, 10)):
        key = f"key-{retry_after}"
        claim = store.claim(key)
        assert isinstance(claim, Claimed)
        store.fail(key, claim.token, b"no", retry_after=retry_after)
        answers, count = trips(faults, lambda key=key: [store.claim(key) for _ in range(10)])
        assert {type(answer) for answer in answers} == {Failed}  # type: ignore[attr-defined]
        assert count == expected


def test_what_another_process_completed(opened: Open):
    """It is learnt by the first replay, fetched by the second, and here from the third on."""
    store, faults = opened("memory://theirs?local_cache=3")
    theirs = idemstore.open("memory://theirs")
    finish(theirs, "key", fingerprint=PRINT)  # type: ignore[arg-type]
    assert trips(faults, lambda: store.claim("key", fingerprint=PRINT)) == (Completed(b"r"), 1)
    assert trips(faults, lambda: store.claim("key", fingerprint=PRINT)) == (Completed(b"r"), 1)
    assert trips(faults, lambda: store.claim("key", fingerprint=PRINT)) == (Completed(b"r"), 0)


def test_another_payload_is_refused_from_memory(opened: Open):
    """The fingerprint that the record was claimed with counts, not that of whoever fetched it."""
    store, faults = opened()
    finish(store, "key", fingerprint=PRINT)
    assert store.claim("key") == Completed(b"r")
    assert trips(faults, lambda: store.claim("key", fingerprint=OTHER)) == (MISMATCH, 0)
    assert trips(faults, lambda: store.claim("key", fingerprint=PRINT)) == (Completed(b"r"), 0)
    finish(store, "none")
    for _ in range(2):
        assert store.claim("none", fingerprint=OTHER) == Completed(b"r")


def test_the_fetch_refuses_another_payload(opened: Open):
    """The claim that fetches the record is judged like any other."""
    store, faults = opened()
    finish(store, "key", fingerprint=PRINT)
    assert trips(faults, lambda: store.claim("key", fingerprint=OTHER)) == (MISMATCH, 1)
    assert trips(faults, lambda: store.claim("key", fingerprint=PRINT)) == (Completed(b"r"), 0)


def test_forget_takes_the_entry_along(opened: Open):
    """Also where the answer to it is lost; the next claim is a claim."""
    store, faults = opened()
    for lost in (False, True):
        finish(store, "key")
        for _ in range(2):
            assert store.claim("key") == Completed(b"r")
        if lost:
            faults.lose_reply()
            with pytest.raises(StoreTimeout):
                store.forget("key")
        else:
            assert store.forget("key")
        claim = store.claim("key")
        assert isinstance(claim, Claimed)
        store.release("key", claim.token)


def test_what_is_fetched_while_it_is_forgotten_is_not_kept(opened: Open):
    """A reply that left the server before the deletion and comes after it."""
    store, faults = opened()
    finish(store, "key")
    stop = faults.stop_after()
    answers: list[object] = []
    fetching = threading.Thread(target=lambda: answers.append(store.claim("key")))
    fetching.start()
    assert stop.reached()
    assert store.forget("key")
    stop.go()
    fetching.join()
    assert answers == [Completed(b"r")]
    assert isinstance(store.claim("key"), Claimed)


def test_what_is_fetched_before_the_deletion_is_not_kept_after_it(opened: Open):
    """The deletion is on its way while somebody fetches the record, and finds it there."""
    store, faults = opened()
    finish(store, "key")
    stop = faults.stop_before()
    forgetting = threading.Thread(target=store.forget, args=("key",))
    forgetting.start()
    assert stop.reached()
    assert [store.claim("key") for _ in range(3)] == [Completed(b"r")] * 3
    stop.go()
    forgetting.join()
    assert isinstance(store.claim("key"), Claimed)


def test_an_entry_ends_with_its_record(opened: Open):
    """A short retention: the replay ends when the record does, and the key can be claimed again."""
    store, _ = opened()
    finish(store, "key", retention=1.5)
    answers: list[object] = []
    until = time.monotonic() + 20
    while time.monotonic() < until and not (answers and isinstance(answers[-1], Claimed)):
        answers.append(store.claim("key", lease=60))
        time.sleep(0.01)
    assert isinstance(answers[-1], Claimed)
    assert len(answers) > 5


def snapshot(result: bytes = b"r", expires_in: float | None = None, state: State = State.COMPLETED) -> Snapshot:
    """A finished record, seen at second 100."""
    now = 100 * MICROSECONDS
    expires = None if expires_in is None else now + round(expires_in * MICROSECONDS)
    return Snapshot(Record(state, "t", 1, 1, None, None, expires, None, result), now)


@pytest.mark.parametrize(("expires_in", "kept"), [(None, MAX_AGE), (1e6, MAX_AGE), (30, 30), (0.5, 0.5)])
def test_how_long_an_entry_is_kept(expires_in: float | None, kept: float):
    """No longer than its record, counted from before the question; and never longer than the bound."""
    for since, found in ((-kept + 0.1, Completed(b"r")), (-kept, None)):
        cache = LocalCache(3)
        cache.keep("key", snapshot(expires_in=expires_in), None, time.monotonic() + since, 0)
        assert cache.find("key", None) == found


def test_an_old_entry_is_asked_for_again():
    """It makes room, and the next claim is a fetch."""
    cache = LocalCache(3)
    cache.keep("key", snapshot(), None, time.monotonic() - MAX_AGE, 0)
    assert cache.asked("key") is None
    assert cache.find("key", None) is None
    assert cache.asked("key") is not None
    assert not cache._kept
    assert cache._bytes == 0


def test_what_is_not_finished_is_not_kept():
    """An execution in flight, a record that is absent or expired, a failure that backs off."""
    now = 100 * MICROSECONDS
    running = Record(State.IN_FLIGHT, "t", 1, 1, None, now + 1, now + 2)
    backing = Record(State.FAILED, "t", 1, 1, None, None, None, now + 1, b"r")
    over = snapshot(expires_in=0)
    for found in (None, Snapshot(running, now), Snapshot(backing, now), over):
        cache = LocalCache(3)
        cache._note("key")
        assert cache.keep("key", found, None, time.monotonic(), 0) is None
        assert cache.find("key", None) is None
        assert cache.asked("key") is None


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Entries that were used least recently go first; so many of them, so many bytes, and no large result at all."""
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    cache, now = LocalCache(3), time.monotonic()
    for key in "abc":
        cache.keep(key, snapshot(b"x" * 20), None, now, 0)
    assert cache.find("a", None) == Completed(b"x" * 20)
    cache.keep("d", snapshot(b"x" * 20), None, now, 0)
    assert [key for key in "abcd" if cache.find(key, None)] == ["a", "c", "d"]
    cache.keep("e", snapshot(b"x" * 70), None, now, 0)
    assert [key for key in "abcde" if cache.find(key, None)] == ["d", "e"]
    assert cache._bytes == 90
    cache.keep("e", snapshot(b""), None, now, 0)
    assert cache._bytes == 20
    assert cache.keep("f", snapshot(b"x" * (MAX_RESULT + 1)), None, now, 0) is None
    for number in range(10):
        cache._note(f"k{number}")
    assert len(cache._finished) == 3


def test_room_is_made_while_others_look():
    """A thread that is answered from memory reorders the entries at any moment, in the middle of making room, too."""
    cache, now = LocalCache(2), time.monotonic()

    class Interrupted(type(cache._kept)):  # type: ignore[misc]
        """Another thread has its turn whenever an iteration has begun."""

        def __iter__(self):
            found = super().__iter__()
            cache.find("a", None)
            return found

    cache._kept = Interrupted()
    for key in "abc":
        cache.keep(key, snapshot(b"x"), None, now, 0)
    assert len(cache._kept) == 2
    assert cache._bytes == 2


def test_large_results_are_claimed_every_time(opened: Open):
    """They are neither kept nor fetched in vain."""
    store, faults = opened()
    finish(store, "key", b"x" * (MAX_RESULT + 1))
    _, count = trips(faults, lambda: [store.claim("key") for _ in range(4)])
    assert count == 4


def test_bad_arguments_are_refused_though_the_answer_is_known(opened: Open):
    """As they are without a cache."""
    store, _ = opened()
    finish(store, "key")
    assert [store.claim("key") for _ in range(2)] == [Completed(b"r")] * 2
    bad: list[dict[str, object]] = [
        {"lease": -1},
        {"retention": 0},
        {"token": ""},
        {"fingerprint": b""},
        {"fingerprint": "text"},
        {"wait": -1},
    ]
    for arguments in bad:
        with pytest.raises(InvalidInput):
            store.claim("key", **arguments)  # type: ignore[arg-type]


def test_a_closed_store_answers_nothing(opened: Open):
    """Not even from memory."""
    store, _ = opened()
    finish(store, "key")
    assert [store.claim("key") for _ in range(2)] == [Completed(b"r")] * 2
    store.close()
    with pytest.raises(StoreClosed):
        store.claim("key")


def test_claims_in_flight_are_never_answered_from_memory(opened: Open):
    """Others see them change."""
    store, faults = opened()
    claim = store.claim("key")
    assert isinstance(claim, Claimed)
    answers, count = trips(faults, lambda: [store.claim("key") for _ in range(3)])
    assert {type(answer) for answer in answers} == {InFlight}  # type: ignore[attr-defined]
    assert count == 3


def test_it_is_off_unless_the_url_says_otherwise(opened: Open):
    """Every replay asks."""
    store, faults = opened("memory://")
    finish(store, "key")
    assert trips(faults, lambda: [store.claim("key") for _ in range(5)]) == ([Completed(b"r")] * 5, 5)
    for wrong in ("-1", "x", "1e9"):
        with pytest.raises(UnknownOption, match="local_cache"):
            idemstore.open(f"memory://?local_cache={wrong}")


def test_what_joins_a_transaction_has_no_cache(tmp_path):
    """What is seen there may be rolled back."""
    store = idemstore.open(f"sqlite:///{tmp_path}/idem.db?local_cache=5")
    with pytest.raises(UnsupportedMode):
        store.on(object())
    joinable = Store(store._dialect, store._connect, timeout=5, name="joined", join=lambda connection: store._connect())
    joinable._cache = LocalCache(3)
    inside = joinable.on(object())
    finish(inside, "key")  # type: ignore[arg-type]
    assert inside._cache is None
    store.close()
    inside.close()


def test_many_threads():
    """Replays, completions and deletions side by side: every answer is one that the record could give."""
    store = idemstore.open("memory://?local_cache=8")
    wrong: list[object] = []

    def work(seed: int) -> None:
        for number in range(400):
            key = f"k{(seed + number) % 16}"
            outcome = store.claim(key)
            if isinstance(outcome, Claimed):
                store.complete(key, outcome.token, key.encode())
            elif isinstance(outcome, Completed) and outcome.result != key.encode():
                wrong.append(outcome)
            if number % 37 == seed:
                store.forget(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    cache = store._cache
    assert cache is not None
    assert len(cache._kept) <= 8
    assert cache._bytes == sum(len(entry.outcome.result) for entry in cache._kept.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_begins_with_an_empty_cache():
    """What another thread was doing to it when the process was forked does not matter."""
    store = idemstore.open("memory://?local_cache=8")
    finish(store, "key")  # type: ignore[arg-type]
    assert [store.claim("key") for _ in range(2)] == [Completed(b"r")] * 2
    cache = store._cache
    assert cache is not None
    with cache._lock:
        child = os.fork()
        if child == 0:
            empty = store._cache is not None and not store._cache._kept and not store._cache._lock.locked()
            os._exit(0 if empty and store.claim("key") == Completed(b"r") else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert cache._kept


def test_a_hit_makes_no_driver():
    """The cache stands before it."""
    store = idemstore.open_async("memory://?local_cache=3")

    async def main() -> None:
        claim = await store.claim("key")
        assert isinstance(claim, Claimed)
        await store.complete("key", claim.token, b"r")
        assert [await store.claim("key") for _ in range(2)] == [Completed(b"r")] * 2
        driver, store._driver = store._driver, None
        assert await store.claim("key") == Completed(b"r")
        assert store._driver is None
        store._driver = driver
        await store.close()

    asyncio.run(main())
