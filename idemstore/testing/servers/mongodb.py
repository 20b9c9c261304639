"""MongoDB as a replica set of one node: a real mongod where there is one, else an emulation, labelled as such."""

from __future__ import annotations

import importlib.metadata
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from idemstore.testing.servers import mongowire
from idemstore.testing.servers.keeper import remove
from idemstore.testing.servers.process import Process, Spec, assembling, free_address
from idemstore.testing.servers.server import Server, ServerFailed, ServerUnavailable
from idemstore.testing.servers.waiting import Address, NotReady, until

REPLICA_SET = "rs0"
EMULATION = "secantusdb==0.7.0b3"
"""All of its releases are betas, so it is pinned."""


@dataclass(frozen=True, slots=True)
class Mongod:
    """A real mongod."""

    path: str

    def describe(self) -> str:
        """Return what the program says of itself."""
        answer = subprocess.run([self.path, "--version"], capture_output=True, text=True, timeout=10, check=True)
        return answer.stdout.splitlines()[0]


@dataclass(frozen=True, slots=True)
class Emulation:
    """The SecantusDB package in this environment."""

    release: str

    def describe(self) -> str:
        """Return its name and release."""
        return f"SecantusDB {self.release} (an emulation)"


def find() -> Mongod | Emulation:
    """Find a mongod, else the emulation."""
    if path := shutil.which("mongod"):
        return Mongod(path)
    if find_spec("secantus"):
        return Emulation(importlib.metadata.version("secantusdb"))
    raise ServerUnavailable(
        "mongodb", f"no mongod on PATH: install MongoDB or start Docker; for an emulation, pip install {EMULATION}"
    )


def primary(address: Address) -> None:
    """Raise unless the node takes writes."""
    if not mongowire.command(address, "hello").get("isWritablePrimary"):
        raise NotReady("not a primary yet")


def settle(address: Address) -> None:
    """Wait until the node takes writes."""
    try:
        until(partial(primary, address))
    except TimeoutError as error:
        raise ServerFailed("mongodb", str(error)) from error


def initiate(address: Address, itself: Address) -> None:
    """Make a fresh node, which knows itself by the second address, the primary of its replica set."""
    member: mongowire.Document = {"_id": 0, "host": str(itself)}
    try:
        mongowire.command(address, "replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
    except (OSError, NotReady) as error:
        raise ServerFailed("mongodb", f"replSetInitiate: {error}") from error
    settle(address)


def version(address: Address) -> str:
    """Return the version that the server reports."""
    return str(mongowire.command(address, "buildInfo")["version"])


def url(address: Address, replica_set: str, *options: str) -> str:
    """Return the URL of a database on a server."""
    return f"mongodb://{address}/idemstore?{'&'.join((f'replicaSet={replica_set}', *options))}"


def _launch_mongod(program: Mongod, directory: Path, address: Address) -> Process:
    """Start a real node."""
    (directory / "data").mkdir()
    where = ("--dbpath", str(directory / "data"), "--bind_ip", address.host, "--port", str(address.port))
    argv = (program.path, *where, "--replSet", REPLICA_SET)
    return Process(Spec("mongodb", argv, directory, partial(mongowire.command, address, "ping")))


def _launch_emulation(directory: Path, address: Address) -> Process:
    """Start the emulation; the empty file keeps it from reading a configuration of the user's.

    It syncs on every commit, as MongoDB does for majority writes; otherwise it forgets its last writes when killed.
    So it may be killed at any time, and is: now and then it hangs when asked to end.
    """
    config = directory / "empty.toml"
    config.touch()
    where = ("--host", address.host, "--port", str(address.port), "--storage-path", str(directory / "data"))
    flags = ("--config", str(config), "--log-level", "WARNING", "--sync-on-commit")
    argv = (sys.executable, "-m", "secantus", *flags, *where)
    return Process(Spec("mongodb", argv, directory, partial(primary, address), polite=signal.SIGKILL))


def _real(name: str, program: Mongod) -> Server:
    """Start a replica set of one real node."""
    address = free_address()
    with assembling(name) as (directory, members):
        members["mongodb"] = _launch_mongod(program, directory, address)
        initiate(address, address)
        return Server(
            name=name,
            url=url(address, REPLICA_SET),
            version=version(address),
            origin="process",
            members=MappingProxyType(members),
            settled=partial(settle, address),
            cleanup=partial(remove, directory),
        )


def _emulated(name: str, program: Emulation) -> Server:
    """Start the emulation, which calls itself a replica set of one node."""
    address = free_address()
    with assembling(name) as (directory, members):
        members["mongodb"] = _launch_emulation(directory, address)
        return Server(
            name=name,
            url=url(address, "secantus", "retryWrites=false"),
            version=f"{version(address)} as emulated by SecantusDB {program.release}",
            origin="process",
            members=MappingProxyType(members),
            emulation=True,
            cleanup=partial(remove, directory),
        )


def start(name: str, program: Mongod | Emulation) -> Server:
    """Start one server."""
    match program:
        case Mongod():
            return _real(name, program)
        case Emulation():
            return _emulated(name, program)
