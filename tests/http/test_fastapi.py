"""FastAPI and Starlette: options per route, the dependency, the OpenAPI document."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import idemstore
from idemstore.async_guard import AsyncOperation
from idemstore.errors import ConfigurationError
from idemstore.http.choices import json_fingerprint, keep_everything
from idemstore.http.fastapi import Idempotency
from idemstore.http.policy import HttpPolicy
from idemstore.http.routes import paths
from idemstore.http.starlette import IdempotencyMiddleware, idempotent, not_idempotent
from idemstore.http.views import Changes
from idemstore.testing.adapter_clients import AsgiServed
from idemstore.testing.adapter_desk import Got
from idemstore.testing.blocking import LoopThread


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    got: Got

    @property
    def status_code(self) -> int:
        """The status."""
        return self.got.status

    @property
    def headers(self) -> dict[str, str]:
        """The headers."""
        return dict(self.got.headers)

    @property
    def text(self) -> str:
        """The body."""
        return self.got.body.decode()

    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.got.body)


class Web:
    """A client of an application on a loop of its own; errors are raised here."""

    def __init__(self, app: Any) -> None:
        self.thread, self.app, self.errors = THREADS[-1], app, []

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        """Send a request: ``json`` or ``content``."""
        body = json.dumps(more["json"]).encode() if "json" in more else more.get("content", "").encode()
        pairs = (*(headers or {}).items(), ("content-type", "application/json"))
        got = AsgiServed(self._noting, self.thread).request(method, path, pairs, body)
        if self.errors:
            raise self.errors.pop()
        return Answer(got)

    async def _noting(self, scope: Any, receive: Any, send: Any) -> None:
        """The application; what it raises is noted."""
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            self.errors.append(error)
            raise

    def post(self, path: str, **more: Any) -> Answer:
        """A POST."""
        return self.request("POST", path, **more)

    def get(self, path: str) -> Answer:
        """A GET."""
        return self.request("GET", path)


THREADS: list[LoopThread] = []


@pytest.fixture(autouse=True)
def thread() -> Iterator[LoopThread]:
    """The loop of a test."""
    THREADS.append(LoopThread())
    yield THREADS[-1]
    THREADS.pop().close()


POLICY = HttpPolicy(scope=lambda request: request.header("x-user"))
KEY = {"x-user": "ann", "idempotency-key": "k"}
USER = {"x-user": "ann"}


def client(build: Callable[[FastAPI, Idempotency, list[str]], None], policy: HttpPolicy = POLICY, **more: Any):
    """A client of an application whose routes note that they ran."""
    runs: list[str] = []
    idempotency = Idempotency(idemstore.open_async("memory://"), policy, **more)
    app = FastAPI()
    idempotency.install(app)
    build(app, idempotency, runs)
    return Web(app), runs


def shop(app: FastAPI, idempotency: Idempotency, runs: list[str]) -> None:
    """Routes of every kind."""

    @app.post("/orders", status_code=201)
    async def order(body: dict[str, int]) -> str:
        runs.append("order")
        return f"order {len(runs)}"

    @app.post("/pay", dependencies=[idempotency.on(required=True, fingerprint=None, in_flight_status=425)])
    def pay() -> str:
        runs.append("pay")
        return f"pay {len(runs)}"

    @app.post("/search", dependencies=[idempotency.off()])
    async def search() -> str:
        runs.append("search")
        return f"search {len(runs)}"

    @app.put("/things/{thing}")
    async def put(thing: str, operation: Annotated[AsyncOperation | None, idempotency.on()]) -> str:
        runs.append("put")
        return f"attempt {operation and operation.attempt}"

    router = APIRouter(prefix="/inner", dependencies=[idempotency.on(replay_status=208)])

    @router.post("/a/{part}")
    async def a(part: str) -> str:
        runs.append(f"a{part}")
        return part

    @router.post("/b", dependencies=[idempotency.off()])
    async def b() -> str:
        runs.append("b")
        return "b"

    app.include_router(router, prefix="/outer")
    sub = FastAPI()

    @sub.post("/deep")
    async def deep() -> str:
        runs.append("deep")
        return f"deep {len(runs)}"

    app.mount("/sub", sub)


def post(web: Web, path: str, headers: dict[str, str] = KEY, method: str = "POST") -> tuple[int, Any]:
    """Status and JSON."""
    got = web.request(method, path, headers=headers, json={"amount": 1})
    return got.status_code, got.json()


def test_a_route_is_guarded_by_the_policy_of_the_application():
    """A plain route replays; another payload is refused."""
    web, runs = client(shop)
    assert [post(web, "/orders"), post(web, "/orders")] == [(201, "order 1")] * 2
    assert web.post("/orders", headers=KEY, json={"amount": 2}).status_code == 422
    assert runs == ["order"]


def test_a_route_has_a_policy_of_its_own():
    """It requires a key where others do not, and takes any payload."""
    web, runs = client(shop)
    status, problem = post(web, "/pay", USER)
    assert (status, problem["type"].rpartition("/")[2]) == (400, "key-required")
    assert [post(web, "/pay"), post(web, "/pay")] == [(200, "pay 1")] * 2
    assert web.post("/pay", headers=KEY, json={"amount": 2}).json() == "pay 1"
    assert post(web, "/orders", USER) == (201, "order 2")
    assert runs == ["pay", "order"]


def test_a_route_opts_out():
    """It runs every time; a bad key is none of its business."""
    web, _runs = client(shop)
    assert [post(web, "/search")[1], post(web, "/search")[1]] == ["search 1", "search 2"]
    assert post(web, "/search", {**USER, "idempotency-key": "\x01"})[0] == 200


def test_a_route_opts_in():
    """PUT is no method of the policy; the route's dependency says so, and gets the operation."""
    web, runs = client(shop)
    assert [post(web, "/things/1", method="PUT") for _ in range(2)] == [(200, "attempt 1")] * 2
    assert post(web, "/things/1", USER, "PUT") == (200, "attempt None")
    assert runs == ["put", "put"]


def test_only_marked_routes():
    """``marked_only``: the others are left alone."""
    web, _runs = client(shop, marked_only=True)
    assert [post(web, "/orders")[1], post(web, "/orders")[1]] == ["order 1", "order 2"]
    assert [post(web, "/pay")[1], post(web, "/pay")[1]] == ["pay 3"] * 2


def test_routers_have_options_and_their_routes_override_them():
    """The innermost dependency counts, below two prefixes."""
    web, runs = client(shop)
    assert [post(web, "/outer/inner/a/1")[0] for _ in range(2)] == [200, 208]
    assert [post(web, "/outer/inner/b")[0] for _ in range(2)] == [200, 200]
    assert runs == ["a1", "b", "b"]


def test_mounted_applications_are_guarded():
    """By the policy of the outer one."""
    web, _runs = client(shop)
    assert [post(web, "/sub/deep"), post(web, "/sub/deep")] == [(200, "deep 1")] * 2


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/things/1", 405), ("/sub/nowhere", 404)])
def test_no_route_binds_no_key(path: str, status: int):
    """The application answers by itself, and the key stays free."""
    web, _runs = client(shop)
    assert post(web, path)[0] == status
    assert post(web, "/orders") == (201, "order 1")


def test_the_template_is_the_operation():
    """A scope by operation is the same for all values of a path parameter."""
    seen = set[str]()

    def scope(request):
        seen.add(request.operation)
        return "ann"

    web, _ = client(shop, HttpPolicy(scope=scope, fingerprint=None))
    for path in ("/outer/inner/a/1", "/outer/inner/a/2", "/sub/deep"):
        post(web, path, {"idempotency-key": path})
    assert seen == {"POST /outer/inner/a/{part}", "POST /sub/deep"}


def test_paths_of_the_policy_still_count():
    """A policy that names its routes guards these, and those that opt in."""
    web, runs = client(shop, HttpPolicy(scope=lambda request: "ann", routes=paths("/orders")))
    for path in ("/orders", "/sub/deep", "/pay"):
        post(web, path, {"idempotency-key": path})
        post(web, path, {"idempotency-key": path})
    assert runs == ["order", "deep", "deep", "pay"]


def test_routes_that_are_added_later_are_guarded():
    """To the application, and to a router that is included already."""
    router = APIRouter()

    def build(app: FastAPI, idempotency: Idempotency, runs: list[str]) -> None:
        shop(app, idempotency, runs)
        app.include_router(router, prefix="/late")

    web, runs = client(build)
    post(web, "/orders")

    async def late() -> str:
        runs.append("late")
        return f"late {len(runs)}"

    router.post("/one")(late)
    web.app.post("/two")(late)
    for path in ("/late/one", "/two"):
        first = post(web, path, {**USER, "idempotency-key": path})
        assert first in [(200, "late 2"), (200, "late 3"), (404, {"detail": "Not Found"})]
        assert post(web, path, {**USER, "idempotency-key": path}) == first


def test_validation_errors_are_answers():
    """FastAPI's own 422 is kept as a client error; the key answers it again."""
    web, _runs = client(shop)
    for _ in range(2):
        got = web.post("/orders", headers=KEY, json={"amount": "x"})
        assert (got.status_code, got.headers["content-type"]) == (422, "application/json")
    assert got.headers["idempotency-replayed"] == "true"


def test_without_its_middleware_a_dependency_is_an_error():
    """Nothing runs unprotected in silence."""
    app, idempotency = FastAPI(), Idempotency(idemstore.open_async("memory://"), POLICY)

    @app.post("/", dependencies=[idempotency.on()])
    async def root() -> str:
        return "ran"

    with pytest.raises(ConfigurationError, match=r"install\(\)"):
        Web(app).post("/", headers=KEY)


def test_an_unknown_option_is_an_error():
    """At import."""
    idempotency = Idempotency(idemstore.open_async("memory://"), POLICY)
    with pytest.raises(ConfigurationError, match="no field lose"):
        idempotency.on(lose=1)


def test_options_are_the_fields_of_the_policy():
    """None is missing."""
    assert set(Changes.__annotations__) == {one.name for one in fields(HttpPolicy) if one.init}


def test_openapi_shows_header_and_problems():
    """Header, 400, 409, 422 where the policy is in force; the route's own policy counts; nothing where it is off."""
    web, _ = client(shop)
    document = web.get("/openapi.json").json()
    assert document == web.get("/openapi.json").json()

    def said(path: str, method: str = "post") -> tuple[list[tuple[str, bool]], list[str]]:
        part = document["paths"][path][method]
        headers = [(one["name"], one["required"]) for one in part.get("parameters", []) if one["in"] == "header"]
        problems = [s for s, one in part["responses"].items() if "application/problem+json" in one.get("content", {})]
        return headers, sorted(problems)

    assert said("/orders") == ([("Idempotency-Key", False)], ["400", "409", "422"])
    assert said("/pay") == ([("Idempotency-Key", True)], ["400", "425"])
    assert said("/things/{thing}", "put") == ([("Idempotency-Key", False)], ["400", "409", "422"])
    assert said("/outer/inner/a/{part}") == ([("Idempotency-Key", False)], ["400", "409", "422"])
    assert said("/search") == said("/outer/inner/b") == ([], [])
    both = document["paths"]["/orders"]["post"]["responses"]["422"]
    assert set(both["content"]) == {"application/json", "application/problem+json"}
    assert "IdempotencyProblem" in document["components"]["schemas"]


class Both(HTTPEndpoint):
    """An endpoint with an option for one of its methods."""

    runs = 0

    @idempotent(methods=frozenset({"PUT"}), fate=keep_everything)
    async def put(self, request: Request) -> PlainTextResponse:
        """Fails."""
        Both.runs += 1
        return PlainTextResponse(f"failed {Both.runs}", 500)

    @not_idempotent
    async def post(self, request: Request) -> PlainTextResponse:
        """Runs."""
        Both.runs += 1
        return PlainTextResponse(str(Both.runs))


def test_starlette():
    """Decorators on functions and methods, nested mounts, a mounted application without routes."""
    runs: list[str] = []

    async def orders(request: Request) -> PlainTextResponse:
        runs.append("orders")
        return PlainTextResponse(f"orders {len(runs)}")

    async def plain(scope, receive, send) -> None:
        runs.append("plain")
        await PlainTextResponse(f"plain {len(runs)}")(scope, receive, send)

    @idempotent(required=True, fingerprint=json_fingerprint)
    async def pay(request: Request) -> PlainTextResponse:
        runs.append("pay")
        return PlainTextResponse(f"pay {len(runs)}")

    Both.runs = 0
    guard = Middleware(IdempotencyMiddleware, store=idemstore.open_async("memory://"), policy=POLICY)
    inner = Mount("/v1", routes=[Route("/pay", pay, methods=["POST"]), Route("/orders", orders, methods=["POST"])])
    app = Starlette(
        routes=[Mount("/api", routes=[inner]), Route("/both", Both), Mount("/m", plain)], middleware=[guard]
    )
    web = Web(app)

    def texts(path: str, method: str = "POST", **more: str) -> list[str]:
        headers = {"x-user": "ann", "idempotency-key": path + method, **more}
        return [web.request(method, path, headers=headers, content="{}").text for _ in range(2)]

    assert texts("/api/v1/orders") == ["orders 1"] * 2
    assert texts("/api/v1/pay") == ["pay 2"] * 2
    assert web.post("/api/v1/pay", headers=USER).status_code == 400
    assert texts("/m/any") == ["plain 3"] * 2
    assert texts("/both", "PUT") == ["failed 1"] * 2
    assert texts("/both", "POST") == ["2", "3"]


def test_other_applications_are_told_which_middleware_is_theirs():
    """An application without routes."""

    async def app(scope, receive, send) -> None:
        """Nothing."""

    guarded = IdempotencyMiddleware(app, idemstore.open_async("memory://"), POLICY)
    with pytest.raises(ConfigurationError, match=r"idemstore\.http\.asgi"):
        Web(guarded).post("/")
