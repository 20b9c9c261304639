"""The contract of adapters, on the plain ASGI and WSGI middlewares, over memory and server families."""

import pytest

from idemstore.async_store import AsyncStore
from idemstore.http import asgi, wsgi
from idemstore.http.policy import HttpPolicy
from idemstore.store import Store
from idemstore.testing.adapter_clients import AsgiServed, WsgiServed, asgi_app, wsgi_app
from idemstore.testing.adapter_desk import Desk, Served
from idemstore.testing.adapters import AdapterContract
from idemstore.testing.blocking import LoopThread
from idemstore.testing.families import names
from idemstore.testing.subject import Subject

WANTED = ("memory", "sqlite", "redis", "postgresql")


@pytest.fixture(scope="module", params=[name for name in WANTED if name in names()])
def subject(request: pytest.FixtureRequest, make_subject) -> Subject:
    """Memory, a file, a server."""
    return make_subject(request.param)


class TestAsgi(AdapterContract):
    """The ASGI middleware."""

    mode = "async"

    def serve(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, thread: LoopThread) -> Served:
        """Before a plain application."""
        assert isinstance(store, AsyncStore)
        return AsgiServed(asgi.IdempotencyMiddleware(asgi_app(desk), store, policy), thread)


class TestWsgi(AdapterContract):
    """The WSGI middleware."""

    def serve(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, thread: LoopThread) -> Served:
        """Before a plain application."""
        assert isinstance(store, Store)
        return WsgiServed(wsgi.IdempotencyMiddleware(wsgi_app(desk), store, policy))
