"""The HTTP policy: request facts in, plan out; outcome in, response out. Pure: no I/O, no framework.

An adapter asks ``plan`` what a request means, reads as much of the body as the plan asks for, has ``identify`` name
the key, claims that, and asks ``meet`` what the outcome means. Where the application runs, ``settle`` says what its
response means for the key. Nothing else decides.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from idemstore.checks import Duration
from idemstore.errors import (
    ConfigurationError,
    CorruptRecord,
    IdemstoreError,
    StoreFull,
    StoreUnavailable,
    UndecodableResult,
)
from idemstore.http.choices import (
    COMPLETE,
    RELEASE,
    FateOf,
    FingerprintOf,
    LargeRequest,
    OnMismatch,
    OperationOf,
    Reshape,
    Rewrite,
    Scope,
    ScopeParts,
    SingleTenant,
    body_fingerprint,
    keep_client_errors,
    method_and_path,
)
from idemstore.http.door import check_bounds, check_kinds, check_names
from idemstore.http.facts import Headers, Request, Response, new_request, values
from idemstore.http.keyformat import BadKey, KeyFormat
from idemstore.http.plans import (
    PASS,
    Answer,
    Guarded,
    Keyed,
    Met,
    Plan,
    Replay,
    Run,
    Settlement,
    new_guarded,
    new_keyed,
    new_settlement,
)
from idemstore.http.problems import BASE, Problem, problem
from idemstore.http.record import decode_response, encode_response
from idemstore.http.routes import Routes
from idemstore.http.storedkey import stored_key
from idemstore.outcomes import Abandoned, Claimed, ClaimOutcome, Completed, Failed, InFlight, Mismatch
from idemstore.policy import LeaseLoss, StoreDown

DAY: Final = 86400.0
MIB: Final = 2**20

HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade", "content-length"),
    }
)
"""Never stored: they are about one connection, and the length is counted anew."""
ABANDONED_RETRY: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy:
    """How an API treats idempotency keys. ``scope`` has no default: a shared namespace must be chosen, see
    ``single_tenant``. Durations are seconds or timedelta.
    """

    scope: Scope
    """A function of the request: who asks, as a str or a tuple of str; None: not known, so the application answers and
    no key is bound.
    """
    headers: tuple[str, ...] = ("idempotency-key",)
    """Where the key may stand, in any case; the first of them that is there counts."""
    methods: frozenset[str] = frozenset({"POST", "PATCH"})
    routes: Routes | None = None
    """Which requests, of these methods: ``paths("/calls", "/calls/{id}")``, or a function of the request. None: all."""
    key_format: KeyFormat = field(default_factory=KeyFormat)
    required: bool = False
    """Answer 400 where the key is missing."""
    fingerprint: FingerprintOf | None = body_fingerprint
    """What a payload is: ``body_fingerprint``, ``json_fingerprint``, a function; None: payloads are not compared."""
    on_mismatch: OnMismatch = OnMismatch.REFUSE
    mismatch_status: int = 422
    in_flight_status: int = 409
    wait: Duration = 0
    """How long a request waits for another one with its key before ``in_flight_status``."""
    retry_after: int = 1
    """Seconds that ``Retry-After`` names for a request in flight (fewer, where its lease ends before)."""
    fate: FateOf = keep_client_errors
    """What becomes of the key, by the status of the response. An application that raises counts as 500."""
    retention: Duration | None = DAY
    """How long a success is replayed; None: for ever."""
    failure_retention: Duration | None = DAY
    """How long a failure is replayed; None: for ever."""
    lease: Duration = 30.0
    """How long a claim stands without a renewal; the heartbeat renews it while the application runs."""
    patience: Duration = 5.0
    """How long a response waits for a store that cannot take it; then it goes out unrecorded, with an error logged."""
    replay_status: int | None = None
    """Another status for replays."""
    replay_header: tuple[str, str] | None = ("idempotency-replayed", "true")
    rewrite: Rewrite | None = None
    """Makes the replay from the stored response and today's request. It may be async under ASGI."""
    not_replayed: frozenset[str] = frozenset({"date", "set-cookie"})
    """Response headers that are not stored, beside those of the connection: a session is not handed out twice."""
    not_kept_status: int = 410
    """The answer to a retry whose first response had a body too large to be kept."""
    store_down: StoreDown = StoreDown.REFUSE
    """While the store cannot take a claim: 503, or run unprotected."""
    lease_loss: LeaseLoss = LeaseLoss.FINISH
    """CANCEL: cancel an application (ASGI only) whose claim was taken over."""
    takeover: bool = True
    """False: after a crash half-way answer ``in_flight_status`` until an operator settles the key."""
    binds: OperationOf = method_and_path
    """What a record is bound to: it is never replayed to a request of which this function says anything else."""
    max_request: int = MIB
    """Bytes of a request body that are read for its fingerprint."""
    large_request: LargeRequest = LargeRequest.REFUSE
    max_response: int = MIB
    """Bytes of a response body that are kept; of a larger one only status and headers are."""
    namespace: str = "http"
    """The first part of every stored key: what else is in the store stays apart."""
    problem_base: str = BASE
    """What the ``type`` URIs of problem documents begin with."""
    reshape: Reshape | None = None
    """Makes an API's own error body from a problem document; the second argument is the request."""

    _dropped: frozenset[str] = field(init=False, repr=False, compare=False, default=HOP_BY_HOP)
    _compares: bool = field(init=False, repr=False, compare=False, default=True)
    _separates: bool = field(init=False, repr=False, compare=False, default=False)
    """Whether payloads are looked at, and whether another one makes another key."""

    def __post_init__(self) -> None:
        """Refuse what no request could use."""
        if not callable(self.scope):
            raise ConfigurationError("HttpPolicy.scope is a function of the request, or single_tenant() said out loud")
        check_names(self)
        object.__setattr__(self, "headers", tuple(name.lower() for name in self.headers))
        object.__setattr__(self, "methods", frozenset(self.methods))
        object.__setattr__(self, "not_replayed", frozenset(name.lower() for name in self.not_replayed))
        object.__setattr__(self, "_dropped", HOP_BY_HOP | self.not_replayed)
        compares = self.fingerprint is not None and self.on_mismatch is not OnMismatch.IGNORE
        object.__setattr__(self, "_compares", compares)
        object.__setattr__(self, "_separates", self.on_mismatch is OnMismatch.SEPARATE)
        check_kinds(self)
        check_bounds(self)

    # -- a request comes in ------------------------------------------------------------------------------------------

    def plan(self, request: Request) -> Plan:
        """What a request means: not ours, answered at once, or a key. Nothing of the body is needed yet."""
        if request.method not in self.methods:
            return PASS
        if self.routes is not None:
            route = self.routes(request)
            if not route:
                return PASS
            if isinstance(route, str) and route != request.route:
                request = request._replace(route=route)
        found = self._found(request.headers)
        if not found and not self.required:
            return PASS
        scope = self.scope(request)
        if scope is None:
            return PASS  # nobody known: the application refuses, and no key is bound
        try:
            parts = (scope,) if isinstance(scope, str) and scope else self._parts(scope)
            key = self.key_format.read(found)
        except BadKey as error:
            return self._answer(request, Problem.INVALID_KEY, 400, f"This is no key: {error}.")
        if key is None:
            return self._missing(request) if self.required else PASS
        return new_keyed((request, parts, key, self.max_request if self._compares else None))

    def _found(self, headers: Headers) -> list[str]:
        """The values of the header that counts."""
        for wanted in self.headers:
            found = [value for name, value in headers if name == wanted]
            if found:
                return found
        return []

    def _missing(self, request: Request) -> Answer:
        """No key where there must be one."""
        detail = f"This request must carry an idempotency key: send the header {self.headers[0]}."
        return self._answer(request, Problem.KEY_REQUIRED, 400, detail)

    def _parts(self, scope: ScopeParts) -> tuple[str, ...]:
        """The parts of a scope, or ``ConfigurationError``: an empty one would mix callers up."""
        if isinstance(scope, tuple) and (scope or isinstance(self.scope, SingleTenant)):
            for part in scope:
                if not (isinstance(part, str) and part):
                    break
            else:
                return scope
        raise ConfigurationError(
            "HttpPolicy.scope gave no usable scope: return a non-empty str or a tuple of them; None where the caller "
            "is not known; single_tenant() where all share one namespace"
        )

    def identify(self, keyed: Keyed, body: bytes = b"", *, truncated: bool = False) -> Guarded | Answer:
        """The key to claim, once the body is there. ``truncated``: it is longer than ``keyed.reads``."""
        (request, scope, key, _), digest = keyed, None
        if truncated and self.large_request is LargeRequest.REFUSE:
            detail = f"A request with an idempotency key has at most {self.max_request} bytes."
            return self._answer(request, Problem.PAYLOAD_TOO_LARGE, 413, detail)
        if self._compares and self.fingerprint is not None:
            if body or truncated:
                request = new_request((*request[:5], body, truncated, request.context))
            digest = self.fingerprint(request)
        operation = self.binds(request)
        if digest is not None and self._separates:
            scope, digest = (*scope, digest.hex()), None
        return new_guarded((request, stored_key(self.namespace, (*scope, key)), digest, operation))

    def key(self, scope: ScopeParts, key: str) -> tuple[str, ...]:
        """The store's key of a client's key: for ``store.get``, and for ``store.forget`` when its resource goes."""
        parts = (scope, key) if isinstance(scope, str) else (*scope, key)
        return stored_key(self.namespace, parts)

    # -- the store has answered --------------------------------------------------------------------------------------

    def meet(self, outcome: ClaimOutcome, guarded: Guarded) -> Met:
        """What an outcome means for a request. A record of another version or operation raises
        ``UndecodableResult``: log it, and answer with ``trouble``.
        """
        match outcome:
            case Claimed():
                return Run(outcome)
            case Completed(result) | Failed(result, None):
                return Replay(decode_response(result, guarded.operation))
            case Failed(_, retry_after):
                return self._later(
                    guarded, Problem.RETRY_LATER, "An earlier request failed and backs off.", retry_after
                )
            case InFlight(retry_after):
                seconds = min(self.retry_after, retry_after)
                return self._later(guarded, Problem.IN_FLIGHT, "It has not been answered yet: try again.", seconds)
            case Mismatch():
                detail = "This key was first used with another request: use a new key for a new request."
                return self._answer(guarded.request, Problem.KEY_REUSED, self.mismatch_status, detail)
            case Abandoned():
                detail = "What became of it is being looked into: try again later, with the same key."
                return self._later(guarded, Problem.ABANDONED, detail, ABANDONED_RETRY)
            case _:
                assert_never(outcome)

    def _later(self, guarded: Guarded, kind: Problem, detail: str, seconds: float | None) -> Answer:
        """Come back later."""
        after = ("retry-after", str(max(1, round(seconds or 1))))
        return self._answer(guarded.request, kind, self.in_flight_status, detail, (after,))

    def rewritten(self, stored: Response, request: Request) -> Response | Awaitable[Response]:
        """The stored response as the policy's hook makes it. What it gives goes through ``replayed``."""
        return stored if self.rewrite is None else self.rewrite(stored, request)

    def replayed(self, response: Response, request: Request) -> Response:
        """The answer to a retry."""
        mark = () if self.replay_header is None else (self.replay_header,)
        if response.body is None:
            kept = tuple(pair for pair in response.headers if not pair[0].startswith("content-"))
            answer = self._problem(
                Problem.BODY_NOT_KEPT,
                self.not_kept_status,
                f"The request was carried out and answered with status {response.status}; that body was too large.",
                (*kept, *mark),
                original_status=response.status,
            )
            return self._reshaped(answer, request)
        return Response(self.replay_status or response.status, (*response.headers, *mark), response.body)

    # -- the application has answered --------------------------------------------------------------------------------

    def settle(
        self, status: int, headers: Headers, body: Sequence[bytes] | None, guarded: Guarded, limit: int
    ) -> Settlement:
        """What the application's response means for the key. ``body`` in parts, None: larger than ``max_response``;
        ``limit``: the most that the store takes.
        """
        fate = self.fate(status)
        if fate is RELEASE:
            return new_settlement((fate, b"", None))
        retention = self.retention if fate is COMPLETE else self.failure_retention
        lasting = self._lasting(headers)
        data = encode_response(status, lasting, guarded.operation, body)
        if len(data) > limit:
            data = encode_response(status, lasting, guarded.operation, None)
        if len(data) > limit:
            data = encode_response(status, (), guarded.operation, None)
        return new_settlement((fate, data, retention))

    def _lasting(self, headers: Headers) -> Headers:
        """The headers that a replay repeats."""
        dropped, lasting = self._dropped, []
        for pair in headers:
            if pair[0] not in dropped:
                lasting.append(pair)
            elif pair[0] == "connection":
                named = {name.strip().lower() for value in values(headers, "connection") for name in value.split(",")}
                return tuple(one for one in headers if one[0] not in dropped | named)
        return tuple(lasting)

    def failure(self) -> Response:
        """What is kept of an application that raised, where 500 is kept."""
        return self._problem(Problem.FAILED, 500, "The first request with this key failed on the server.")

    # -- something is wrong ------------------------------------------------------------------------------------------

    def trouble(self, error: IdemstoreError, request: Request) -> Response:
        """The answer where idempotency cannot be had: never a wrong body. The error is for the log."""
        match error:
            case StoreUnavailable() | StoreFull():
                detail = "Nothing was run: try again, with the same key."
                answer = self._problem(Problem.STORE_UNAVAILABLE, 503, detail, (("retry-after", "1"),))
            case UndecodableResult() | CorruptRecord():
                detail = "What is stored under this key answers another request, or cannot be read. Nothing was run."
                answer = self._problem(Problem.UNREADABLE_RECORD, 500, detail)
            case ConfigurationError():
                answer = self._problem(Problem.MISCONFIGURED, 500, "Nothing was run. The operator has to look into it.")
            case _:
                answer = self._problem(Problem.STORE_ERROR, 500, "Nothing was run. The operator has to look into it.")
        return self._reshaped(answer, request)

    def lost(self, request: Request) -> Response:
        """The answer to an owner whose claim was taken over: its own response must not count."""
        detail = "This request took so long that another one with its key took over: try again to get its answer."
        answer = self._problem(Problem.LEASE_LOST, self.in_flight_status, detail, (("retry-after", "1"),))
        return self._reshaped(answer, request)

    def incomplete(self, request: Request) -> Response:
        """The answer to a body that ends before its declared length."""
        return self._reshaped(self._problem(Problem.INCOMPLETE_BODY, 400, "Nothing was run: send it again."), request)

    def _answer(self, request: Request, kind: Problem, status: int, detail: str, headers: Headers = ()) -> Answer:
        """A problem for a request."""
        return Answer(self._reshaped(self._problem(kind, status, detail, headers), request))

    def _problem(self, kind: Problem, status: int, detail: str, headers: Headers = (), **members: int) -> Response:
        """A problem document."""
        return problem(kind, status, detail, headers, base=self.problem_base, **members)

    def _reshaped(self, answer: Response, request: Request) -> Response:
        """The API's own error body, where the policy has one."""
        return answer if self.reshape is None else self.reshape(answer, request)
