"""End to end: an example in a real server process, an httpx client, and the outside world, which the tests play.

``World`` hears of every execution, outside of the idempotency store, and decides how it goes on. ``Server`` is uvicorn
or gunicorn in a process group of its own; the listening socket is the test's, so that no port is lost between a server
that is killed and its successor. ``App`` is what a test gets.
"""

import http.client
import json
import os
import queue
import re
import secrets
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx

import idemstore
from idemstore.exchange import Snapshot
from idemstore.http import HttpPolicy, single_tenant
from idemstore.keys import encode_key
from idemstore.outcomes import Completed, Failed
from idemstore.testing.proxy import Proxy
from idemstore.testing.servers.keeper import keeper
from idemstore.testing.subject import Subject

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
HERE = Path(__file__).parent
PATIENCE = 30.0
"""Seconds after which a test gives up on what should have happened long ago."""
LEASE = 30.0
HOUR, DAY = 3600.0, 86400.0

Order = Mapping[str, object]
GO_ON: Order = {}
CRASH: Order = {"crash": True}


def status(code: int) -> Order:
    """The outside world refuses, and the example answers with this status."""
    return {"status": code}


class Call(NamedTuple):
    """One execution that reached the outside world."""

    name: str
    arguments: list[str]
    pid: int


class Gate:
    """Where an execution is held up."""

    def __init__(self) -> None:
        self._begun, self._going = threading.Event(), threading.Event()
        self._order = GO_ON
        self.pid = 0

    def begun(self) -> None:
        """Wait until an execution has come here."""
        assert self._begun.wait(PATIENCE), "no execution has begun"

    def go(self, order: Order = GO_ON) -> None:
        """Let it go on."""
        self._order = order
        self._going.set()

    def pass_through(self, call: Call) -> Order:
        """The execution's side."""
        self.pid = call.pid
        self._begun.set()
        self._going.wait(4 * PATIENCE)
        return self._order


class World:
    """What the examples reach outside of themselves: a Unix socket on which every execution reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._next: queue.SimpleQueue[Order | Gate] = queue.SimpleQueue()
        self._gates: dict[str, Gate] = {}
        world = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                answer = world.arrive(Call(**json.loads(self.rfile.readline())))
                with suppress(OSError):  # the server may have been killed meanwhile
                    self.wfile.write(json.dumps(dict(answer)).encode() + b"\n")

        class Listener(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Listener(str(path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def arrive(self, call: Call) -> Order:
        """An execution is here: count it, and say how it goes on."""
        with self._lock:
            self._calls.append(call)
            coming = self._gates.pop(call.name, None) or (GO_ON if self._next.empty() else self._next.get())
        return coming.pass_through(call) if isinstance(coming, Gate) else coming

    def order(self, *orders: Order) -> None:
        """How the next executions go on."""
        for one in orders:
            self._next.put(one)

    @contextmanager
    def hold(self) -> Iterator[Gate]:
        """Hold the next execution up; it goes on at the end at the latest."""
        gate = Gate()
        self._next.put(gate)
        try:
            yield gate
        finally:
            gate.go()

    @contextmanager
    def hold_at(self, name: str) -> Iterator[Gate]:
        """As ``hold``, for the next call of this name."""
        gate = self._gates[name] = Gate()
        try:
            yield gate
        finally:
            gate.go()

    @property
    def calls(self) -> list[Call]:
        """The executions so far."""
        with self._lock:
            return list(self._calls)

    def start_over(self) -> None:
        """Forget them, and what was ordered."""
        with self._lock:
            self._calls.clear()
            self._gates.clear()
            while not self._next.empty():
                self._next.get()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


GRACE = 10
"""Seconds. A worker of gunicorn that has just been forked loses the signal to end; it is killed so much later."""
WORKERS = ("--workers", "2", "--graceful-timeout", str(GRACE))
GUNICORNS: Mapping[str, Sequence[str]] = {
    "gunicorn": (*WORKERS, "--threads", "8"),
    "gunicorn --preload": (*WORKERS, "--threads", "8", "--preload"),
    "gunicorn --timeout 2": (*WORKERS, "--timeout", "2", "--preload"),  # one request at a time, for two seconds
}


def command(kind: str) -> list[str]:
    """How an example is served with the test beside it."""
    if kind == "uvicorn":
        return [sys.executable, str(HERE / "e2e_serve.py"), "FD"]
    return [sys.executable, "-m", "gunicorn", *GUNICORNS[kind], "--bind", "fd://FD", "e2e_serve:app"]


class Server:
    """One server, started, killed and started again on one port. Its output is kept."""

    def __init__(self, command: Sequence[str], directory: Path, env: Mapping[str, str]) -> None:
        """``command``: ``FD`` in it becomes the number of the listening socket."""
        self._plain, self._directory = command, directory
        path = os.pathsep.join([*(str(one) for one in (EXAMPLES, HERE)), os.environ.get("PYTHONPATH", "")])
        self._env = {**os.environ, "HOME": str(directory), "PYTHONUNBUFFERED": "1", **env, "PYTHONPATH": path}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = self._new_client()
        self.start()

    def _new_client(self) -> httpx.Client:
        """A client without connections to a server that is gone."""
        port = self._listener.getsockname()[1]
        limits = httpx.Limits(max_connections=50)
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False, limits=limits)

    def _command(self) -> list[str]:
        """What to run."""
        return [word.replace("FD", str(self._listener.fileno())) for word in self._plain]

    def start(self) -> None:
        """Start it, and return once it answers. Requests that come before wait in the socket's backlog."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._listener.fileno()],
                start_new_session=True,
            )
        keeper().started(self._process.pid, signal.SIGTERM, self.kill)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.client.get("/", timeout=1)
            except httpx.TransportError:
                assert self._process.poll() is None, f"the server ended:\n{self.output()}"
                assert time.monotonic() < until, f"the server does not answer:\n{self.output()}"
            else:
                return

    def kill(self) -> None:
        """SIGKILL to all of it."""
        assert self._process is not None
        self.tell(signal.SIGKILL)
        self._process.wait(PATIENCE)
        keeper().ended(self._process.pid)

    def tell(self, number: int) -> None:
        """A signal to every process of the group that was made at the start."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def terminate(self) -> None:
        """SIGTERM to the server itself; returns once it has heard of it."""
        assert self._process is not None
        said = self.log.stat().st_size
        self._process.terminate()
        until = time.monotonic() + PATIENCE
        while not re.search("Shutting down|Handling signal: term", self.output(said)):
            assert time.monotonic() < until, self.output(said)
            time.sleep(0.01)

    def wait(self) -> None:
        """Until it has ended by itself."""
        assert self._process is not None
        self._process.wait(PATIENCE)
        self.kill()

    def kill_worker(self, pid: int) -> None:
        """SIGKILL to one process of the group."""
        assert self._process is not None
        assert os.getpgid(pid) == self._process.pid != pid
        os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """The successor of a server that was killed."""
        self.renew()
        self.start()

    def renew(self) -> None:
        """New connections: uvicorn closes the one on which an application broke."""
        self.client.close()
        self.client = self._new_client()

    def output(self, since: int = 0) -> str:
        """What it has said."""
        return self.log.read_bytes()[since:].decode(errors="replace")

    def close(self) -> int | None:
        """Stop it politely, or else kill it; its exit status, None where it had to be killed."""
        self.client.close()
        self._listener.close()
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(2 * GRACE)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()


def compact(body: object) -> str:
    """JSON as httpx writes it: another payload has other bytes."""
    return json.dumps(body, separators=(",", ":"))


def through(url: str) -> tuple[str, Proxy | None]:
    """The URL of a store by way of a proxy; a file has none."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return f"{url}?timeout=3", None  # the file is held for as long, where a test takes it away
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Proxy(parts.hostname, parts.port)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}")), proxy


ANYONE = HttpPolicy(scope=single_tenant())
"""For the names of stored keys, which are the same under every policy."""


class App:
    """An example behind a real server, on a store that outlives it."""

    def __init__(self, kind: str, example: str, outside: str, subject: Subject, **env: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="e2e-"))  # short: a socket's path has 107 bytes at most
        self.subject = subject
        self.world = World(self.directory / "world")
        url, self.proxy = through(subject.url)
        self.kind = kind
        self.look = idemstore.open(subject.url)
        named = {"E2E_EXAMPLE": example, "E2E_OUTSIDE": outside, "E2E_WORLD": str(self.world.path)}
        database = str(self.directory / "business.db")
        self.env = {**named, "IDEMSTORE_URL": url, "DATABASE": database, **env}
        try:
            self.server = Server(command(kind), self.directory, self.env)
        except BaseException:
            self._close_rest()
            raise

    def close(self) -> None:
        """Stop everything, and leave nothing behind."""
        ended = self.server.close()
        output = self.server.output()
        self._close_rest()
        assert ended in (0, -signal.SIGTERM), f"the server ended with {ended}:\n{output}"

    def _close_rest(self) -> None:
        self.world.close()
        self.look.close()
        if self.proxy is not None:
            self.proxy.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def second(self) -> Iterator[Server]:
        """Another server of the same application, on the same store."""
        directory = self.directory / "second"
        directory.mkdir()
        server = Server(command(self.kind), directory, self.env)
        try:
            yield server
        finally:
            server.close()

    @property
    def runs(self) -> int:
        """How often something happened in the outside world."""
        return len(self.world.calls)

    def send(self, method: str, path: str, headers: Mapping[str, str], body: object = None) -> httpx.Response:
        """One request."""
        return self.server.client.request(method, path, headers=dict(headers), json=body)

    def raw(self, headers: Mapping[str, str], path: str, body: object) -> httpx.Response:
        """A POST whose headers nobody has tidied up: httpx refuses to send blanks around a value."""
        to = self.server.client.base_url
        with closing(http.client.HTTPConnection(to.host, to.port, timeout=PATIENCE)) as connection:
            connection.request("POST", path, compact(body), {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())

    @contextmanager
    def leaving(self, headers: Mapping[str, str], path: str, body: object) -> Iterator[http.client.HTTPConnection]:
        """A POST whose client goes away at the end, whatever it has read of the answer."""
        to = self.server.client.base_url
        with closing(http.client.HTTPConnection(to.host, to.port, timeout=PATIENCE)) as connection:
            connection.request("POST", path, compact(body), {"Content-Type": "application/json", **headers})
            yield connection

    def get(self, scope: tuple[str, ...], key: str) -> Snapshot | None:
        """The record of a client's key."""
        return self.look.get(ANYONE.key(scope, key))

    def age(self, scope: tuple[str, ...], key: str, seconds: float) -> None:
        """Let time pass for a record."""
        self.subject.age(encode_key(ANYONE.key(scope, key), self.look.limits.key_bytes), seconds)

    def finished(self, scope: tuple[str, ...], key: str) -> bytes | None:
        """What is stored, once the execution has ended; None where it left the key free."""
        outcome = self.look.claim(ANYONE.key(scope, key), lease=1, retention=1, wait=PATIENCE)
        return outcome.result if isinstance(outcome, Completed | Failed) else None

    @contextmanager
    def without_store(self) -> Iterator[None]:
        """The server cannot reach its store: connections are refused, or another program holds the file."""
        if self.proxy is not None:
            self.proxy.cut(refuse=True)
            try:
                yield
            finally:
                self.proxy.accept()
            return
        with closing(sqlite3.connect(urlsplit(self.subject.url).path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


def at_once(count: int, call: Callable[[], httpx.Response]) -> list[httpx.Response]:
    """The answers to requests that are sent at the same time."""
    barrier = threading.Barrier(count)

    def one() -> httpx.Response:
        barrier.wait(PATIENCE)
        return call()

    with ThreadPoolExecutor(count) as pool:
        return [future.result(2 * PATIENCE) for future in [pool.submit(one) for _ in range(count)]]


def new_key() -> str:
    """A key that nobody had."""
    return f"k-{secrets.token_hex(8)}"
