"""Flask: the extension, options per view."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, request
from flask.views import MethodView

import idemstore
from idemstore.errors import ConfigurationError
from idemstore.http.choices import keep_everything
from idemstore.http.core import OPERATION
from idemstore.http.flask import Idempotency
from idemstore.http.policy import HttpPolicy

POLICY = HttpPolicy(scope=lambda request: request.header("x-user"))
KEY = {"x-user": "ann", "idempotency-key": "k"}


@pytest.fixture
def runs() -> list[str]:
    """What ran."""
    return []


@pytest.fixture
def app(runs: list[str]) -> Flask:
    """Views of every kind."""
    app = Flask("shop")

    @app.post("/orders")
    def order() -> tuple[dict[str, Any], int]:
        runs.append("order")
        attempt = getattr(request.environ.get(OPERATION), "attempt", None)
        return {
            "order": len(runs),
            "amount": request.get_json()["amount"],
            "attempt": attempt,
        }, 201

    @app.post("/pay")
    @Idempotency.on(required=True, fingerprint=None)
    def pay() -> str:
        runs.append("pay")
        return f"pay {len(runs)}"

    @app.post("/search")
    @Idempotency.off
    def search() -> str:
        runs.append("search")
        return f"search {len(runs)}"

    class Thing(MethodView):
        @Idempotency.on(fate=keep_everything)
        def put(self, thing: str) -> tuple[str, int]:
            runs.append("put")
            return f"put {len(runs)}", 500

        def post(self, thing: str) -> str:
            runs.append("post")
            return f"post {len(runs)}"

    inner = Blueprint("inner", "inner", url_prefix="/inner")
    inner.add_url_rule("/things/<thing>", view_func=Thing.as_view("thing"))
    app.register_blueprint(inner)
    return app


def sender(app: Flask) -> Callable[..., tuple[int, str]]:
    """Sends a request; status and text."""
    client = app.test_client()

    def send(path: str, headers: dict[str, str] = KEY, method: str = "POST", amount: int = 1) -> tuple[int, str]:
        got = client.open(path, method=method, headers=headers, json={"amount": amount})
        return got.status_code, got.text.strip()

    return send


def test_views_have_options(app: Flask, runs: list[str]):
    """By the policy of the application; with one of their own; not at all; by method of a class."""
    Idempotency(app, idemstore.open("memory://"), POLICY)
    send = sender(app)
    assert send("/orders") == send("/orders") == (201, '{"amount":1,"attempt":1,"order":1}')
    assert send("/orders", amount=2)[0] == 422
    other = {**KEY, "idempotency-key": "p"}
    assert send("/pay", other, amount=1) == send("/pay", other, amount=2) == (200, "pay 2")
    assert send("/pay", {"x-user": "ann"})[0] == 400
    assert send("/orders", {"x-user": "ann"})[0] == 201
    assert [send("/search")[1] for _ in range(2)] == ["search 4", "search 5"]
    things = {**KEY, "idempotency-key": "t"}
    assert send("/inner/things/1", things, "PUT") == send("/inner/things/1", things, "PUT") == (500, "put 6")
    other = {**KEY, "idempotency-key": "u"}
    assert send("/inner/things/1", other) == send("/inner/things/1", other) == (200, "post 7")


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/nowhere", 404), ("PATCH", "/orders", 405)])
def test_no_view_binds_no_key(app: Flask, method: str, path: str, status: int):
    """Flask answers by itself, and the key stays free."""
    Idempotency(app, idemstore.open("memory://"), POLICY)
    send = sender(app)
    assert send(path, method=method)[0] == status
    assert send("/orders")[0] == 201


def test_only_marked_views(app: Flask, runs: list[str]):
    """And ``init_app``, later; the same extension serves another application."""
    idempotency = Idempotency(marked_only=True)
    idempotency.init_app(app, idemstore.open("memory://"), POLICY)
    idempotency.init_app(Flask("other"), idemstore.open("memory://"), POLICY)
    send = sender(app)
    assert [send("/pay")[1], send("/pay")[1], send("/orders")[1] != send("/orders")[1]] == ["pay 1", "pay 1", True]


def test_the_rule_is_the_operation(app: Flask):
    """A scope by operation is the same for all values of a path parameter."""
    seen = set[str]()

    def scope(request: Any) -> str:
        seen.add(request.operation)
        return "ann"

    Idempotency(app, idemstore.open("memory://"), HttpPolicy(scope=scope, fingerprint=None))
    for thing in "12":
        sender(app)(f"/inner/things/{thing}", {"idempotency-key": thing})
    assert seen == {"POST /inner/things/<thing>"}


def test_an_error_of_a_view_frees_the_key(app: Flask, runs: list[str]):
    """Flask makes a 500 of it."""
    Idempotency(app, idemstore.open("memory://"), POLICY)
    client = app.test_client()
    assert client.post("/orders", headers=KEY, json={"amount_": 1}).status_code == 500
    assert sender(app)("/orders")[0] == 201
    assert len(runs) == 2


def test_mistakes(app: Flask):
    """No store; twice."""
    with pytest.raises(ConfigurationError, match="a store and a policy"):
        Idempotency(app)
    Idempotency(app, idemstore.open("memory://"), POLICY)
    with pytest.raises(ConfigurationError, match="already"):
        Idempotency(app, idemstore.open("memory://"), POLICY)
