"""Servers as processes of our own: started, awaited, signalled and stopped by pid, never by name."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from idemstore.testing.servers import guard
from idemstore.testing.servers.keeper import keeper, remove, workspace
from idemstore.testing.servers.server import Member, PortTaken, ServerFailed
from idemstore.testing.servers.waiting import DEADLINE, Address, until

HOST = "127.0.0.1"
_POLITE_SECONDS = 10.0
_TAIL = 3000


@dataclass(frozen=True, slots=True)
class Account:
    """A user other than root for servers that refuse to run as root."""

    name: str
    uid: int
    gid: int


def unprivileged() -> Account | None:
    """Return an existing account to run as when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("nobody", "postgres", "daemon"):
        if name in known:
            return Account(name, known[name].pw_uid, known[name].pw_gid)
    raise LookupError("no account nobody, postgres or daemon exists here to run it as")


_given: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nothing uses, never the same one twice.

    It lies below the range of outgoing connections: otherwise a client could take it while its server is down, or, by
    trying again and again, even connect to itself.
    """
    for _ in range(1000):
        port = 15000 + secrets.randbelow(17000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise OSError("no free loopback port between 15000 and 32000")


def free_address() -> Address:
    """Return a free port on the loopback address."""
    return Address(HOST, free_port())


def in_wheel(package: str, *parts: str) -> Path | None:
    """Find a file inside an installed package without importing it."""
    spec = find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or ()
    files = (Path(place, *parts) for place in places)
    return next((file for file in files if file.exists()), None)


@dataclass(frozen=True, slots=True)
class Spec:
    """How to start one process, and how to see that it answers."""

    name: str
    argv: tuple[str, ...]
    directory: Path
    probe: Callable[[], object]
    polite: signal.Signals = signal.SIGTERM
    account: Account | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    deadline: float = DEADLINE

    @property
    def log(self) -> Path:
        """The file that collects what the process writes."""
        return self.directory / f"{self.name}.log"


class Process:
    """One server process."""

    __slots__ = ("_popen", "spec")

    def __init__(self, spec: Spec) -> None:
        """Start it and wait until it answers, else raise `ServerFailed`."""
        self.spec = spec
        self._popen = self._spawn()
        self._await()

    @property
    def pid(self) -> int:
        """The process id, also after its end."""
        return self._popen.pid

    def running(self) -> bool:
        """Whether the process is there (frozen or not)."""
        return self._popen.poll() is None

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the process in a session of its own, so that Ctrl-C is for the test run alone."""
        spec, account = self.spec, self.spec.account
        with open(spec.log, "ab") as log:
            popen = subprocess.Popen(
                spec.argv,
                cwd=spec.directory,
                env={**os.environ, **spec.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        keeper().started(popen.pid, spec.polite, self.stop)
        return popen

    def _await(self) -> None:
        """Probe until it answers; one that ended or stays silent is an error with the tail of its log."""
        try:
            until(self.spec.probe, self.spec.deadline, self._alive)
        except TimeoutError as error:
            self._fail(str(error))
        except BaseException:
            self.stop()
            raise

    def _alive(self) -> None:
        """Raise if the process has ended."""
        if not self.running():
            self._fail(f"ended with exit status {self._popen.returncode}")

    def _fail(self, what: str) -> None:
        """Clear away the remains and raise."""
        tail = self.log()
        self.stop()
        kind = PortTaken if "already in use" in tail else ServerFailed
        raise kind(self.spec.name, f"{self.spec.argv[0]}: {what}; the end of its log:\n{tail}")

    def pause(self) -> None:
        """Freeze it and its children (SIGSTOP)."""
        guard.signal_tree(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        guard.signal_tree(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it and its children at once (SIGKILL)."""
        if self.running():
            guard.signal_tree(self.pid, signal.SIGKILL)
        self._reap()

    def restart(self) -> None:
        """Start it again with the same options; wait until it answers."""
        self.stop()
        self._popen = self._spawn()
        self._await()

    def stop(self) -> None:
        """Stop it politely, then by force."""
        if self.running():
            guard.signal_tree(self.pid, signal.SIGCONT)
            guard.deliver(self.pid, self.spec.polite)
            try:
                self._popen.wait(_POLITE_SECONDS)
            except subprocess.TimeoutExpired:
                guard.signal_tree(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        """Collect the exit status; from now on the pid may be anybody's."""
        self._popen.wait()
        keeper().ended(self.pid)

    def log(self) -> str:
        """Return the end of what it wrote."""
        try:
            return self.spec.log.read_bytes()[-_TAIL:].decode(errors="replace")
        except FileNotFoundError:
            return ""


def _stop_all(members: Mapping[str, Member]) -> None:
    """Stop what has been started so far."""
    for member in members.values():
        member.stop()


@contextmanager
def assembling(name: str) -> Iterator[tuple[Path, dict[str, Member]]]:
    """Give a directory and a dict for a server's members; if the block fails, stop them and remove it."""
    with ExitStack() as undo:
        directory = workspace(name)
        undo.callback(remove, directory)
        members: dict[str, Member] = {}
        undo.callback(_stop_all, members)
        try:
            yield directory, members
        except ServerFailed as error:
            raise error.of(name) from error
        undo.pop_all()
