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

from collections.abc import Sequence
from typing import NamedTuple

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


class IdempotencyMiddleware:
    """For ``Middleware(...)`` and ``add_middleware``. ``marked_only``: guard no route but those that opt in."""

    def __init__(self, app: AsgiApp, store: AsyncStore, policy: HttpPolicy, *, marked_only: bool = False) -> None:
        self.app, self.store, self.policy, self.marked_only = app, store, policy, marked_only
        self._engines = Engines(
            lambda own: asgi.IdempotencyMiddleware(app, store, own), policy, marked_only=marked_only
        )
        self._methods = UNSAFE | policy.methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        engine = self._engine_for(scope) if scope["type"] == "http" and scope["method"] in self._methods else None
        if engine is None:
            scope[POLICY] = None
            return await self.app(scope, receive, send)
        scope[POLICY] = engine.policy
        return await engine(scope, receive, send)

    def _engine_for(self, scope: Scope) -> asgi.IdempotencyMiddleware | None:
        """What guards this request, if anything does."""
        found = self.find(self._routes(scope), dict(scope))
        if found is None:
            return None
        scope[TEMPLATE] = found.template
        return self._engines.of(found.mark, found.methods)

    def _routes(self, scope: Scope) -> Sequence[BaseRoute]:
        """The routes of the application that this middleware is of."""
        for app in (self.app, scope.get("app")):
            routes = getattr(app, "routes", None)
            if routes is not None:
                return self.leaves(routes)
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
