"""Look-ups of names end with the deadline of their call, whatever the resolver does."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn, cast

import pytest

import idemstore
from idemstore.errors import StoreTimeout, StoreUnavailable
from idemstore.resolve import addresses

if TYPE_CHECKING:
    from idemstore.backends.postgresql.lobby import Lobby

SLACK = 4.0
"""Seconds that a loaded machine may take on top."""


class Resolver:
    """In place of the system's: it stalls for names of ``.stalls``, and counts."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []
        self._own = socket.getaddrinfo

    def __call__(self, host: str, port: object, *args: int, **more: int) -> object:
        """As ``socket.getaddrinfo``."""
        if host.endswith(".stalls"):
            self.asked.append(host)
            self.go.wait(30)
            return self._own("127.0.0.1", port, *args, **more)
        return self._own(host, port, *args, **more)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """One that stalls."""
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.go.set()


def test_addresses_are_not_looked_up(resolver: Resolver):
    """Nor is the directory of a socket."""
    for host in ("127.0.0.1", "::1", "fe80::1%eth0", "/run/postgresql", "@abstract"):
        assert addresses(host, 0.0) == (host,)


def test_a_name_is_looked_up():
    """Each address once."""
    found = addresses("localhost", time.monotonic() + 10)
    assert "127.0.0.1" in found
    assert len(set(found)) == len(found)
    for host in ("no-such-host.invalid", "a" * 300):
        with pytest.raises(OSError, match=f"{host[:3]}|known"):
            addresses(host, time.monotonic() + 20)


def test_a_resolver_that_stalls_holds_one_thread_for_a_name(resolver: Resolver):
    """However many ask; who asks while it goes on gets its answer."""
    for _ in range(3):
        with pytest.raises(TimeoutError):
            addresses("db.stalls", time.monotonic() + 0.02)
    assert resolver.asked == ["db.stalls"]
    resolver.go.set()
    assert addresses("db.stalls", time.monotonic() + 10) == ("127.0.0.1",)


def test_a_child_asks_anew(resolver: Resolver):
    """The thread that its parent waits for is not there."""
    with pytest.raises(TimeoutError):
        addresses("fork.stalls", time.monotonic() + 0.02)
    pid = os.fork()
    if pid == 0:
        resolver.go.set()
        os._exit(0 if addresses("fork.stalls", time.monotonic() + 10) == ("127.0.0.1",) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch):
    """That is an error of the look-up, and the next one tries again."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            addresses("localhost", time.monotonic() + 10)
    assert addresses("localhost", time.monotonic() + 10)


@pytest.mark.parametrize(
    ("package", "url"),
    [
        ("redis", "redis://db.stalls:6379?timeout=0.4"),
        ("redis", "rediss://db.stalls:6379?timeout=0.4"),
        ("psycopg", "postgresql://u@db.stalls/d?timeout=0.4"),
        ("boto3", "dynamodb+http://db.stalls:8000/table?timeout=0.4&region=us-east-1"),
    ],
)
def test_a_call_ends_although_the_resolver_stalls(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, package: str, url: str
):
    """Within its time-out, in sync mode; async clients look names up in a thread of the loop."""
    pytest.importorskip(package)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with idemstore.open(url) as store:
        began = time.monotonic()
        with pytest.raises((StoreTimeout, StoreUnavailable)):
            store.ping()
        assert time.monotonic() - began < 0.4 + SLACK
    assert resolver.asked


def test_a_name_is_verified_by_tls_not_its_address(resolver: Resolver):
    """Redis over TLS: what is looked up is the name, and the name is what the certificate must have."""
    pytest.importorskip("redis")
    from idemstore.backends.redis.sync_pool import _TlsLine

    resolver.go.set()
    listening = socket.create_server(("127.0.0.1", 0))
    line = _TlsLine(host="db.stalls", port=listening.getsockname()[1], ssl_check_hostname=True)
    line.deadline = time.monotonic() + 0.3
    with pytest.raises(TimeoutError):
        line._connect()  # nobody there speaks TLS
    assert line.host == "db.stalls"
    listening.close()


def test_listeners_without_a_thread_are_done_without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A waiter polls; that is logged once, and the next waiter tries again."""
    pytest.importorskip("redis")
    pytest.importorskip("psycopg")
    from idemstore.backends.postgresql.listener import Listener as PostgresqlListener
    from idemstore.backends.redis.sync_listener import Listener as RedisListener

    def unused(*_: object) -> NoReturn:
        raise AssertionError("nobody connects")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    postgresql, redis = PostgresqlListener(unused, cast("Lobby", None)), RedisListener(unused)
    for _ in range(3):
        postgresql.start()
        redis.add(b"channel", lambda: None)
    assert [record.name for record in caplog.records] == ["idemstore.postgresql", "idemstore.redis"]
    assert all("waiters poll" in record.getMessage() for record in caplog.records)
    postgresql.close()
    redis.close()
