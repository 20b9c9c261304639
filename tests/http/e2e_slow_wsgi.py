"""A WSGI application for the tests of long requests."""

import os

import idemstore
from idemstore.http import HttpPolicy, single_tenant
from idemstore.http.wsgi import IdempotencyMiddleware

PART = b"part" * 1000


def work() -> None:
    """The outside world."""


def stream():
    """A first part, work, fifty others."""
    yield PART
    work()
    for _ in range(50):
        yield PART
    yield b"end"


def plain(environ, start_response):
    """Work."""
    if environ["PATH_INFO"] == "/stream":
        start_response("201 Created", [("Content-Type", "text/plain")])
        return stream()
    if environ["REQUEST_METHOD"] == "POST":
        work()
    body = b"done by %d" % os.getpid()
    start_response("201 Created", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


store = idemstore.open(os.environ["IDEMSTORE_URL"])
app = IdempotencyMiddleware(plain, store, HttpPolicy(scope=single_tenant(), lease=3))
