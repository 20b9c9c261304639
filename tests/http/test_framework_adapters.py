"""The contract of adapters, on applications of each framework, over memory, a file and a server."""

from collections.abc import AsyncIterator, Iterator
from typing import IO

import django_site  # noqa: F401 - it configures Django
import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test import override_settings
from django.urls import path
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from flask import Flask
from flask import Response as FlaskResponse
from flask import request as flask_request
from starlette.concurrency import run_in_threadpool

from idemstore.async_store import AsyncStore
from idemstore.http import fastapi as fastapi_adapter
from idemstore.http import flask as flask_adapter
from idemstore.http.choices import keep_everything
from idemstore.http.policy import HttpPolicy
from idemstore.store import Store
from idemstore.testing.adapter_clients import AsgiServed, WsgiServed
from idemstore.testing.adapter_desk import Desk, Reply, Served
from idemstore.testing.adapters import AdapterContract
from idemstore.testing.blocking import LoopThread
from idemstore.testing.families import names
from idemstore.testing.subject import Subject

WANTED = ("memory", "sqlite", "redis")
ANY = ["GET", "POST"]


@pytest.fixture(scope="module", params=[name for name in WANTED if name in names()])
def subject(request: pytest.FixtureRequest, make_subject) -> Subject:
    """Memory, a file, a server."""
    return make_subject(request.param)


def flask_app(desk: Desk) -> Flask:
    """A Flask application before a desk."""
    app = Flask("contract")
    app.config["PROPAGATE_EXCEPTIONS"] = True  # else it makes a response of its own of an error, which is what is kept

    @app.route("/<path:path>", methods=ANY)
    def view(path: str) -> FlaskResponse:
        reply = desk.answer(flask_request.get_data())
        body = b"".join(desk.parts(reply)) if reply.declared and reply.error is None else desk.parts(reply)
        made = FlaskResponse(body, reply.status)
        made.headers.clear()
        made.headers.extend(list(reply.all_headers))
        return made

    return app


def fastapi_app(desk: Desk) -> FastAPI:
    """A FastAPI application before a desk."""
    app = FastAPI()

    async def parts(reply: Reply) -> AsyncIterator[bytes]:
        for part in desk.parts(reply):
            yield part

    @app.api_route("/{path:path}", methods=ANY)
    async def view(request: Request) -> Response:
        reply = await run_in_threadpool(desk.answer, await request.body())
        made: Response
        if reply.declared and reply.error is None and len(reply.parts) < 2:
            made = Response(b"".join(reply.parts), reply.status)
        else:
            made = StreamingResponse(parts(reply), reply.status)
        made.raw_headers = [(name.encode(), value.encode()) for name, value in reply.all_headers]
        return made

    return app


class Site:
    """A Django URL configuration before a desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.urlpatterns = [path("<path:path>", self.view)]

    def view(self, request: HttpRequest, path: str) -> HttpResponseBase:
        """Any path."""
        reply = self.desk.answer(request.body)
        made: HttpResponseBase
        if reply.error is None and len(reply.parts) < 2:
            made = HttpResponse(b"".join(reply.parts), status=reply.status)
        else:
            made = StreamingHttpResponse(self.desk.parts(reply), status=reply.status)
        del made["content-type"]
        for name, value in reply.all_headers:
            made[name] = value
        return made

    async def aview(self, request: HttpRequest, path: str) -> HttpResponseBase:
        """The same, async."""
        made = await run_in_threadpool(self.view, request, path)
        if isinstance(made, StreamingHttpResponse):
            made.streaming_content = aparts(iter(made.streaming_content))
        return made


async def aparts(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """An iterator, async."""
    for part in parts:
        yield part


class DjangoContract(AdapterContract):
    """What differs: Django makes a response of every error, and that is what is kept."""

    @pytest.fixture(autouse=True)
    def _settings(self) -> Iterator[None]:
        """Settings are the process's: they are for one test."""
        self.overridden: list[override_settings] = []
        self.files: list[IO[bytes]] = []
        yield
        for one in reversed(self.overridden):
            one.disable()
        for file in self.files:
            file.close()

    def configure(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, view: str) -> None:
        """A site before a desk."""
        site = Site(desk)
        site.urlpatterns = [path("<path:path>", getattr(site, view))]
        setting = {"STORE": lambda mode: store, "POLICY": policy}
        one = override_settings(ROOT_URLCONF=site, IDEMSTORE=setting, DATA_UPLOAD_MAX_MEMORY_SIZE=None)
        one.enable()
        self.overridden.append(one)

    def test_failures_can_be_kept(self, bench) -> None:
        """A 4xx and a 500 are replayed, as is what Django made of an error."""
        bench.use(fate=keep_everything)
        bench.desk.order(Reply(404, parts=[b"no"]))
        bench.desk.order(Reply(error=ValueError("broken")))
        for key, status in (("a", 404), ("c", 500)):
            first, again = bench.post(key), bench.post(key)
            assert (first.status, again.status, again.body) == (status, status, first.body)
            assert again.header("idempotency-replayed") == "true"
        assert bench.desk.runs == 2


class TestFlask(AdapterContract):
    """The Flask extension."""

    def serve(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, thread: LoopThread) -> Served:
        """Before a Flask application."""
        assert isinstance(store, Store)
        app = flask_app(desk)
        flask_adapter.Idempotency(app, store, policy)
        return WsgiServed(app)


class TestFastapi(AdapterContract):
    """FastAPI's middleware."""

    mode = "async"

    def serve(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, thread: LoopThread) -> Served:
        """Before a FastAPI application."""
        assert isinstance(store, AsyncStore)
        app = fastapi_app(desk)
        fastapi_adapter.Idempotency(store, policy).install(app)
        return AsgiServed(app, thread)


class TestDjango(DjangoContract):
    """Django under WSGI."""

    def serve(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, thread: LoopThread) -> Served:
        """Before a view."""
        self.configure(desk, store, policy, "view")
        return WsgiServed(WSGIHandler())


class Handler(ASGIHandler):
    """Notes its files: where a server cancels it outright, Django leaves them open."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[IO[bytes]] = []

    async def read_body(self, receive) -> IO[bytes]:
        """As Django does."""
        self.files.append(await super().read_body(receive))
        return self.files[-1]


class TestAsyncDjango(DjangoContract):
    """Django under ASGI."""

    mode = "async"

    def serve(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, thread: LoopThread) -> Served:
        """Before an async view."""
        self.configure(desk, store, policy, "aview")
        handler = Handler()
        self.files = handler.files
        return AsgiServed(handler, thread)
