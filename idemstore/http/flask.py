"""Flask: an extension that puts the WSGI middleware before the application, with options per view.

::

    idempotency = Idempotency(app, idemstore.open(url), HttpPolicy(scope=...))

    @app.post("/orders")            # guarded as the policy says
    def order(): ...

    @app.post("/pay")
    @idempotency.on(required=True)  # with a policy of its own
    def pay(): ...

    @app.post("/search")
    @idempotency.off                # left alone
    def search(): ...

It looks the view up before Flask does, for POST, PUT, PATCH and DELETE. Where there is none Flask answers, and no key
is bound. In a view ``request.environ.get("idemstore.operation")`` is the running operation, None without a key.
"""

from collections.abc import Callable, Iterable
from typing import Unpack

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect, Rule

from idemstore.errors import ConfigurationError
from idemstore.http import wsgi
from idemstore.http.policy import HttpPolicy
from idemstore.http.views import (
    POLICY,
    TEMPLATE,
    UNSAFE,
    Changes,
    Engines,
    Mark,
    V,
    idempotent,
    mark_of,
    not_idempotent,
)
from idemstore.http.wsgi_types import Environ, StartResponse, WsgiApp
from idemstore.store import Store

__all__ = ["Idempotency", "IdempotencyMiddleware", "idempotent", "not_idempotent"]


class IdempotencyMiddleware:
    """Before ``inner``, what was ``app.wsgi_app``. ``marked_only``: guard no view but those that opt in."""

    def __init__(
        self, app: Flask, inner: WsgiApp, store: Store, policy: HttpPolicy, *, marked_only: bool = False
    ) -> None:
        self.app, self.inner = app, inner
        self._methods = UNSAFE | policy.methods
        self._engines = Engines(
            lambda own: wsgi.IdempotencyMiddleware(inner, store, own), policy, marked_only=marked_only
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        engine = self._engine(environ) if environ["REQUEST_METHOD"] in self._methods else None
        environ[POLICY] = None if engine is None else engine.policy
        return (engine or self.inner)(environ, start_response)

    def _engine(self, environ: Environ) -> wsgi.IdempotencyMiddleware | None:
        """What guards this request, if anything does."""
        rule = self._rule(environ)
        if rule is None:
            return None
        environ[TEMPLATE] = rule.rule
        return self._engines.of(self._mark(rule, environ["REQUEST_METHOD"]), rule.methods or UNSAFE)

    def _rule(self, environ: Environ) -> Rule | None:
        """The rule that Flask will find; None where it answers by itself: not found, not allowed, a redirect."""
        try:
            adapter = self.app.create_url_adapter(self.app.request_class(environ, populate_request=False))
            return None if adapter is None else adapter.match(return_rule=True)[0]
        except (HTTPException, RequestRedirect):
            return None

    def _mark(self, rule: Rule, method: str) -> Mark | None:
        """What the view says of itself."""
        view = self.app.view_functions.get(rule.endpoint)
        kind = getattr(view, "view_class", None)
        return mark_of(getattr(kind, method.lower(), None), view, kind)


class Idempotency:
    """The extension. Without an application, or without store and policy, ``init_app`` gets them."""

    def __init__(
        self,
        app: Flask | None = None,
        store: Store | None = None,
        policy: HttpPolicy | None = None,
        *,
        marked_only: bool = False,
    ) -> None:
        self.store, self.policy, self.marked_only = store, policy, marked_only
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, store: Store | None = None, policy: HttpPolicy | None = None) -> None:
        """Put the middleware before an application. The store stays yours to close."""
        store, policy = store or self.store, policy or self.policy
        if store is None or policy is None:
            raise ConfigurationError("Idempotency takes a store and a policy, in the constructor or in init_app()")
        if "idemstore" in app.extensions:
            raise ConfigurationError("this application has an Idempotency already")
        app.extensions["idemstore"] = self
        app.wsgi_app = IdempotencyMiddleware(  # type: ignore[method-assign]
            app, app.wsgi_app, store, policy, marked_only=self.marked_only
        )

    @staticmethod
    def on(**changes: Unpack[Changes]) -> Callable[[V], V]:
        """Decorator: guard this view, with these changes to the policy."""
        return idempotent(**changes)

    @staticmethod
    def off(view: V) -> V:
        """Decorator: leave this view alone."""
        return not_idempotent(view)
