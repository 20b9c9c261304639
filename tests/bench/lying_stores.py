"""Stores that break the promise "exactly one Claimed per key", to see that the benchmark tells. Loaded by ``--plugin``.

``lying://forgetful`` claims every key anew; ``lying://lapse`` hands one claim in fifty out twice, of keys that several
ask for; ``lying://honest`` is the memory family under a scheme that has no floor; ``lying://slow`` answers seldom.
"""

import itertools
import time

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.backends.memory import AsyncMemoryDriver, Engine, MemoryDialect, MemoryDriver
from idemstore.errors import StoreTimeout
from idemstore.machine import Claim, Event
from idemstore.outcomes import Claimed, ClaimOutcome, Completed, SettleOutcome
from idemstore.store import Store
from idemstore.url import StoreUrl


class Forgetful(Engine):
    """Knows no key for longer than one claim."""

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """One step, on nothing."""
        if isinstance(event, Claim):
            self.records.pop(key, None)
        return super().apply(key, event)


class Lapse(Engine):
    """Errs seldom."""

    def __init__(self) -> None:
        super().__init__()
        self._replays = itertools.count(1)

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """One step; once in fifty replays, a lie."""
        outcome = super().apply(key, event)
        if isinstance(outcome, Completed) and "-m" in key and next(self._replays) % 50 == 0:
            return Claimed(token="f" * 32, fence=1, attempt=2)
        return outcome


class Slow(Engine):
    """Loses every third answer, after a while."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = itertools.count(1)

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """One step."""
        if "-seeded-" not in key and next(self._calls) % 3 == 0:
            time.sleep(0.001)
            raise StoreTimeout("no answer in time")
        return super().apply(key, event)


WAYS = {"forgetful": Forgetful, "lapse": Lapse, "honest": Engine, "slow": Slow}


class LyingBackend:
    """Serves ``lying://``."""

    def open(self, url: StoreUrl) -> Store:
        """A store that lies in the way that the host names."""
        engine = WAYS[url.hosts[0].name]()
        return Store(MemoryDialect(100_000), lambda: MemoryDriver(engine), timeout=5, name=str(url))

    def open_async(self, url: StoreUrl) -> AsyncStore:
        """The same."""
        engine = WAYS[url.hosts[0].name]()
        return AsyncStore(MemoryDialect(100_000), lambda: AsyncMemoryDriver(engine), timeout=5, name=str(url))


backend = LyingBackend()
idemstore.register("lying", "lying_stores:backend")
