"""Every cell of the table of real APIs, on the pure policies. ``docs/http.md`` has the table."""

import json
from collections.abc import Callable

import pytest

from idemstore.errors import StoreUnavailable
from idemstore.http import Fate, HttpPolicy, Quoting, Request, Response, StoreDown, presets
from idemstore.http.facts import make_headers
from idemstore.http.plans import PASS, Answer, Guarded, Keyed, Replay
from idemstore.outcomes import MISMATCH, Completed, Failed, InFlight

ALL = 10**9
DAY, HOUR = 86400.0, 3600.0


def who(request: Request) -> str | None:
    """The owner of the API key."""
    return request.header("authorization")


def today(stored: Response, request: Request) -> Response:
    """The bot as it is now."""
    bot = json.loads(stored.body or b"")
    now = {"bot_id": bot["bot_id"], "transcript_id": None, "meeting_url": bot["meeting_url"], "status": "recording"}
    return stored._replace(body=json.dumps(now).encode())


A = presets.meeting_bots(who, "/bots", today)
B = presets.voice_agents(who, "/calls", "/agents/{id}/tools")
C = presets.transcriptions(who, "/recordings", "/recordings/{id}/transcribe")
D = presets.meeting_recorder(who)
E = presets.stripe(who)
F = presets.ietf(who)

PATHS = {id(A): "/bots", id(B): "/calls", id(C): "/recordings"}
EVERY = pytest.mark.parametrize("policy", [A, B, C, D, E, F], ids="ABCDEF")


def request(
    policy: HttpPolicy, key: str | None = None, method: str = "POST", path: str | None = None, user: str | None = "ann"
) -> Request:
    """A request that the policy is for; its key in quotes where it must be."""
    quoted = policy.key_format.quoting is Quoting.REQUIRED
    key = '"k-1"' if key is None and quoted else "k-1" if key is None else key
    headers = [(policy.headers[0].title(), key)] if key != "absent" else []
    return Request(
        method,
        path or PATHS.get(id(policy), "/things"),
        make_headers([*headers, *([("Authorization", user)] if user else [])]),
    )


def keyed(policy: HttpPolicy, **changes: str) -> Keyed | None:
    """The key of a request, or None where it passes through."""
    plan = policy.plan(request(policy, **changes))  # type: ignore[arg-type]
    assert isinstance(plan, Keyed) or plan is PASS
    return plan if isinstance(plan, Keyed) else None


def guarded(policy: HttpPolicy, body: bytes = b"{}", **changes: str) -> Guarded:
    """What is claimed."""
    plan = keyed(policy, **changes)
    assert plan is not None
    found = policy.identify(plan, body)
    assert isinstance(found, Guarded)
    return found


def refused(plan: object) -> tuple[int, str]:
    """Status and kind of a problem."""
    assert isinstance(plan, Answer)
    return plan.response.status, json.loads(plan.response.body or b"")["type"].rpartition("/")[2]


def retried(policy: HttpPolicy, status: int, body: bytes = b"body", *headers: tuple[str, str]) -> Response | None:
    """The answer to a retry of a request that was answered so; None: it runs again."""
    plan = guarded(policy)
    settlement = policy.settle(status, headers, [body], plan, ALL)
    match settlement.fate:
        case Fate.RELEASE:
            return None
        case Fate.COMPLETE:
            met = policy.meet(Completed(settlement.result), plan)
        case Fate.FAIL:
            met = policy.meet(Failed(settlement.result), plan)
    assert isinstance(met, Replay)
    made = policy.rewritten(met.stored, plan.request)
    assert isinstance(made, Response)
    return policy.replayed(made, plan.request)


@EVERY
def test_the_header_in_any_case(policy: HttpPolicy):
    """B has a name of its own; names have no case."""
    assert policy.headers == (("x-idempotency-key",) if policy is B else ("idempotency-key",))
    for name in (policy.headers[0], policy.headers[0].upper()):
        key = '"k"' if policy is F else "k"
        plan = policy.plan(
            request(policy, "absent")._replace(headers=make_headers([("authorization", "a"), (name, key)]))
        )
        assert isinstance(plan, Keyed)


@pytest.mark.parametrize(
    ("policy", "good", "absent", "bad"),
    [
        (A, ["x", "  x ", "any, string: ?", '"q"', "k" * 5000], ["", "  ", "null"], ["\x01", "\xfc"]),
        (B, ["x", "any string", "k" * 5000], ["", " "], ["\x01"]),
        (C, ["x", "A-z_0-9", "k" * 255], ["", " "], ["k" * 256, "a b", "a.b", "a,b", "\xe9", '"a"']),
        (D, ["x", "any, string", "k" * 5000], ["", " "], ["\x01"]),
        (E, ["x", "any string", "k" * 255], ["", " "], ["k" * 256]),
        (F, ['"x"', '"8e03978e-40d5"', '"a, b"'], [], ["8e03978e", '"x', "x y", '"x", "y"', '"' + "k" * 256 + '"']),
    ],
    ids="ABCDEF",
)
def test_the_key_format(policy: HttpPolicy, good: list[str], absent: list[str], bad: list[str]):
    """What is a key, what counts as none, what is refused."""
    for key in good:
        assert keyed(policy, key=key) is not None
    for key in absent:
        assert keyed(policy, key=key) is None
    for key in bad:
        assert refused(policy.plan(request(policy, key))) == (400, "invalid-key")
    assert len({guarded(policy, key=key).key for key in good}) == len({key.strip() for key in good})


@pytest.mark.parametrize(
    ("policy", "methods", "inside", "outside"),
    [
        (A, "POST", ["/bots"], ["/bots/1", "/other"]),
        (B, "POST", ["/calls", "/agents/7/tools"], ["/agents", "/agents/7"]),
        (C, "POST", ["/recordings", "/recordings/7/transcribe"], ["/projects"]),
        (D, "PUT POST PATCH", ["/any", "/thing"], []),
        (E, "POST", ["/any", "/thing"], []),
        (F, "POST PATCH", ["/any", "/thing"], []),
    ],
    ids="ABCDEF",
)
def test_where(policy: HttpPolicy, methods: str, inside: list[str], outside: list[str]):
    """Methods and endpoints."""
    for method in ("GET", "HEAD", "OPTIONS", "DELETE", "PUT", "POST", "PATCH"):
        assert (keyed(policy, method=method) is not None) == (method in methods.split())
    assert all(keyed(policy, path=path) is not None for path in inside)
    assert all(keyed(policy, path=path) is None for path in outside)


def test_the_scope():
    """A: user; B: organization, endpoint; C: project, operation; D: user, path; E: account; F: the server's choice."""
    for policy in (A, B, C, D, E, F):
        assert guarded(policy).key != guarded(policy, user="bob").key

    def apart(policy: HttpPolicy, *paths: str) -> bool:
        return len({guarded(policy, path=path).key for path in paths}) == len(paths)

    assert apart(B, "/calls", "/agents/7/tools")
    assert guarded(B, path="/agents/7/tools").request.operation == "POST /agents/{id}/tools"
    assert apart(C, "/recordings", "/recordings/7/transcribe")
    assert not apart(C, "/recordings/7/transcribe", "/recordings/8/transcribe")
    assert apart(D, "/a", "/b")
    assert guarded(D, method="PUT").key == guarded(D, method="POST").key
    assert not apart(E, "/a", "/b")
    own = presets.ietf(lambda request: ("mine", request.path))
    assert guarded(own).key[1:3] == ("mine", "/things")


def test_the_same_payload_again_is_replayed():
    """B with its status and every byte; E with its mark; A with 507 and the state of today."""
    for policy in (B, C, D, E, F):
        again = retried(policy, 201, b"\x00\xff", ("content-type", "x/y"), ("set-cookie", "s=1"))
        assert again is not None
        assert (again.status, again.body, again.header("content-type")) == (201, b"\x00\xff", "x/y")
        assert again.header("idempotent-replayed") == ("true" if policy is E else None)
        assert again.header("idempotency-replayed") is None
        assert again.header("set-cookie") == ("s=1" if policy is B else None)
    bot = {"bot_id": "b-1", "transcript_id": "t", "meeting_url": "https://x", "status": "joining"}
    again = retried(A, 201, json.dumps(bot).encode(), ("content-type", "application/json"))
    assert again is not None
    assert again.status == 507
    assert json.loads(again.body or b"") == {**bot, "transcript_id": None, "status": "recording"}
    assert again.header("content-type") == "application/json"


def test_another_payload():
    """A, D: not looked at. B: another request. C: 409. E: an error, 400. F: 422."""
    for policy in (A, D):
        assert keyed(policy).reads is None  # type: ignore[union-attr]
        assert guarded(policy, b"1").key == guarded(policy, b"2").key
        assert guarded(policy, b"1").fingerprint is None
    assert guarded(B, b"1").key != guarded(B, b"2").key
    for policy, status in ((C, 409), (E, 400), (F, 422)):
        one, two = guarded(policy, b"1"), guarded(policy, b"2")
        assert one.key == two.key
        assert one.fingerprint != two.fingerprint
        assert refused(policy.meet(MISMATCH, two)) == (status, "key-reused")


@EVERY
def test_in_flight(policy: HttpPolicy):
    """409 everywhere; A waits first."""
    assert refused(policy.meet(InFlight(20), guarded(policy))) == (409, "in-flight")
    assert policy.wait == (10 if policy is A else 0)


@pytest.mark.parametrize(
    ("policy", "kept", "free"),
    [
        (A, [200, 201], [400, 404, 409, 422, 429, 500, 503]),
        (B, [201, 400, 404, 429, 500, 503], []),
        (C, [201, 400, 404, 409, 422, 429], [500, 502, 503, 507]),
        (D, [200, 201, 400, 404, 409, 500, 503, 507], []),
        (E, [200, 402, 404, 500, 503], [400, 401, 403, 409, 422, 429]),
        (F, [200, 201, 400, 404, 422], [409, 429, 500, 503]),
    ],
    ids="ABCDEF",
)
def test_which_failures_are_kept(policy: HttpPolicy, kept: list[int], free: list[int]):
    """With their status; the others leave the key free."""
    for status in kept:
        again = retried(policy, status, b'{"bot_id": 1, "meeting_url": 2}')
        assert again is not None
        assert again.status == (507 if policy is A else status)
    assert all(retried(policy, status) is None for status in free)


@pytest.mark.parametrize(
    ("policy", "success", "failure"),
    [(A, None, None), (B, HOUR, HOUR), (C, DAY, DAY), (D, HOUR, HOUR), (E, DAY, DAY), (F, DAY, DAY)],
    ids="ABCDEF",
)
def test_how_long(policy: HttpPolicy, success: float | None, failure: float | None):
    """A for ever; the others from completion on."""
    plan = guarded(policy)
    assert policy.settle(200, (), [b""], plan, ALL).retention == success
    settled = policy.settle(404, (), [b""], plan, ALL)
    assert settled.fate is Fate.RELEASE or settled.retention == failure
    minutes = presets.voice_agents(who, "/calls", retention=300)
    assert minutes.settle(200, (), [b""], plan, ALL).retention == minutes.failure_retention == 300
    assert presets.ietf(who, retention=None).retention is None


@EVERY
def test_the_key_is_missing(policy: HttpPolicy):
    """It runs unprotected; F refuses where a key is required."""
    plan = policy.plan(request(policy, "absent"))
    if policy is F:
        assert refused(plan) == (400, "key-required")
        plan = presets.ietf(who, required=False).plan(request(policy, "absent"))
    assert plan is PASS


@EVERY
def test_the_store_is_down(policy: HttpPolicy):
    """A fails open; where nothing is said, nothing is run unprotected."""
    assert policy.store_down is (StoreDown.PROCEED if policy is A else StoreDown.REFUSE)
    assert policy.trouble(StoreUnavailable("down"), request(policy)).status == 503


@EVERY
def test_no_credentials(policy: HttpPolicy):
    """The application refuses before the key is looked at; nothing is bound."""
    for key in ("k", "absent", "\x01", "k" * 100_000):
        assert policy.plan(request(policy, key, user=None)) is PASS


def test_a_deleted_resource_frees_its_key():
    """A: the key that ``store.forget`` is given is the one that was claimed."""
    assert A.key("ann", "k-1") == guarded(A).key


def test_d_is_bound_to_its_path_alone():
    """POST and PUT of one path share a key, so one replays the other."""
    plan = guarded(D, method="POST")
    stored = D.settle(200, (), [b"x"], plan, ALL).result
    assert isinstance(D.meet(Completed(stored), guarded(D, method="PUT")), Replay)


def test_f_leaves_its_choices_to_the_server():
    """Which errors are kept is published by whoever runs it."""
    never: Callable[[int], Fate] = lambda status: Fate.RELEASE  # noqa: E731
    assert presets.ietf(who, fate=never).settle(200, (), [b""], guarded(F), ALL).fate is Fate.RELEASE
