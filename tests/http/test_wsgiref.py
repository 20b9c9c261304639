"""The WSGI middleware on a real server, the one of the standard library: its input is the bare socket."""

import http.client
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

import idemstore
from idemstore.http import HttpPolicy, LargeRequest
from idemstore.http.wsgi import IdempotencyMiddleware
from idemstore.http.wsgi_types import Environ

runs: list[bytes] = []


class Threads(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True
    request_queue_size = 50


class Quiet(WSGIRequestHandler):
    """No lines on standard error."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Reads its whole body, and says how much that was."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    runs.append(body)
    start_response("201 Created", [("Content-Type", "text/plain")])
    return [b"%d of " % len(runs), b"%d bytes" % len(body)]


@pytest.fixture
def port() -> Iterator[int]:
    """A server in a thread."""
    runs.clear()
    policy = HttpPolicy(
        scope=lambda request: "ann", wait=20, max_request=1000, large_request=LargeRequest.PREFIX, max_response=500_000
    )
    with idemstore.open("memory://") as store:
        wrapped = IdempotencyMiddleware(app, store, policy)
        server = make_server("127.0.0.1", 0, wrapped, server_class=Threads, handler_class=Quiet)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(20)
        server.server_close()


def post(port: int, key: str, body: bytes) -> tuple[int, bytes, str | None]:
    """Status, body, and whether it is a replay."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/orders", body, {"Idempotency-Key": key})
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("idempotency-replayed")
    finally:
        connection.close()


@pytest.mark.parametrize("size", [0, 1000, 1001, 300_000])
def test_bodies_of_every_size(port: int, size: int):
    """Nothing is read beyond the declared length, where a socket would wait for ever."""
    body = b"x" * size
    assert post(port, "k", body) == (201, b"1 of %d bytes" % size, None)
    assert post(port, "k", body) == (201, b"1 of %d bytes" % size, "true")
    assert runs == [body]


def test_twenty_at_once(port: int):
    """One runs, the others get its response."""
    with ThreadPoolExecutor(20) as pool:
        answers = [future.result() for future in [pool.submit(post, port, "k", b"{}") for _ in range(20)]]
    assert {answer[:2] for answer in answers} == {(201, b"1 of 2 bytes")}
    assert sum(answer[2] == "true" for answer in answers) == 19


def test_bad_headers(port: int):
    """400, whatever they hold."""
    for key in ("\xfc", "k" * 300, "a,b", '"a'):
        status, body, _ = post(port, key, b"{}")
        assert (status, b"invalid-key" in body) == (400, True)
    assert runs == []
