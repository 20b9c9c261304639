"""The contract of adapters, on applications of each framework, over memory, a file and a server."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from flask import Flask
from flask import Response as FlaskResponse
from flask import request as flask_request
from starlette.concurrency import run_in_threadpool

from idemstore.async_store import AsyncStore
from idemstore.http import fastapi as fastapi_adapter
from idemstore.http import flask as flask_adapter
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
