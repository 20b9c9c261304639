"""The policy, alone: facts in, plan out; outcome in, response out."""

import json
from dataclasses import replace

import pytest

from idemstore.errors import (
    AccessDenied,
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
    SchemaError,
    StoreFull,
    StoreTimeout,
    UndecodableResult,
)
from idemstore.http.choices import (
    Fate,
    LargeRequest,
    OnMismatch,
    body_fingerprint,
    json_fingerprint,
    keep_but,
    keep_client_errors,
    keep_everything,
    keep_success,
    single_tenant,
)
from idemstore.http.facts import Request, Response, make_headers, read_length
from idemstore.http.plans import PASS, Answer, Guarded, Keyed, Replay, Run
from idemstore.http.policy import HttpPolicy
from idemstore.http.problems import TITLES, Problem
from idemstore.http.routes import paths
from idemstore.keys import encode_key
from idemstore.outcomes import MISMATCH, Abandoned, Claimed, Completed, Failed, InFlight

ALL = 10**9
POLICY = HttpPolicy(scope=lambda request: request.header("x-user"))


def request(key: str | None = "k-1", *, method: str = "POST", path: str = "/orders", **headers: str) -> Request:
    """A request of user ann with a key."""
    pairs = {"x-user": "ann", **({} if key is None else {"idempotency-key": key}), **headers}
    return Request(method, path, make_headers(pairs.items()))


def guarded(policy: HttpPolicy = POLICY, body: bytes = b"{}", made: Request | None = None) -> Guarded:
    """What is claimed for a request."""
    keyed = policy.plan(made or request())
    assert isinstance(keyed, Keyed)
    found = policy.identify(keyed, body)
    assert isinstance(found, Guarded)
    return found


def told(plan: object) -> tuple[int, str]:
    """Status and kind of a problem."""
    assert isinstance(plan, Answer)
    document = json.loads(plan.response.body or b"")
    assert plan.response.header("content-type") == "application/problem+json"
    assert document["status"] == plan.response.status
    assert document["title"] == TITLES[Problem(document["type"].rpartition("/")[2])]
    return plan.response.status, document["type"].rpartition("/")[2]


def replayed(policy: HttpPolicy, stored: bytes, plan: Guarded) -> Response:
    """The answer to a retry."""
    met = policy.meet(Completed(stored), plan)
    assert isinstance(met, Replay)
    made = policy.rewritten(met.stored, plan.request)
    assert isinstance(made, Response)
    return policy.replayed(made, plan.request)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "post"])
def test_other_methods_pass(method: str):
    """Only the policy's methods are looked at."""
    assert POLICY.plan(request(method=method)) is PASS


def test_without_a_key_it_passes_unless_one_is_required():
    """Missing, blank and empty are the same."""
    strict = replace(POLICY, required=True)
    for key in (None, "", "  ", "\t", '""', '" "'):
        assert POLICY.plan(request(key)) is PASS
        assert told(strict.plan(request(key))) == (400, "key-required")


def test_nobody_known_passes_before_the_key_is_looked_at():
    """The application refuses; neither a missing nor a bad key gets in its way."""
    strict = replace(POLICY, required=True, scope=lambda request: None)
    for key in (None, "k", "\x01", "a" * 1000):
        assert strict.plan(request(key)) is PASS


def test_the_first_header_that_is_there_counts():
    """Names are taken in any case, and in order."""
    policy = replace(POLICY, headers=("X-Key", "Idempotency-Key"))
    keyed = policy.plan(request("late", **{"x-key": "first"}))
    assert isinstance(keyed, Keyed)
    assert keyed.key == "first"
    keyed = policy.plan(request("late"))
    assert isinstance(keyed, Keyed)
    assert keyed.key == "late"


def test_scope_is_a_choice():
    """None is a mistake of the programmer, as is an empty part; single_tenant() is said out loud."""
    with pytest.raises(TypeError):
        HttpPolicy()  # type: ignore[call-arg]
    for scope in ("", (), ("a", ""), ["a"], 7):
        with pytest.raises(ConfigurationError, match="scope"):
            replace(POLICY, scope=lambda request, scope=scope: scope).plan(request())
    assert guarded(replace(POLICY, scope=single_tenant())).key == ("http", "k-1")
    assert guarded(replace(POLICY, scope=lambda request: ("org", "ann"))).key == ("http", "org", "ann", "k-1")


def test_keys_of_two_scopes_never_meet():
    """However parts are cut."""
    policy = replace(POLICY, scope=lambda request: tuple((request.header("x-user") or "").split("/")))
    cuts = [guarded(policy, made=replace_user(user, key)) for user, key in (("a:b", "c"), ("a/b", "c"), ("a", "b:c"))]
    assert len({encode_key(cut.key, ALL) for cut in cuts}) == 3


def replace_user(user: str, key: str) -> Request:
    """A request of another user."""
    return Request("POST", "/orders", (("x-user", user), ("idempotency-key", key)))


@pytest.mark.parametrize("part", ["x" * 5000, "é", "a\x00b", "\ud800", "%" * 200, "\x1b[0m"])
def test_whatever_a_client_sends_every_store_takes(part: str):
    """Long and odd parts are stored as their hashes, which nobody can send instead."""
    key = POLICY.key((part, "/" + part), "k" * 300)
    assert len(encode_key(key, 1024)) <= 1024
    assert POLICY.key(key[1:-1], key[-1]) != key


def test_templates_give_the_route():
    """A path parameter stands for one segment."""
    policy = replace(POLICY, routes=paths("/calls", "/calls/{id}/end"), scope=lambda request: request.operation)
    assert policy.plan(request(path="/orders")) is PASS
    assert policy.plan(request(path="/calls/1/2/end")) is PASS
    assert guarded(policy, made=request(path="/calls/7/end")).key[1] == "POST /calls/{id}/end"
    assert guarded(policy, made=request(path="/calls")).key[1] == "POST /calls"
    with pytest.raises(ConfigurationError):
        paths("calls")


def test_routes_may_be_a_function():
    """It says yes or no, or names the route."""
    assert replace(POLICY, routes=lambda request: False).plan(request()) is PASS
    assert guarded(replace(POLICY, routes=lambda request: True)).request.route is None


def test_what_a_payload_is():
    """Bytes, method, path and query; or JSON values; or nothing."""
    first = guarded(body=b'{"a": 1, "b": 2}').fingerprint
    assert first == guarded(body=b'{"a": 1, "b": 2}').fingerprint
    for other in (
        guarded(body=b'{"b": 2, "a": 1}'),
        guarded(body=b'{"a": 1, "b": 2}', made=request(path="/other")),
        guarded(body=b'{"a": 1, "b": 2}', made=request(method="PATCH")),
        guarded(body=b'{"a": 1, "b": 2}', made=request()._replace(query="x=1")),
    ):
        assert other.fingerprint != first
    by_value = replace(POLICY, fingerprint=json_fingerprint)
    json_request = request(**{"content-type": "application/json; charset=utf-8"})
    one, two, three = (
        guarded(by_value, body, json_request).fingerprint
        for body in (b'{"a": 1, "b": 2}', b'{"b":2,"a":1.0}', b'{"b":3,"a":1}')
    )
    assert one == two != three
    assert guarded(by_value, b"{nonsense", json_request).fingerprint != one
    assert guarded(by_value, b"[" * 100_000, json_request).fingerprint != one
    assert guarded(replace(POLICY, fingerprint=None)).fingerprint is None
    assert guarded(replace(POLICY, fingerprint=lambda request: b"mine")).fingerprint == b"mine"


def test_fingerprints_of_requests_never_change():
    """They are stored: these digests stand for ever."""
    made = request(path="/o:1", **{"content-length": "9"})._replace(query="a=b")
    for body, truncated, digest in (
        (b"{}", False, "2801ca1656e8cea70e3d79eea4b408057b52d96473be0c5448254afd7487d713"),
        (b"x" * 5000, True, "4d247dbfae84771fe7abaefa32b5e1c4f90beab426d8b290a3770a013935e345"),
    ):
        assert body_fingerprint(made._replace(body=body, truncated=truncated)).hex() == digest


def test_the_body_is_read_only_where_payloads_are_compared():
    """What is ignored need not be there."""
    for policy, reads in (
        (POLICY, 2**20),
        (replace(POLICY, max_request=5), 5),
        (replace(POLICY, fingerprint=None), None),
        (replace(POLICY, on_mismatch=OnMismatch.IGNORE), None),
    ):
        keyed = policy.plan(request())
        assert isinstance(keyed, Keyed)
        assert keyed.reads == reads


def test_a_payload_may_be_part_of_the_identity():
    """Another payload is another key."""
    policy = replace(POLICY, on_mismatch=OnMismatch.SEPARATE)
    one, two = guarded(policy, b"1"), guarded(policy, b"2")
    assert one.key != two.key
    assert one.fingerprint is two.fingerprint is None
    assert one.key == guarded(policy, b"1").key


def test_a_large_request_is_refused_or_compared_by_its_beginning():
    """Its declared length counts, too."""
    keyed = POLICY.plan(request())
    assert isinstance(keyed, Keyed)
    assert told(POLICY.identify(keyed, b"x", truncated=True)) == (413, "payload-too-large")
    policy = replace(POLICY, large_request=LargeRequest.PREFIX)
    prints = set()
    for length in ("100", "101"):
        keyed = policy.plan(request(**{"content-length": length}))
        assert isinstance(keyed, Keyed)
        found = policy.identify(keyed, b"x", truncated=True)
        assert isinstance(found, Guarded)
        prints.add(found.fingerprint)
    assert len(prints) == 2


def test_outcomes_and_their_answers():
    """Each has its status and kind."""
    plan = guarded()
    run = POLICY.meet(Claimed("t", 1, 1), plan)
    assert isinstance(run, Run)
    assert told(POLICY.meet(MISMATCH, plan)) == (422, "key-reused")
    assert told(POLICY.meet(InFlight(20), plan)) == (409, "in-flight")
    assert told(POLICY.meet(Failed(b"", 3.0), plan)) == (409, "retry-later")
    assert told(POLICY.meet(Abandoned("t", 1, 1), plan)) == (409, "abandoned")
    other = replace(POLICY, mismatch_status=400, in_flight_status=425, retry_after=10)
    assert told(other.meet(MISMATCH, plan))[0] == 400
    for left, shown in ((20.0, "10"), (4.2, "4"), (0.001, "1")):
        busy = other.meet(InFlight(left), plan)
        assert isinstance(busy, Answer)
        assert busy.response.status == 425
        assert busy.response.header("retry-after") == shown


def test_fates():
    """Which responses are kept, which free the key."""
    assert [keep_client_errors(status).value[0] for status in (200, 302, 404, 409, 429, 500)] == list("ccfrrr")
    assert [keep_everything(status).value[0] for status in (200, 404, 500)] == list("cff")
    assert [keep_success(status).value[0] for status in (201, 404, 500)] == list("crr")
    assert [keep_but({400, 503})(status).value[0] for status in (200, 400, 404, 503)] == list("crfr")


def test_retention_is_each_its_own():
    """None is for ever."""
    policy = replace(POLICY, retention=None, failure_retention=60)
    plan = guarded(policy)
    assert policy.settle(200, (), [b"x"], plan, ALL).retention is None
    assert policy.settle(404, (), [b"x"], plan, ALL)[::2] == (Fate.FAIL, 60)
    assert policy.settle(500, (), [b"x"], plan, ALL) == (Fate.RELEASE, b"", None)


def test_a_replay_is_the_first_response():
    """Status, lasting headers and body; marked as a replay."""
    plan = guarded()
    headers = make_headers(
        [
            ("Content-Type", "text/x"),
            ("Date", "today"),
            ("Set-Cookie", "s=1"),
            ("Content-Length", "2"),
            ("Connection", "close, X-Hop"),
            ("X-Hop", "1"),
            ("Transfer-Encoding", "chunked"),
            ("X-Umlaut", "\xfc"),
            ("X-Two", "1"),
            ("X-Two", "2"),
        ]
    )
    stored = POLICY.settle(201, headers, [b"o", b"k"], plan, ALL).result
    answer = replayed(POLICY, stored, plan)
    assert (answer.status, answer.body) == (201, b"ok")
    assert answer.headers == (
        ("content-type", "text/x"),
        ("x-umlaut", "\xfc"),
        ("x-two", "1"),
        ("x-two", "2"),
        ("idempotency-replayed", "true"),
    )
    kept = replace(POLICY, not_replayed=frozenset({"X-Two"}), replay_header=None)
    answer = replayed(kept, kept.settle(201, headers, [b"ok"], plan, ALL).result, plan)
    assert [name for name, _ in answer.headers] == ["content-type", "date", "set-cookie", "x-umlaut"]


def test_a_replay_can_be_rewritten():
    """Status, and whatever a hook makes of record and request."""
    policy = replace(
        POLICY,
        replay_status=507,
        rewrite=lambda stored, request: stored._replace(body=(stored.body or b"") + request.path.encode()),
    )
    plan = guarded(policy)
    answer = replayed(policy, policy.settle(200, (), [b"of "], plan, ALL).result, plan)
    assert (answer.status, answer.body) == (507, b"of /orders")


def test_a_body_that_was_not_kept_says_so():
    """410 with a problem document, the original status and the lasting headers: Location, for one."""
    plan = guarded()
    headers = (("location", "/orders/7"), ("content-type", "video/x"))
    for body, limit in ((None, ALL), ([b"x" * 2000], 1000)):
        answer = replayed(POLICY, POLICY.settle(201, headers, body, plan, limit).result, plan)
        assert told(Answer(answer)) == (410, "body-not-kept")
        assert answer.header("location") == "/orders/7"
        assert json.loads(answer.body or b"")["original_status"] == 201
    huge = POLICY.settle(201, (("x", "y" * 5000),), [b"x"], plan, 1000)
    assert len(huge.result) < 1000


def test_what_others_wrote_is_never_replayed():
    """Another version, another operation, another program: an error, and a 500 without a word of it."""
    plan = guarded()
    stored = POLICY.settle(200, (), [b"secret"], plan, ALL).result
    other = guarded(made=request(path="/refunds"))
    for data, met in ((stored, other), (b"H2" + stored[2:], plan), (b'v"a guard"', plan), (b"", plan), (b"H1", plan)):
        with pytest.raises(UndecodableResult):
            POLICY.meet(Completed(data), met)
        with pytest.raises(UndecodableResult):
            POLICY.meet(Failed(data), met)
    for head in (b"200", b"x\0body\0POST /orders", b"200\0body\0POST /orders\0name", b"\xff\0\0"):
        with pytest.raises(UndecodableResult):
            POLICY.meet(Completed(b"H1" + len(head).to_bytes(4, "big") + head), plan)
    answer = POLICY.trouble(UndecodableResult("secret"), plan.request)
    assert told(Answer(answer)) == (500, "unreadable-record")
    assert b"secret" not in (answer.body or b"")


def test_trouble_with_the_store_has_its_answers():
    """503 where trying again helps, else 500; nothing of the error is shown."""
    for error, status, kind in (
        (StoreTimeout("host db-7"), 503, "store-unavailable"),
        (StoreFull("host db-7"), 503, "store-unavailable"),
        (CorruptRecord("host db-7"), 500, "unreadable-record"),
        (AccessDenied("host db-7"), 500, "store-error"),
        (ConfigurationError("host db-7"), 500, "misconfigured"),
        (SchemaError("host db-7"), 500, "misconfigured"),
    ):
        answer = POLICY.trouble(error, request())
        assert told(Answer(answer)) == (status, kind)
        assert b"db-7" not in (answer.body or b"")
    assert told(Answer(POLICY.lost(request()))) == (409, "lease-lost")
    assert told(Answer(POLICY.incomplete(request()))) == (400, "incomplete-body")
    assert told(Answer(POLICY.failure())) == (500, "failed")


def test_an_api_may_have_error_bodies_of_its_own():
    """``reshape`` sees the problem and the request."""
    policy = replace(POLICY, reshape=lambda answer, request: answer._replace(body=b"sorry"), problem_base="urn:x:")
    answer = policy.plan(request("\x01"))
    assert isinstance(answer, Answer)
    assert answer.response.body == b"sorry"
    plain = replace(policy, reshape=None).plan(request("\x01"))
    assert isinstance(plain, Answer)
    assert json.loads(plain.response.body or b"")["type"] == "urn:x:invalid-key"


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": None},
        {"scope": "tenant"},
        {"headers": ()},
        {"headers": ("ü",)},
        {"methods": frozenset({"post"})},
        {"methods": "POST"},
        {"retry_after": 0},
        {"max_request": 0},
        {"max_response": -1},
        {"mismatch_status": 42},
        {"replay_status": "200"},
        {"lease": 0},
        {"takeover": "no"},
        {"required": None},
        {"store_down": "down"},
        {"on_mismatch": "refuse"},
        {"key_format": None},
        {"namespace": b"http"},
        {"fate": None},
        {"fingerprint": "body"},
        {"routes": "/orders"},
        {"wait": -1},
        {"retention": 0},
        {"failure_retention": 0},
        {"patience": 0},
        {"headers": "idempotency-key"},
        {"not_replayed": "set-cookie"},
        {"headers": ("idempotency key",)},
        {"replay_header": "idempotency-replayed"},
        {"replay_header": ("idempotency-replayed",)},
        {"replay_header": ("idempotency replayed", "true")},
        {"replay_header": ("", "true")},
        {"replay_header": ("idempotency-replayed", True)},
        {"replay_header": ("idempotency-replayed", "true\r\nset-cookie: a=b")},
        {"replay_header": ("idempotency-replayed", " true")},
    ],
    ids=str,
)
def test_a_policy_that_no_request_could_use_is_refused(wrong: dict[str, object]):
    """When it is made, not when it is needed."""
    with pytest.raises((ConfigurationError, InvalidInput), match=next(iter(wrong))):
        replace(POLICY, **wrong)


@pytest.mark.parametrize("header", [None, ("X-Replayed", ""), ("x-replayed", "t"), ("x-replayed", "yes, it is")])
def test_a_header_that_responses_can_have(header: tuple[str, str] | None):
    """It is taken as it is."""
    assert replace(POLICY, replay_header=header).replay_header == header


def test_a_blank_header_names_nobody():
    """A scope that reads it passes through, and does not answer that the server is misconfigured."""
    policy = HttpPolicy(scope=lambda request: request.header("X-Account"))
    for value in ("", " ", "\t "):
        made = request(**{"x-account": value, "idempotency-key": "k"})
        assert made.header("x-account") is None
        assert policy.plan(made) is PASS


def test_lengths_that_are_none():
    """A length of thousands of digits is a large one, not an error; other digits than ASCII are none."""
    assert [read_length(text) for text in ("12", "", "-1", "\xb2", "1_0", " 1")] == [12, *[None] * 5]
    assert read_length("9" * 5000) == 10**18
