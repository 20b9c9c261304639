"""Starlette: the ASGI middleware, with options per route.

::

    app = Starlette(routes=[...], middleware=[Middleware(IdempotencyMiddleware, store=store, policy=policy)])

    @idempotent(required=True)      # this endpoint with a policy of its own
    async def pay(request): ...

    @not_idempotent                 # never this one
    async def search(request): ...

It looks the route up before the application does, for POST, PUT, PATCH and DELETE. Where no route is found the
application answers (404, 405, a redirect), and no key is bound. What is mounted and is no Starlette application has no
routes that could be seen: the policy alone decides.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from starlette.routing import BaseRoute, Match, Mount, WebSocketRoute

from idemstore.async_store import AsyncStore
from idemstore.errors import ConfigurationError
from idemstore.http import asgi
from idemstore.http.asgi_types import AsgiApp, Receive, Scope, Send
from idemstore.http.policy import HttpPolicy
from idemstore.http.views import POLICY, TEMPLATE, UNSAFE, Engines, Mark, idempotent, mark_of, not_idempotent

__all__ = ["IdempotencyMiddleware", "idempotent", "not_idempotent"]


class Found(NamedTuple):
    """The route of a request. ``template`` None: something mounted that shows no routes."""

    template: str | None
    mark: Mark | None
    methods: frozenset[str]


class Known(NamedTuple):
    """What is known of an application's routes; looked at anew once their number changes."""

    routes: Sequence[BaseRoute]
    size: int
    leaves: Sequence[BaseRoute]
    names: frozenset[bytes]
    required: bool


class IdempotencyMiddleware:
    """For ``Middleware(...)`` and ``add_middleware``. ``marked_only``: guard no route but those that opt in."""

    def __init__(self, app: AsgiApp, store: AsyncStore, policy: HttpPolicy, *, marked_only: bool = False) -> None:
        self.app, self.store, self.policy, self.marked_only = app, store, policy, marked_only
        self._engines = Engines(
            lambda own: asgi.IdempotencyMiddleware(app, store, own), policy, marked_only=marked_only
        )
        self._known: Known | None = None
        self._methods = UNSAFE | policy.methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        looks = scope["type"] == "http" and scope["method"] in self._methods and self._may_have_a_key(scope)
        engine = self._engine_for(scope) if looks else None
        if engine is None:
            scope[POLICY] = None
            return await self.app(scope, receive, send)
        scope[POLICY] = engine.policy
        return await engine(scope, receive, send)

    def _may_have_a_key(self, scope: Scope) -> bool:
        """Whether a route may want to look at this request: most have no key, and cost nothing more than this."""
        routes = self._routes(scope)
        if self._known is None or self._known.routes is not routes or self._known.size != len(routes):
            self._known = self._survey(routes)
        known = self._known
        return known.required or any(name in known.names for name, _ in scope["headers"])

    def _survey(self, routes: Sequence[BaseRoute]) -> "Known":
        """Which headers some policy looks at, and whether one requires a key."""
        found = [self.policy]
        for mark in self._marks(self.leaves(routes)):
            own = mark.policy(self.policy, UNSAFE)
            found += [] if own is None else [own]
        names = frozenset(name.encode() for policy in found for name in policy.headers)
        return Known(routes, len(routes), self.leaves(routes), names, any(policy.required for policy in found))

    def _marks(self, routes: Sequence[BaseRoute]) -> Iterator[Mark]:
        """Every mark of these and of what is mounted."""
        for route in routes:
            inner = getattr(route, "original_route", route)
            if isinstance(inner, Mount):
                yield from self._marks(self.leaves(inner.routes))
            else:
                yield from (mark for method in UNSAFE if (mark := self.mark(route, method)) is not None)

    def _engine_for(self, scope: Scope) -> asgi.IdempotencyMiddleware | None:
        """What guards this request, if anything does."""
        known = self._known
        found = None if known is None else self.find(known.leaves, dict(scope))
        if found is None:  # not found, or added to an included router since
            self._known = self._survey(self._routes(scope))
            found = self.find(self._known.leaves, dict(scope))
        if found is None:
            return None
        scope[TEMPLATE] = found.template
        return self._engines.of(found.mark, found.methods)

    def _routes(self, scope: Scope) -> Sequence[BaseRoute]:
        """The routes of the application that this middleware is of."""
        for app in (self.app, scope.get("app")):
            routes = getattr(app, "routes", None)
            if routes is not None:
                return cast("Sequence[BaseRoute]", routes)
        raise ConfigurationError("add it with Starlette's add_middleware; other applications take idemstore.http.asgi")

    def leaves(self, routes: Sequence[BaseRoute]) -> Sequence[BaseRoute]:
        """The routes themselves; FastAPI has them in included routers."""
        return routes

    def find(self, routes: Sequence[BaseRoute], scope: Scope, before: str = "") -> Found | None:
        """The route that will answer."""
        for route in routes:
            if isinstance(route, WebSocketRoute):
                continue
            match, child = route.matches(scope)
            if match is not Match.FULL:
                continue
            path = before + str(getattr(route, "path", ""))
            inner = getattr(route, "original_route", route)
            if isinstance(inner, Mount):
                if not inner.routes:
                    return Found(None, None, UNSAFE)
                return self.find(self.leaves(inner.routes), {**scope, **child}, path)
            return Found(path, self.mark(route, scope["method"]), frozenset(getattr(route, "methods", None) or UNSAFE))
        return None

    def mark(self, route: BaseRoute, method: str) -> Mark | None:
        """What the route says of itself."""
        endpoint = getattr(route, "endpoint", None)
        return mark_of(getattr(endpoint, method.lower(), None), endpoint)
