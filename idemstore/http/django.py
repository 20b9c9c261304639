"""Django: a middleware for both of its modes, with options per view; Django REST framework is Django to it.

::

    MIDDLEWARE = [..., "django.contrib.auth.middleware.AuthenticationMiddleware",
                  "idemstore.http.django.IdempotencyMiddleware"]
    IDEMSTORE = {"URL": "redis://...", "POLICY": "shop.idempotency.policy"}

``URL`` is opened in the mode that Django runs in; ``STORE`` instead is a function of that mode ("sync" or "async") that
gives the store, or its dotted path. ``POLICY`` is an ``HttpPolicy`` or its dotted path. ``MARKED_ONLY``: guard no view
but those that opt in.

    @idempotent(required=True)      # functions, classes, methods, actions; above @api_view
    def pay(request): ...

A policy's scope finds Django's request as ``request.context["django.request"]``; ``user_scope`` is made for it. What is
behind this middleware runs once, so put it behind what has to see each request (authentication) and what each response
needs (CORS, compression, sessions). What is recorded is the response as Django rendered it.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve
from django.utils.module_loading import import_string

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.errors import ConfigurationError
from idemstore.http import asgi, django_asgi, django_wsgi, wsgi
from idemstore.http.django_parts import OPERATION_KEY, REQUEST, user_of
from idemstore.http.facts import Request
from idemstore.http.policy import HttpPolicy
from idemstore.http.views import UNSAFE, Engines, Mark, idempotent, mark_of, not_idempotent
from idemstore.store import Store

__all__ = ["IdempotencyMiddleware", "idempotent", "not_idempotent", "operation_of", "user_scope"]

NAMES: Final = frozenset({"URL", "STORE", "POLICY", "MARKED_ONLY"})


def user_scope(request: Request) -> str | None:
    """The user that Django has authenticated; nobody known: the view refuses, and no key is bound. Tokens that Django
    REST framework looks at are not known yet: take a scope from the header that has them.
    """
    found = request.context[REQUEST]
    return user_of(found) if isinstance(found, HttpRequest) else None


def operation_of(request: HttpRequest) -> object:
    """The running operation of a view's request (``fence``, ``attempt``, ``checkpoint``), None without a key."""
    return getattr(request, OPERATION_KEY, None)


class Configured(NamedTuple):
    """The setting ``IDEMSTORE``."""

    store: Store | AsyncStore
    policy: HttpPolicy
    marked_only: bool


def configured(mode: str) -> Configured:
    """Read the setting, or say what is wrong with it when Django starts."""
    found: object = getattr(settings, "IDEMSTORE", None)
    if not isinstance(found, Mapping) or set(found) - NAMES or ("URL" in found) == ("STORE" in found):
        raise ConfigurationError("settings.IDEMSTORE is a dict with URL or STORE, POLICY, and MARKED_ONLY if you like")
    policy = _imported(found.get("POLICY"))
    if not isinstance(policy, HttpPolicy):
        raise ConfigurationError("settings.IDEMSTORE['POLICY'] is an HttpPolicy, or its dotted path")
    store = _opened(str(found["URL"]), mode) if "URL" in found else _imported(found["STORE"])(mode)
    if not isinstance(store, Store if mode == "sync" else AsyncStore):
        raise ConfigurationError("settings.IDEMSTORE['STORE'] gives a Store for 'sync' and an AsyncStore for 'async'")
    return Configured(store, policy, bool(found.get("MARKED_ONLY", False)))


def _imported(what: Any) -> Any:  # noqa: ANN401 - settings hold anything
    """What a dotted path names."""
    return import_string(what) if isinstance(what, str) else what


def _opened(url: str, mode: str) -> Store | AsyncStore:
    """One sync store for all handlers of a process; an async one belongs to the loop of its handler."""
    return _shared(url) if mode == "sync" else idemstore.open_async(url)


@cache
def _shared(url: str) -> Store:
    """Handlers and test clients of a process share it."""
    return idemstore.open(url)


class Found(NamedTuple):
    """The view of a request."""

    template: str
    mark: Mark | None


def find(request: HttpRequest) -> Found | None:
    """The view that will answer; None: Django answers by itself."""
    try:
        match = resolve(request.path_info, getattr(request, "urlconf", None))
    except Resolver404:
        return None
    view, method = match.func, (request.method or "").lower()
    kind = getattr(view, "view_class", None) or getattr(view, "cls", None)
    actions = getattr(view, "actions", None) or {}
    mark = mark_of(getattr(kind, actions.get(method, method), None), view, kind)
    return Found(f"/{match.route.lstrip('^')}", mark)


class IdempotencyMiddleware:
    """For ``MIDDLEWARE``; runs in the mode of what is behind it."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        store, policy, marked_only = configured("async" if self._async else "sync")
        self.store, self._methods = store, UNSAFE | policy.methods
        if isinstance(store, AsyncStore):
            markcoroutinefunction(self)
            inner = django_asgi.inner(get_response)
            self._asgi = Engines(
                lambda own: asgi.IdempotencyMiddleware(inner, store, own), policy, marked_only=marked_only
            )
        else:
            outer = django_wsgi.inner(get_response)
            self._wsgi = Engines(
                lambda own: wsgi.IdempotencyMiddleware(outer, store, own), policy, marked_only=marked_only
            )

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """One request."""
        if self._async:
            return self._guarded(request)
        found = find(request) if request.method in self._methods else None
        engine = None if found is None else self._wsgi.of(found.mark, UNSAFE)
        if found is None or engine is None:
            response: HttpResponseBase = self.get_response(request)
            return response
        return django_wsgi.guarded(engine, request, found.template)

    async def _guarded(self, request: HttpRequest) -> HttpResponseBase:
        """One request, on the loop."""
        found = find(request) if request.method in self._methods else None
        engine = None if found is None else self._asgi.of(found.mark, UNSAFE)
        if found is None or engine is None:
            response: HttpResponseBase = await self.get_response(request)
            return response
        if engine.policy.scope is user_scope:
            await sync_to_async(user_of)(request)  # it may ask the database, which no scope may on the loop
        return await django_asgi.guarded(engine, request, found.template)
