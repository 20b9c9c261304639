"""Whatever a client sends: never a 500 of the middleware; what is no key is a 400 that stores nothing.

schemathesis against an application of FastAPI; then, for what a HTTP client refuses to send, raw ASGI and raw WSGI.
"""

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import schemathesis
from fuzz_shop import POLICY, Watched, shop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idemstore.http import asgi, wsgi
from idemstore.http.facts import Headers
from idemstore.testing.adapter_clients import AsgiServed, WsgiServed, asgi_app, wsgi_app
from idemstore.testing.adapter_desk import Desk, Got
from idemstore.testing.blocking import LoopThread

SOME = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
FEW = settings(SOME, max_examples=40)
PROBLEM = "application/problem+json"

BYTE = st.characters(max_codepoint=255)
ANY = st.text(BYTE, max_size=40) | st.sampled_from(
    [
        "",
        " ",
        '"',
        '""',
        '"a',
        'a"',
        '"a"b',
        '"a";',
        '"a";b=',
        '"a";b="',
        "\\",
        '"\\',
        '"\\a"',
        "a,b",
        "\x00",
        "a\r\nb",
        "?1",
        ":YQ==:",
    ]
)
"""Bytes as they may stand in a header."""
VISIBLE = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='",'), min_size=1, max_size=20
)


def spoilt(spoilers: str) -> st.SearchStrategy[str]:
    """A key with one character that no key may have."""
    return st.tuples(VISIBLE, st.sampled_from(spoilers), VISIBLE).map("".join)


CONTROL = spoilt("".join(map(chr, [*range(0x20), 0x7F])))
NOT_ASCII = spoilt("".join(map(chr, range(0x80, 0x100))))
TOO_LONG = st.integers(256, 70_000).map("k".__mul__)
BAD_STRING = st.tuples(st.just('"'), VISIBLE).map("".join) | st.tuples(
    st.just('"'), VISIBLE, st.sampled_from(['"x', '\\x"', '";=', '";A', '"; a="', '" b', '";a=', '"\\'])
).map("".join)
NO_KEY = CONTROL | NOT_ASCII | TOO_LONG | BAD_STRING


class Tried:
    """A plain application behind a middleware, its client, and what is stored."""

    def __init__(self, client: AsgiServed | WsgiServed, desk: Desk, watched: Watched) -> None:
        self.client, self.desk, self.watched = client, desk, watched

    def post(self, *keys: str, account: str = "ann", path: str = "/orders", body: bytes = b"{}") -> Got:
        """A POST with these keys, each in a header of its own."""
        headers: Headers = (("x-account", account), *(("idempotency-key", key) for key in keys))
        return self.client.request("POST", path, headers, body)

    def refuses(self, *keys: str) -> None:
        """400 with a problem document; nothing ran and nothing was stored."""
        before = self.desk.runs, self.watched.records
        got = self.post(*keys)
        assert (got.status, got.problem) == (400, "invalid-key"), keys
        document = json.loads(got.body)
        assert document["status"] == 400
        assert set(document) == {"type", "title", "status", "detail"}
        assert (self.desk.runs, self.watched.records) == before

    def answers(self, *keys: str, account: str = "ann", path: str = "/orders", body: bytes = b"{}") -> None:
        """The application's answer, or a problem document that stored nothing; the same again says the same."""
        before = self.desk.runs, self.watched.records
        got = self.post(*keys, account=account, path=path, body=body)
        assert got.status in (201, 400, 422), (keys, got)
        if got.status == 400:
            assert got.problem == "invalid-key"
            assert (self.desk.runs, self.watched.records) == before
        if got.status == 422:
            assert got.problem == "key-reused"
            assert (self.desk.runs, self.watched.records) == before
        assert self.post(*keys, account=account, path=path, body=body).status == got.status


@pytest.fixture(scope="module")
def raw_asgi() -> Iterator[Tried]:
    """Over ASGI."""
    desk, watched = Desk(), Watched()
    with LoopThread() as thread:
        store = watched.open_async()
        yield Tried(AsgiServed(asgi.IdempotencyMiddleware(asgi_app(desk), store, POLICY), thread), desk, watched)
        thread.call(store.close())


@pytest.fixture(scope="module")
def raw_wsgi() -> Iterator[Tried]:
    """Over WSGI."""
    desk, watched = Desk(), Watched()
    with watched.open() as store:
        yield Tried(WsgiServed(wsgi.IdempotencyMiddleware(wsgi_app(desk), store, POLICY)), desk, watched)


@pytest.fixture(params=["raw_asgi", "raw_wsgi"], scope="module")
def tried(request: pytest.FixtureRequest) -> Tried:
    """Both."""
    return request.getfixturevalue(request.param)


@given(key=NO_KEY)
@example(key="k" * 10_000_000)
@example(key='"' + "k" * 10_000_000 + '"')
@example(key='"k";' + "a=" * 5_000_000)
@example(key="\xff" * 10_000_000)
@SOME
def test_what_is_no_key_is_refused(tried: Tried, key: str):
    """Control characters, other than ASCII, too long, broken structured-field strings, 10 MB of either."""
    tried.refuses(key)


@given(keys=st.lists(VISIBLE, min_size=2, max_size=4))
@SOME
def test_more_than_one_key_is_refused(tried: Tried, keys: list[str]):
    """The same one twice is more than one, too; also where the server joins them."""
    tried.refuses(*keys)


@given(keys=st.lists(ANY, max_size=3), account=ANY.filter(bool), body=st.binary(max_size=20))
@SOME
def test_whatever_stands_in_the_header_is_answered(tried: Tried, keys: list[str], account: str, body: bytes):
    """Any bytes, any number of times, of anybody: run, replayed or refused, and the same the second time."""
    tried.answers(*keys, account=account, body=body)


@given(path=st.text(st.characters(max_codepoint=0x2FF), max_size=20), key=VISIBLE)
@example(path="\x00", key="k")
@FEW
def test_whatever_stands_in_the_path_is_answered(raw_asgi: Tried, path: str, key: str):
    """A decoded path may hold anything; it is a part of the fingerprint and of the record."""
    raw_asgi.answers(key, account=ascii(path), path="/" + path.replace("?", ""))


@given(
    messages=st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["http.request", "http.request", "http.disconnect"])},
            optional={"body": st.binary(max_size=30), "more_body": st.booleans()},
        ),
        max_size=4,
    ),
    headers=st.lists(
        st.tuples(st.just(b"idempotency-key") | st.binary(max_size=12), st.binary(max_size=30)), max_size=5
    ),
    query=st.binary(max_size=20),
)
@SOME
def test_whatever_a_server_hands_on_is_answered(
    messages: list[dict[str, object]], headers: list[tuple[bytes, bytes]], query: bytes
):
    """Raw ASGI: header names and values of any bytes, bodies in parts, without some members, or cut short."""
    with fresh() as (thread, watched, app):
        sent: list[dict[str, object]] = []
        left = list(messages)

        async def receive() -> dict[str, object]:
            await asyncio.sleep(0)
            return left.pop(0) if left else {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = AsgiServed.scope("POST", "/orders", (), b"")
        scope["query_string"] = query
        scope["headers"] = [*headers, (b"x-account", b"ann")]
        thread.call(app(scope, receive, send))
        statuses = [message["status"] for message in sent if message["type"] == "http.response.start"]
        assert statuses in ([], [201], [400])
        if statuses != [201]:
            assert watched.records == 0


@contextmanager
def fresh() -> Iterator[tuple[LoopThread, Watched, asgi.IdempotencyMiddleware]]:
    """A middleware with a store of its own."""
    watched = Watched()
    store = watched.open_async()

    async def app(scope: dict[str, object], receive, send) -> None:
        while (await receive()).get("more_body", False):
            pass
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"made"})

    with LoopThread() as thread:
        yield thread, watched, asgi.IdempotencyMiddleware(app, store, POLICY)
        thread.call(store.close())


@given(
    length=st.text(BYTE, max_size=8) | st.integers(-10, 10**20).map(str) | st.just("9" * 5000) | st.none(),
    body=st.binary(max_size=30),
    path=st.text(BYTE, max_size=12),
    query=st.text(BYTE, max_size=12),
    key=ANY,
    terminated=st.booleans(),
)
@example(length="9" * 5000, body=b"{}", path="/", query="", key="k", terminated=False)
@example(length="\xb2", body=b"{}", path="/", query="", key="k", terminated=False)
@SOME
def test_whatever_stands_in_an_environ_is_answered(
    raw_wsgi: Tried, length: str | None, body: bytes, path: str, query: str, key: str, terminated: bool
):
    """Raw WSGI: lengths that are none, that lie or that never end; paths and queries of any bytes."""
    environ = WsgiServed.environ(
        "POST", "/", (("x-account", f"{path!r}{query!r}{length!r}{body!r}"), ("idempotency-key", key)), body
    )
    environ |= {
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": terminated,
    }
    if length is None:
        del environ["CONTENT_LENGTH"]
    else:
        environ["CONTENT_LENGTH"] = length
    started: list[str] = []
    found = raw_wsgi.client._app(
        environ, lambda status, pairs, exc_info=None: started.append(status) or (lambda data: None)
    )
    list(found)
    if hasattr(found, "close"):
        found.close()
    assert started[-1][:3] in ("201", "400", "413", "422")


# -- schemathesis -----------------------------------------------------------------------------------------------------

watched = Watched()
application = shop(watched.open_async())
schema = schemathesis.openapi.from_asgi("/openapi.json", application)


@schema.parametrize()
@settings(FEW, derandomize=False)
def test_the_api_never_answers_500(case: schemathesis.Case):
    """Schemathesis makes requests of every operation, valid and not, from what OpenAPI says of them."""
    response = case.call()
    case.validate_response(response, checks=[schemathesis.checks.not_a_server_error])
    if response.headers.get("content-type") == [PROBLEM]:
        assert response.json()["status"] == response.status_code


@pytest.mark.parametrize(
    "keys",
    [
        [b"one", b"two"],
        [b"same", b"same"],
        [b"schl\xc3\xbcssel"],
        [b"a\x00b"],
        [b"a\x1bb"],
        [b'"open'],
        [b'"a" b'],
        [b"k" * 10_000_000],
    ],
    ids=lambda keys: repr(keys)[:24],
)
def test_bad_headers_through_a_client(keys: list[bytes]):
    """Through the client's ASGI transport and FastAPI: 400 with a problem document, nothing stored."""

    async def post() -> httpx.Response:
        seen = Watched()
        store = seen.open_async()
        headers = [(b"x-account", b"ann"), *((b"idempotency-key", key) for key in keys)]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shop(store)), base_url="http://shop") as client:
            answer = await client.post("/orders", json={"item": "tea"}, headers=headers)
        assert seen.records == 0
        await store.close()
        return answer

    answer = asyncio.run(post())
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)
    assert answer.json()["type"].endswith("/invalid-key")
