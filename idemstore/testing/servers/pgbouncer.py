"""PgBouncer in transaction mode, before a PostgreSQL of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from idemstore.testing.servers import pgwire
from idemstore.testing.servers.keeper import remove
from idemstore.testing.servers.postgresql import DATABASE, USER, account_for, entrust
from idemstore.testing.servers.process import HOST, Process, Spec, assembling, free_address
from idemstore.testing.servers.server import Server, ServerUnavailable, Settings
from idemstore.testing.servers.waiting import Address


def find() -> Path:
    """Find the program, also where only root's PATH has it."""
    path = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is None:
        raise ServerUnavailable("pgbouncer", "no pgbouncer on PATH: apt-get install pgbouncer")
    return Path(path)


def describe(program: Path) -> str:
    """Return what the program says of itself."""
    answer = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=10, check=True)
    return answer.stdout.splitlines()[0]


def _configure(directory: Path, address: Address, behind: Address, settings: Settings) -> Path:
    """Write the configuration file; the caller's settings come last and win."""
    (directory / "users.txt").write_text(f'"{USER}" ""\n')
    base = {
        "listen_addr": address.host,
        "listen_port": str(address.port),
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": str(directory / "users.txt"),
        "admin_users": USER,
        "pool_mode": "transaction",
        "max_client_conn": "1000",
        "default_pool_size": "20",
        "ignore_startup_parameters": "extra_float_digits",
    }
    lines = (f"{name} = {value}" for name, value in {**base, **settings}.items())
    path = directory / "pgbouncer.ini"
    path.write_text("\n".join(("[databases]", f"* = host={behind.host} port={behind.port}", "[pgbouncer]", *lines, "")))
    return path


def _launch(program: Path, directory: Path, address: Address, behind: Address, settings: Settings) -> Process:
    """Start the proxy."""
    account = account_for("pgbouncer")
    config = _configure(directory, address, behind, settings)
    entrust(directory, account)
    probe = partial(pgwire.ready, address, USER, DATABASE)
    return Process(Spec("pgbouncer", (str(program), str(config)), directory, probe, account=account))


def start(name: str, program: Path, database: Server, settings: Settings) -> Server:
    """Start the proxy before a database, which becomes a member and ends with it."""
    address, target = free_address(), urlsplit(database.url)
    behind = Address(target.hostname or HOST, target.port or 5432)
    with assembling(name) as (directory, members):
        members["pgbouncer"] = proxy = _launch(program, directory, address, behind, settings)
        (version,) = pgwire.ask(address, USER, "pgbouncer", "SHOW VERSION")
        return Server(
            name=name,
            url=f"postgresql://{USER}@{address}/{DATABASE}",
            version=f"{version.removeprefix('PgBouncer ')} (PostgreSQL {database.version})",
            origin=database.origin,
            members=MappingProxyType({**database.members, "pgbouncer": proxy}),
            endpoints=MappingProxyType({"direct": database.url}),
            cleanup=partial(_clean, database, directory),
        )


def _clean(database: Server, directory: Path) -> None:
    """Remove what the proxy and the database left."""
    database.cleanup()
    remove(directory)
