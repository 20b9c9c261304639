"""What to run in Docker for each server that has an official image."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.parse import quote

from idemstore.testing.servers import dynamodb, mongodb, mongowire, pgwire, postgresql, resp, tls
from idemstore.testing.servers.docker import Container, Recipe, assembling
from idemstore.testing.servers.keeper import remove, workspace
from idemstore.testing.servers.process import HOST, free_port
from idemstore.testing.servers.redis import PASSWORD
from idemstore.testing.servers.server import Server, Settings
from idemstore.testing.servers.waiting import Address

_OPEN = ("--save", "", "--appendonly", "no", "--protected-mode", "no")
"""A container listens on all of its own interfaces, so without a password it would refuse us."""


def _words(settings: Settings) -> list[str]:
    """Return settings as command line options of redis-server."""
    return [word for name, value in settings.items() for word in (f"--{name}", *(value.split() or [""]))]


def _certified(port: int) -> tuple[list[str], dict[str, bytes], bytes]:
    """Return the options and files of a TLS listener, and the authority."""
    with TemporaryDirectory() as place:
        made = tls.make(Path(place))
        files = {"/server.pem": made.certificate.read_bytes(), "/server.key": made.key.read_bytes()}
        authority = made.authority.read_bytes()
    paths = ["--tls-cert-file", "/server.pem", "--tls-key-file", "/server.key", "--tls-ca-cert-file", "/ca.pem"]
    return ["--tls-port", str(port), "--tls-auth-clients", "no", *paths], {**files, "/ca.pem": authority}, authority


def redis(name: str, image: str, scheme: str, settings: Settings) -> Server:
    """Start one Redis or Valkey with a TLS listener, and one that demands a password."""
    program = f"{scheme}-server"
    port, guarded, secure = free_port(), free_port(), free_port()
    extra, files, authority = _certified(secure) if tls.available() else ([], {}, b"")
    with assembling() as members:
        command = (program, "--port", str(port), *_OPEN, *extra, *_words(settings))
        main = members["main"] = Container(name, Recipe(image, command, (port, secure), files=files), resp.ready)
        locked = (program, "--port", str(guarded), *_OPEN, "--requirepass", PASSWORD)
        probe = partial(resp.ready, password=PASSWORD)
        auth = members["auth"] = Container(name, Recipe(image, locked, (guarded,)), probe)
        endpoints = {"auth": f"{scheme}://:{PASSWORD}@{auth.address}/0"}
        directory = workspace(name)
        if authority and main.address.host == HOST:
            (directory / "ca.pem").write_bytes(authority)
            endpoints["tls"] = f"{scheme}s://{HOST}:{secure}/0?ca_certs={quote(str(directory / 'ca.pem'))}"
        return Server(
            name=name,
            url=f"{scheme}://{main.address}/0",
            version=resp.version(main.address),
            origin="docker",
            members=MappingProxyType(members),
            endpoints=MappingProxyType(endpoints),
            cleanup=partial(remove, directory),
        )


def _pg_ready(address: Address) -> None:
    """Raise unless PostgreSQL answers queries."""
    pgwire.ready(address, postgresql.USER, "postgres")


def postgres(name: str, image: str, settings: Settings) -> Server:
    """Start one PostgreSQL."""
    port = free_port()
    env = {"POSTGRES_USER": postgresql.USER, "POSTGRES_DB": "postgres", "POSTGRES_HOST_AUTH_METHOD": "trust"}
    command = ("postgres", "-c", f"port={port}", *postgresql.options(settings))
    with assembling() as members:
        main = members["postgresql"] = Container(name, Recipe(image, command, (port,), env), _pg_ready)
        url, endpoints = postgresql.urls(main.address)
        return Server(
            name=name,
            url=url,
            version=postgresql.set_up(main.address),
            origin="docker",
            members=MappingProxyType(members),
            endpoints=MappingProxyType(endpoints),
        )


def dynamo(name: str, image: str) -> Server:
    """Start one DynamoDB Local that keeps its data in memory."""
    port = free_port()
    program = (*dynamodb.JVM, "-Djava.library.path=./DynamoDBLocal_lib", "-jar", "DynamoDBLocal.jar")
    command = (*program, *dynamodb.SERVER, "-port", str(port))
    with assembling() as members:
        main = members["dynamodb"] = Container(name, Recipe(image, command, (port,)), dynamodb.ready)
        return Server(
            name=name,
            url=dynamodb.url(main.address),
            version=dynamodb.version(main.log()),
            origin="docker",
            members=MappingProxyType(members),
            endpoints=MappingProxyType({"endpoint": f"http://{main.address}"}),
            env=dynamodb.CREDENTIALS,
        )


def mongo(name: str, image: str) -> Server:
    """Start one MongoDB as a replica set; clients connect to it directly, wherever Docker is."""
    port = free_port()
    command = ("mongod", "--replSet", mongodb.REPLICA_SET, "--bind_ip_all", "--port", str(port))
    with assembling() as members:
        probe = partial(mongowire.command, name="ping")
        main = members["mongodb"] = Container(name, Recipe(image, command, (port,)), probe)
        mongodb.initiate(main.address, Address(HOST, port))
        return Server(
            name=name,
            url=mongodb.url(main.address, mongodb.REPLICA_SET, "directConnection=true"),
            version=mongodb.version(main.address),
            origin="docker",
            members=MappingProxyType(members),
            settled=partial(mongodb.settle, main.address),
        )
