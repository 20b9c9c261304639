"""Options of one route: opted in or out, with a policy of its own. Shared by the frameworks' helpers.

A mark is data on a view (or, in FastAPI, a dependency of it); the framework's middleware finds the view that a request
is for, and asks the mark for the policy.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypedDict, TypeVar, Unpack

from idemstore.checks import Duration
from idemstore.errors import ConfigurationError
from idemstore.http.choices import FateOf, FingerprintOf, LargeRequest, OnMismatch, OperationOf, Reshape, Rewrite, Scope
from idemstore.http.facts import Request
from idemstore.http.keyformat import KeyFormat
from idemstore.http.policy import HttpPolicy
from idemstore.http.routes import Routes
from idemstore.policy import LeaseLoss, StoreDown

V = TypeVar("V", bound=Callable[..., object])
E = TypeVar("E")

MARK: Final = "__idemstore_mark__"
POLICY: Final = "idemstore.policy"
"""Where the ASGI scope and the WSGI environ have the policy of a request that the middleware looked at."""
TEMPLATE: Final = "idemstore.route"
"""Where they have the template of its route."""
UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Changes(TypedDict, total=False):
    """What a route may change: every field of ``HttpPolicy``."""

    scope: Scope
    headers: tuple[str, ...]
    methods: frozenset[str]
    routes: Routes | None
    key_format: KeyFormat
    required: bool
    fingerprint: FingerprintOf | None
    on_mismatch: OnMismatch
    mismatch_status: int
    in_flight_status: int
    wait: Duration
    retry_after: int
    fate: FateOf
    retention: Duration | None
    failure_retention: Duration | None
    lease: Duration
    patience: Duration
    replay_status: int | None
    replay_header: tuple[str, str] | None
    rewrite: Rewrite | None
    not_replayed: frozenset[str]
    not_kept_status: int
    store_down: StoreDown
    lease_loss: LeaseLoss
    takeover: bool
    binds: OperationOf
    max_request: int
    large_request: LargeRequest
    max_response: int
    namespace: str
    problem_base: str
    reshape: Reshape | None


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """What a route says of itself. ``on`` False: it is not guarded, whatever the policy says."""

    on: bool = True
    changes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A name that no policy has is a mistake to hear of at import."""
        unknown = set(self.changes) - set(Changes.__annotations__)
        if unknown:
            raise ConfigurationError(f"HttpPolicy has no field {', '.join(sorted(unknown))}")

    def policy(self, base: HttpPolicy, methods: Collection[str]) -> HttpPolicy | None:
        """The policy of a marked route; None: not guarded. A route that opts in is guarded for each of its ``methods``
        that may change something, whatever ``methods`` and ``routes`` of the base say.
        """
        if not self.on:
            return None
        own: dict[str, object] = {"routes": template, "methods": (frozenset(methods) & UNSAFE) or base.methods}
        return replace(base, **{**own, **self.changes})  # type: ignore[arg-type]


class Engines(Generic[E]):
    """A middleware per policy: the common one, and one for each mark, made at its first request."""

    __slots__ = ("_common", "_make", "_marked", "policy")

    def __init__(self, make: Callable[[HttpPolicy], E], policy: HttpPolicy, *, marked_only: bool) -> None:
        self.policy, self._make = policy, make
        common = make(policy if policy.routes is not None else replace(policy, routes=template))
        self._common = None if marked_only else common
        self._marked: dict[tuple[Mark, frozenset[str]], E | None] = {}

    def of(self, mark: Mark | None, methods: Collection[str]) -> E | None:
        """What guards a route; None: nothing does."""
        if mark is None:
            return self._common
        known = mark, frozenset(methods)
        if known not in self._marked:
            policy = mark.policy(self.policy, methods)
            self._marked[known] = None if policy is None else self._make(policy)
        return self._marked[known]


def template(request: Request) -> str | bool:
    """``HttpPolicy.routes`` of a marked route: its template, as the framework knows it."""
    found = request.context.get(TEMPLATE)
    return found if isinstance(found, str) and found else True


def idempotent(**changes: Unpack[Changes]) -> Callable[[V], V]:
    """Decorator: guard this view, with these changes to the policy (``@idempotent(required=True)``)."""
    return _marked(Mark(changes=changes))


def not_idempotent(view: V) -> V:
    """Decorator: leave this view alone, whatever the policy says."""
    return _marked(Mark(on=False))(view)


def _marked(mark: Mark) -> Callable[[V], V]:
    """Put a mark on a view; wrappers made with ``functools.wraps`` carry it on."""

    def decorate(view: V) -> V:
        setattr(view, MARK, mark)
        return view

    return decorate


def mark_of(*views: object) -> Mark | None:
    """The mark of the first of these that has one."""
    for view in views:
        found = getattr(view, MARK, None)
        if isinstance(found, Mark):
            return found
    return None
