"""Django in both modes, and Django REST framework."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import django_site
import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import AsyncClient, AsyncRequestFactory, Client, override_settings
from django_site import POLICY, runs

import idemstore
from idemstore.errors import ConfigurationError
from idemstore.http.choices import LargeRequest
from idemstore.http.django import IdempotencyMiddleware, user_scope
from idemstore.http.facts import Request
from idemstore.testing.adapter_clients import AsgiServed, WsgiServed
from idemstore.testing.adapter_desk import Got
from idemstore.testing.blocking import PATIENCE, LoopThread

KEY = {"x-user": "ann", "idempotency-key": "k"}
USER = {"x-user": "ann"}


class Web:
    """A client of the project in one mode."""

    def __init__(self, mode: str, thread: LoopThread) -> None:
        self.mode, self.thread = mode, thread
        self._served = WsgiServed(WSGIHandler()) if mode == "sync" else AsgiServed(ASGIHandler(), thread)

    def post(self, path: str, headers: dict[str, str] = KEY, body: object = b"{}", method: str = "POST") -> Got:
        """Send a request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        every = {"content-type": "application/json", "x-mode": self.mode, **headers}
        return self._served.request(method, path, tuple(every.items()), data)

    def bodies(self, path: str, headers: dict[str, str] = KEY, method: str = "POST") -> list[bytes]:
        """Twice the same."""
        return [self.post(path, headers, method=method).body for _ in range(2)]


@pytest.fixture(params=["sync", "async"])
def web(request: pytest.FixtureRequest) -> Iterator[Web]:
    """Under WSGI and under ASGI, each test on a store of its own."""
    runs.clear()
    thread = LoopThread()
    name = f"memory://{request.node.name.replace('[', '-').rstrip(']')}"
    with override_settings(IDEMSTORE={"URL": name, "POLICY": "django_site.POLICY"}):
        yield Web(request.param, thread)
    thread.close()


def test_the_first_runs_and_retries_replay(web: Web):
    """Same status, headers and body; the session is not handed out twice; the view had its operation."""
    first, again = web.post("/orders"), web.post("/orders")
    assert (first.status, json.loads(first.body)) == (201, {"order": "order 1", "bytes": 2, "attempt": 1})
    assert (again.status, again.body, again.header("x-order")) == (201, first.body, "7")
    assert (first.header("idempotency-replayed"), again.header("idempotency-replayed")) == (None, "true")
    assert "secret" in (first.header("set-cookie") or "")
    assert again.header("set-cookie") is None
    assert web.post("/orders", body={"other": 1}).status == 422
    assert runs == ["order"]


def test_async_views(web: Web):
    """In both modes; a form is read after its fingerprint was made."""
    form = {**KEY, "content-type": "application/x-www-form-urlencoded"}
    got = [web.post("/aorders", form, b"a=1") for _ in range(2)]
    assert [(one.status, one.body) for one in got] == [(201, b"aorder 1 1")] * 2


def test_views_have_options(web: Web):
    """A policy of their own; none; by method of a class."""
    assert web.post("/pay", USER).problem == "key-required"
    assert web.post("/pay").body == web.post("/pay", body={"other": 1}).body == b"pay 1"
    assert web.bodies("/search") == [b"search 2", b"search 3"]
    assert web.bodies("/things/1", {**KEY, "idempotency-key": "t"}, "PUT") == [b"put 4"] * 2
    assert web.bodies("/things/1") == [b"post 5", b"post 6"]


def test_template_responses_are_rendered_before_they_are_recorded(web: Web):
    """And only once."""
    assert web.bodies("/template") == [b"<b>template 1</b>"] * 2


def test_streams_are_recorded(web: Web):
    """Part by part, in the mode of the server."""
    assert web.bodies("/stream") == [b"stream 1-b-c"] * 2


def test_long_streams_are_recorded(web: Web):
    """More parts than the view may be ahead."""
    whole = b"".join(b"%03d" % number for number in range(200))
    assert web.bodies("/long") == [whole] * 2
    assert runs == ["long"]


def test_cookies_can_be_replayed(web: Web):
    """Each as a cookie of Django."""
    policy = replace(POLICY, not_replayed=frozenset())
    with override_settings(IDEMSTORE={"URL": f"memory://django-cookies-{web.mode}", "POLICY": policy}):
        other = Web(web.mode, web.thread)
        for _ in range(2):
            assert (other.post("/orders").header("set-cookie") or "").strip() == "session=secret; Path=/"


@pytest.mark.parametrize("inner", ["sync_only", "lazy"])
def test_middlewares_behind_it(web: Web, inner: str):
    """A sync one makes it run in sync mode, under ASGI too; one that answers without rendering is rendered."""
    middlewares = ["idemstore.http.django.IdempotencyMiddleware", f"django_site.{inner}"]
    with override_settings(MIDDLEWARE=middlewares):
        other = Web(web.mode, web.thread)
        for path in ("/template",) if inner == "lazy" else ("/template", "/aorders", "/pets"):
            first, again = other.bodies(path, {**KEY, "idempotency-key": path})
            assert first == again
    assert len(runs) == (1 if inner == "lazy" else 4)


def test_djangos_own_clients_are_answered():
    """As the tests of a project would ask."""
    runs.clear()
    data = {"path": "/orders?a=1", "data": b"{}", "content_type": "application/json"}
    with override_settings(IDEMSTORE={"URL": "memory://django-clients", "POLICY": POLICY}):
        assert Client().post(**data, headers=KEY).content == Client().post(**data, headers=KEY).content

    async def main() -> tuple[bytes, bytes]:
        client = AsyncClient()
        with override_settings(IDEMSTORE={"URL": "memory://django-async-clients", "POLICY": POLICY}):
            # not headers=: the async client of Django 4.2.0 loses them
            return (await client.post(**data, **KEY)).content, (await client.post(**data, **KEY)).content

    first, again = asyncio.run(main())
    assert first == again
    assert runs == ["order", "order"]


def test_a_stream_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """Where Django cannot send its first part it forgets it without closing: the view must not wait for ever."""
    monkeypatch.setattr("idemstore.http.django_asgi.UNREAD", 0.01)
    runs.clear()

    async def main() -> tuple[bytes, bytes]:
        with override_settings(IDEMSTORE={"URL": "memory://django-unread", "POLICY": POLICY}):
            handler = ASGIHandler()
        bodies = []
        for _ in range(2):
            request = AsyncRequestFactory().post("/long", **KEY, **{"x-mode": "async"})
            response = await handler.get_response_async(request)
            if not bodies:
                bodies.append(b"")  # it is not read
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    if task.get_name() != "idemstore-keepalive":
                        await asyncio.wait({task}, timeout=PATIENCE)
            else:
                bodies.append(response.content)
        return bodies[0], bodies[1]

    assert len(asyncio.run(main())[1]) == 600
    assert runs == ["long"]


def test_an_error_of_a_view_frees_the_key(web: Web):
    """Django makes a 500 of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.core.handlers.exception.log_response", lambda *args, **more: None)
        assert [web.post("/broken").status for _ in range(2)] == [500, 500]
    assert runs == ["broken", "broken"]
    assert web.post("/orders").status == 201


@pytest.mark.filterwarnings("ignore")
def test_no_view_binds_no_key(web: Web):
    """Django answers by itself, and the key stays free."""
    assert web.post("/nowhere").status == 404
    assert web.post("/orders").status == 201


def test_large_bodies_pass_as_without_the_middleware(web: Web):
    """A multipart upload is larger than Django keeps in memory, and than the policy takes."""
    form = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x\r\n'
    form += b'Content-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"y" * 4_000_000 + b"\r\n--x--\r\n"
    headers = {**KEY, "content-type": "multipart/form-data; boundary=x"}
    assert web.post("/aorders", headers, form).problem == "payload-too-large"
    del headers["idempotency-key"]
    assert web.post("/aorders", headers, form).body == b"aorder 1 1"
    with override_settings(
        IDEMSTORE={
            "URL": "memory://django-large",
            "POLICY": django_site.HttpPolicy(scope=POLICY.scope, max_request=1000, large_request=LargeRequest.PREFIX),
        }
    ):
        other = Web(web.mode, web.thread)
        assert other.post("/aorders", {**headers, **KEY}, form).body == b"aorder 2 1"
        assert other.post("/aorders", {**headers, **KEY}, form).body == b"aorder 2 1"


def test_paths_that_are_not_ascii_are_apart(web: Web):
    """In both modes the path is what Django decoded."""
    seen = set[str]()

    def scope(request: Request) -> str:
        seen.add(f"{request.path} {request.operation}")
        return "ann"

    policy = django_site.HttpPolicy(scope=scope, methods=frozenset({"PUT"}), fingerprint=None)
    path = "/things/ü" if web.mode == "async" else "/things/ü".encode().decode("latin-1")
    with override_settings(IDEMSTORE={"URL": "memory://django-paths", "POLICY": policy}):
        other = Web(web.mode, web.thread)
        assert other.bodies(path, method="PUT") == [b"put 1"] * 2
    assert seen == {"/things/ü PUT /things/<thing>"}


def test_rest_framework(web: Web):
    """Class views, function views, actions; its late rendering runs once, its parsers find the body."""
    first, again = web.post("/pets", body={"name": "rex"}), web.post("/pets", body={"name": "rex"})
    assert (first.status, json.loads(first.body)) == (201, {"pet": "pet 1", "got": {"name": "rex"}})
    assert (again.status, again.body, again.header("content-type")) == (201, first.body, "application/json")
    assert web.post("/fed", USER).problem == "key-required"
    fed = {**KEY, "idempotency-key": "f"}
    assert web.post("/fed", fed, {"a": 1}).body == web.post("/fed", fed, {"a": 1}).body
    assert runs == ["pet", "rendered", "fed", "rendered"]
    zoo = {**KEY, "idempotency-key": "z"}
    assert web.bodies("/zoo", zoo) == [b'"create 5"'] * 2
    assert web.bodies("/zoo/look", zoo) == [b'"look 6"', b'"look 7"']


def test_only_marked_views(web: Web):
    """``MARKED_ONLY``."""
    with override_settings(IDEMSTORE={"URL": "memory://django-marked", "POLICY": POLICY, "MARKED_ONLY": True}):
        other = Web(web.mode, web.thread)
        assert other.bodies("/pay") == [b"pay 1"] * 2
        assert other.post("/orders").body != other.post("/orders").body


def test_the_user_of_django_is_a_scope():
    """Authenticated, or nobody."""

    def asked(user: Any) -> str | None:
        request = django_site.HttpRequest()
        request.user = user
        return user_scope(Request("POST", "/", context={"django.request": request}))

    assert asked(SimpleNamespace(pk=7, is_authenticated=True)) == "user-7"
    assert asked(SimpleNamespace(pk=None, is_authenticated=False)) is None
    assert asked(None) is None


@pytest.mark.parametrize(
    "setting",
    [
        None,
        {},
        {"URL": "memory://"},
        {"URL": "memory://", "POLICY": POLICY, "OTHER": 1},
        {"URL": "memory://", "STORE": "x", "POLICY": POLICY},
        {"STORE": lambda mode: idemstore.open_async("memory://"), "POLICY": POLICY},
    ],
)
def test_mistakes_in_the_settings(setting: object):
    """Heard of when Django starts."""
    with override_settings(IDEMSTORE=setting), pytest.raises(ConfigurationError, match=r"settings\.IDEMSTORE"):
        IdempotencyMiddleware(lambda request: None)
