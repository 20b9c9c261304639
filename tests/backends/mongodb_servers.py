"""MongoDB servers for the tests of this family alone: with test commands (fail points), and with users.

Fail points are MongoDB's own: the server itself answers an error, breaks the connection or denies the majority. Where
the program is the emulation, so is what the tests saw.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

from pymongo import MongoClient

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.store import Store
from idemstore.testing.blocking import BlockingStore, LoopThread
from idemstore.testing.servers import ServerUnavailable, mongodb
from idemstore.testing.servers.keeper import remove
from idemstore.testing.servers.process import Process, Spec, assembling, free_address

SCHEMES = {"sync": "mongodb", "async": "mongodb", "motor": "mongodb+motor"}
MODES = list(SCHEMES)

names = count(1)


@contextmanager
def emulation(*flags: str, users: bool = False) -> Iterator[tuple[str, Process]]:
    """A server of its own with these flags: its address and its process. With ``users``: as ``make_users`` says."""
    program = mongodb.find()
    if not isinstance(program, mongodb.Emulation):
        raise ServerUnavailable("mongodb", "these flags are the emulation's")
    address = free_address()
    with assembling("mongodb") as (directory, members):
        config = directory / "empty.toml"
        config.touch()
        where = ("--host", address.host, "--port", str(address.port), "--storage-path", str(directory / "data"))
        base = (sys.executable, "-m", "secantus", "--config", str(config), "--log-level", "WARNING", *where)
        probe = partial(mongodb.primary, address)

        def launch(*more: str) -> Process:
            # Killed, as in the harness: asked to end, it takes ten seconds over its open connections.
            return Process(Spec("mongodb", (*base, *more), directory, probe, deadline=60.0, polite=signal.SIGKILL))

        if users:
            first = launch("--sync-on-commit")
            make_users(f"mongodb://{address}/")
            first.stop()
        process = members["mongodb"] = launch(*flags)
    try:
        yield str(address), process
    finally:
        process.stop()
        remove(directory)


def make_users(url: str) -> None:
    """``app`` may do what the store needs, ``reader`` may read; both live in ``admin``."""
    with MongoClient(url, directConnection=True) as client:
        for name, role in (("app", "readWrite"), ("reader", "read")):
            roles = [{"role": role, "db": "idemstore"}]
            client.admin.command("createUser", name, pwd=f"{name}-password", roles=roles)


class Fail:
    """Fail points of one server."""

    def __init__(self, address: str) -> None:
        self._client: MongoClient[dict[str, object]] = MongoClient(f"mongodb://{address}/?directConnection=true")

    @contextmanager
    def point(
        self, times: int | None = 1, commands: tuple[str, ...] = ("findAndModify",), **data: object
    ) -> Iterator[None]:
        """Let the next ``times`` such commands fail (None: all of them) in the block."""
        mode = "alwaysOn" if times is None else {"times": times}
        self._configure(mode, {"failCommands": list(commands), **data})
        try:
            yield
        finally:
            self._configure("off", {})

    def _configure(self, mode: object, data: dict[str, object]) -> None:
        """Arm or disarm."""
        self._client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


@contextmanager
def opened(mode: str, address: str, query: str = "", user: str = "") -> Iterator[Store | BlockingStore]:
    """A store in this mode, over a collection of its own."""
    url = f"{SCHEMES[mode]}://{user}{address}/idemstore?directConnection=true&collection=own_{next(names)}{query}"
    if mode == "sync":
        with idemstore.open(url) as store:
            yield store
        return
    thread = LoopThread()
    store = BlockingStore(idemstore.open_async(url), thread)
    try:
        yield store
    finally:
        store.close()
        thread.close()


def inner(store: Store | BlockingStore) -> Store | AsyncStore:
    """The store itself."""
    return store.inner if isinstance(store, BlockingStore) else store
