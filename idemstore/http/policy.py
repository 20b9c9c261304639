"""The HTTP policy: request facts in, plan out; outcome in, response out. Pure: no I/O, no framework.

Adapters ask ``plan`` what a request means, claim what it names, and ask ``meet`` what the outcome means. Where the
application runs, ``settle`` says what its response means for the key. Nothing else decides.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, assert_never

from idemstore import checks
from idemstore.checks import Duration
from idemstore.errors import ConfigurationError, IdemstoreError, UndecodableResult
from idemstore.http.facts import Headers, Request, Response, decode_response, encode_response, values
from idemstore.http.keyformat import BadKey, KeyFormat
from idemstore.keys import KeyLike, redact
from idemstore.outcomes import Abandoned, Claimed, ClaimOutcome, Completed, Failed, InFlight, Mismatch

DAY: Final = 86400.0
MIB: Final = 2**20
PROBLEMS: Final = "https://idemstore.readthedocs.io/problems/"
"""Where the ``type`` of a problem document points; the last part never changes (RFC 9457)."""

HOP_BY_HOP: Final = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
)
PER_RESPONSE: Final = frozenset({"date", "server", "content-length"})
MAX_STORED_KEY: Final = 512
"""Characters of a client's key that are stored as they are; a longer one is stored as its SHA-256."""


class OnMismatch(StrEnum):
    """What becomes of a known key with another payload."""

    REFUSE = "refuse"
    SEPARATE = "separate"
    """The payload is part of the identity: another key."""
    IGNORE = "ignore"
    """The payload is not looked at: the first response is replayed."""


class Fate(StrEnum):
    """What becomes of the key after a response."""

    COMPLETE = "complete"
    """Kept and replayed as a success."""
    FAIL = "fail"
    """Kept and replayed as a failure."""
    RELEASE = "release"
    """Not kept: the same key may be tried again."""


class StoreDown(StrEnum):
    """What happens while the store cannot be reached."""

    REFUSE = "refuse"
    PROCEED = "proceed"


Scope = Callable[[Request], tuple[str, ...] | None]
"""Who asks, as the parts that isolate callers; None: nobody known, so the application answers and nothing is bound."""
FingerprintOf = Callable[[Request], bytes | None]
Rewrite = Callable[[Response, Request], Response]
FateOf = Callable[[int], Fate]


def single_tenant() -> Scope:
    """Said out loud: every caller of this service shares one namespace of keys."""
    return lambda request: ()


def body_fingerprint(request: Request) -> bytes:
    """Method, path, query and body: the default."""
    digest = hashlib.sha256(b"idemstore http 1\n")
    for part in (request.method.encode(), request.path.encode(), request.query.encode(), request.body or b""):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def keep_everything(status: int) -> Fate:
    """Every response is kept, errors included."""
    return Fate.COMPLETE if status < 400 else Fate.FAIL


def keep_client_errors(status: int) -> Fate:
    """Successes and 4xx are kept, but those that say "later" or "not now"; 5xx may be tried again."""
    if status in (408, 409, 425, 429) or status >= 500:
        return Fate.RELEASE
    return Fate.COMPLETE if status < 400 else Fate.FAIL


def keep_success(status: int) -> Fate:
    """Only successes are kept."""
    return Fate.COMPLETE if status < 400 else Fate.RELEASE


class Pass(NamedTuple):
    """Not ours: let the application answer as if there were no middleware."""


class Refuse(NamedTuple):
    """Answer with this; the application does not run."""

    response: Response


class Guarded(NamedTuple):
    """Claim this key, then ``meet`` the outcome."""

    key: KeyLike
    fingerprint: bytes | None
    route: str


class Run(NamedTuple):
    """The caller owns the key: let the application answer, then ``settle``."""

    claimed: Claimed


Plan = Pass | Refuse | Guarded
Met = Run | Refuse


class Settlement(NamedTuple):
    """What to tell the store. ``result`` is empty for a release; ``retention`` in seconds, None: for ever."""

    fate: Fate
    result: bytes
    retention: Duration | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy:
    """How an API treats idempotency keys. ``scope`` has no default: a shared namespace must be chosen, see
    ``single_tenant``. Durations are seconds or timedelta.
    """

    scope: Scope
    headers: tuple[str, ...] = ("idempotency-key",)
    """Where the key may stand; the first of them that is there counts."""
    methods: frozenset[str] = frozenset({"POST", "PATCH"})
    routes: Callable[[Request], bool] | None = None
    """Which requests, of these methods; None: all."""
    key_format: KeyFormat = field(default_factory=KeyFormat)
    required: bool = False
    """Answer 400 where the key is missing."""
    fingerprint: FingerprintOf | None = body_fingerprint
    """None: payloads are not compared."""
    on_mismatch: OnMismatch = OnMismatch.REFUSE
    mismatch_status: int = 422
    in_flight_status: int = 409
    wait: Duration = 0
    """How long a request waits for another one with its key before ``in_flight_status``."""
    fate: FateOf = keep_client_errors
    retention: Duration | None = DAY
    failure_retention: Duration | None = DAY
    lease: Duration = 30.0
    rewrite: Rewrite | None = None
    """Makes the replay from the stored response and today's request; it must not change what was stored."""
    replay_header: tuple[str, str] | None = ("idempotency-replayed", "true")
    keep_cookies: bool = False
    """Replay Set-Cookie, too. Off: a session is not handed out twice."""
    store_down: StoreDown = StoreDown.REFUSE
    max_request: int = MIB
    """Bytes of a request body that are read for its fingerprint; more is refused (413)."""
    max_response: int = MIB
    """Bytes of a response body that are kept; of a larger one only status and headers are."""
    takeover: bool = True
    """False: after a crash half-way answer ``in_flight_status`` until an operator settles the key."""

    def __post_init__(self) -> None:
        """Refuse what no request could use."""
        if not callable(self.scope):
            raise ConfigurationError("HttpPolicy.scope is a function of the request, or single_tenant() said out loud")
        for name in self.headers:
            if name != name.lower() or not name:
                raise ConfigurationError(f"HttpPolicy.headers are in lower case, not {name!r}")
        checks.duration("lease", self.lease)
        checks.retention(self.retention)
        checks.retention(self.failure_retention)
        checks.seconds_to_wait(self.wait)

    def concerns(self, method: str, headers: Mapping[str, str] | None = None) -> bool:
        """Whether a method is looked at, at all: the cheapest question, asked first."""
        return method in self.methods

    @property
    def needs_body(self) -> bool:
        """Whether ``plan`` wants the body of a request with a key."""
        return self.fingerprint is not None and self.on_mismatch is not OnMismatch.IGNORE

    def key_of(self, request: Request) -> str | Refuse | None:
        """The client's key; None where there is none; a refusal where it is no key."""
        for name in self.headers:
            found = values(request.headers, name)
            if found:
                try:
                    return self.key_format.read(found)
                except BadKey as error:
                    return Refuse(problem("invalid-key", 400, f"The {name} header holds no key: {error}."))
        return None

    def plan(self, request: Request) -> Plan:
        """What a request means: not ours, refused, or a key to claim."""
        if request.method not in self.methods or (self.routes is not None and not self.routes(request)):
            return Pass()
        key = self.key_of(request)
        if isinstance(key, Refuse):
            return key
        scope = self.scope(request)
        if scope is None:
            return Pass()
        if key is None:
            return (
                Refuse(problem("key-required", 400, f"Send a {self.headers[0]} header.")) if self.required else Pass()
            )
        if self.needs_body and request.body is not None and len(request.body) > self.max_request:
            return Refuse(problem("payload-too-large", 413, f"At most {self.max_request} bytes with a key."))
        return self._guarded(request, scope, key)

    def _guarded(self, request: Request, scope: tuple[str, ...], key: str) -> Guarded:
        """The key to claim."""
        digest = self.fingerprint(request) if self.needs_body and self.fingerprint is not None else None
        stored = key if len(key) <= MAX_STORED_KEY else f"sha256-{hashlib.sha256(key.encode()).hexdigest()}"
        route = f"{request.method} {request.route or request.path}"
        if self.on_mismatch is OnMismatch.SEPARATE and digest is not None:
            return Guarded((*scope, stored, digest.hex()), None, route)
        return Guarded((*scope, stored), digest, route)

    def meet(self, outcome: ClaimOutcome, request: Request, plan: Guarded) -> Met:
        """What an outcome means for a request."""
        match outcome:
            case Claimed():
                return Run(outcome)
            case Completed(result) | Failed(result, None):
                return Refuse(self._replay(result, request, plan))
            case Failed(_, retry_after):
                return Refuse(self._busy("retry-later", "An earlier request failed and backs off.", retry_after or 1.0))
            case InFlight(retry_after):
                return Refuse(self._busy("in-flight", "A request with this key is being processed.", retry_after))
            case Mismatch():
                return Refuse(
                    problem("key-reused", self.mismatch_status, "This key was first used with another payload.")
                )
            case Abandoned():
                return Refuse(
                    self._busy("abandoned", "A request with this key ended half-way; it is looked into.", 60.0)
                )
            case _:
                assert_never(outcome)

    def _busy(self, kind: str, detail: str, seconds: float) -> Response:
        """Come back later."""
        after = str(max(1, min(60, round(seconds))))
        return problem(kind, self.in_flight_status, detail, (("retry-after", after),))

    def _replay(self, stored: bytes, request: Request, plan: Guarded) -> Response:
        """The first response, as it is replayed. A record of another version or route raises ``UndecodableResult``."""
        response = decode_response(stored, plan.route)
        if self.rewrite is not None:
            response = self.rewrite(response, request)
        if response.body is None:
            return problem(
                "body-not-kept",
                200 if response.status < 400 else response.status,
                f"The first request was answered with status {response.status}; its body was too large to be kept.",
                ((*self._mark(), ("idempotency-original-status", str(response.status)))),
            )
        return Response(response.status, (*response.headers, *self._mark()), response.body)

    def _mark(self) -> Headers:
        """The header that tells a replay from a first response."""
        return () if self.replay_header is None else (self.replay_header,)

    def settle(self, response: Response, plan: Guarded) -> Settlement:
        """What the application's response means for the key."""
        fate = self.fate(response.status)
        if fate is Fate.RELEASE:
            return Settlement(fate, b"", None)
        body = response.body if response.body is not None and len(response.body) <= self.max_response else None
        kept = Response(response.status, self.lasting(response.headers), body)
        retention = self.retention if fate is Fate.COMPLETE else self.failure_retention
        return Settlement(fate, encode_response(kept, plan.route), retention)

    def lasting(self, headers: Headers) -> Headers:
        """The headers that a replay repeats: not those of the connection, nor those of one response only."""
        named = {name.strip().lower() for value in values(headers, "connection") for name in value.split(",")}
        dropped = HOP_BY_HOP | PER_RESPONSE | named | (frozenset() if self.keep_cookies else {"set-cookie"})
        return tuple(pair for pair in headers if pair[0] not in dropped)

    def unavailable(self) -> Response:
        """The answer while the store is down and the policy is to refuse."""
        return problem("store-unavailable", 503, "Idempotency cannot be guaranteed right now.", (("retry-after", "1"),))

    def undecodable(self, error: IdemstoreError) -> Response:
        """The answer where what is stored cannot be replayed; never a wrong body to a wrong caller."""
        foreign = isinstance(error, UndecodableResult)
        detail = "What is stored under this key belongs to another operation." if foreign else "The record is damaged."
        return problem("unreadable-record", 500, detail)


def problem(kind: str, status: int, detail: str, headers: Headers = ()) -> Response:
    """A problem document (RFC 9457). ``kind`` is stable: clients may rely on the ``type`` URI."""
    title = kind.replace("-", " ").capitalize()
    body = {"type": PROBLEMS + kind, "title": title, "status": status, "detail": detail}
    return Response(status, (("content-type", "application/problem+json"), *headers), json.dumps(body).encode())


def describe(plan: Guarded) -> str:
    """A plan for logs, without the client's key."""
    return redact(plan.key if isinstance(plan.key, str) else ":".join(plan.key))
