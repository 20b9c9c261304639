"""Stores that break their promises, each in one way, to see that the demo tells. Loaded with ``--plugin``.

``broken://WAY/directory``: the machine and the dialect are those of the memory family; what is broken is the engine.
"""

import os
import pickle
import time
from contextlib import suppress
from pathlib import Path

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.backends.memory import Engine, MemoryDialect, MemoryDriver
from idemstore.errors import AccessDenied, UnsupportedMode
from idemstore.machine import Claim, Event, step
from idemstore.outcomes import ClaimOutcome, InFlight, SettleOutcome
from idemstore.store import Store
from idemstore.url import StoreUrl

PATIENCE = 20.0


class Forgetful(Engine):
    """Knows only its own process: every worker claims every key."""

    def __init__(self, directory: Path) -> None:
        super().__init__()


class Hasty(Engine):
    """Shared by files, but reads and writes without a lock: two claims may read one absence; of one key they do."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """One step; between reading and writing others get in."""
        path = self.directory / key.replace(":", "-")
        before = pickle.loads(path.read_bytes()) if path.exists() else None
        after, outcome = step(before, event, time.time_ns() // 1000)
        if after is not before:
            if before is None:
                self.meet(path.name)
            new = path.with_suffix(f".{time.monotonic_ns()}")
            new.write_bytes(pickle.dumps(after))
            new.rename(path)
        return outcome

    def meet(self, name: str) -> None:
        """Nobody writes the key that was first found absent before a second process has found it absent, too."""
        place = self.directory / "meeting"
        with suppress(FileExistsError):
            place.symlink_to(name)
        if place.readlink().name == name:
            (self.directory / f"met-{os.getpid()}").touch()
            deadline = time.monotonic() + PATIENCE
            while len(list(self.directory.glob("met-*"))) < 2:
                assert time.monotonic() < deadline, "no second process asks for that key"
                time.sleep(0.005)


class Stuck(Forgetful):
    """Says that everything is in flight, for ever."""

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """Never an answer that helps."""
        return InFlight(1.0) if isinstance(event, Claim) else super().apply(key, event)


class Denying(Forgetful):
    """Lets the ping pass and refuses the claims."""

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """Refuse."""
        raise AccessDenied("the server refuses claims: grant the permission")


class Crashing(Forgetful):
    """Has a bug."""

    def apply(self, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """Fail as bugs do."""
        raise ZeroDivisionError("secret text of a client")


WAYS = {"forgetful": Forgetful, "hasty": Hasty, "stuck": Stuck, "denying": Denying, "crashing": Crashing}


class BrokenBackend:
    """Serves ``broken://``."""

    def open(self, url: StoreUrl) -> Store:
        """A store that is broken in the way that the host names."""
        engine = WAYS[url.hosts[0].name](Path(url.path))
        return Store(MemoryDialect(1000), lambda: MemoryDriver(engine), timeout=5, name=str(url))

    def open_async(self, url: StoreUrl) -> AsyncStore:
        """Not needed."""
        raise UnsupportedMode("broken:// is sync")


backend = BrokenBackend()
idemstore.register("broken", "broken_stores:backend")
