"""FastAPI: the middleware, a dependency with options per route, and what both mean in the OpenAPI document.

::

    idempotency = Idempotency(store, HttpPolicy(scope=...))
    app = FastAPI()
    idempotency.install(app)

    @app.post("/orders")                                        # guarded as the policy says
    @app.post("/pay", dependencies=[idempotency.on(required=True)])     # with a policy of its own
    @app.post("/search", dependencies=[idempotency.off()])              # left alone

    async def pay(operation: Annotated[AsyncOperation | None, idempotency.on(lease=60)]): ...

The dependency does not guard by itself, it says how: a route, a router or the application may have it, the innermost
counts. It gives the running operation (``fence``, ``attempt``, ``checkpoint``), None where there was no key.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, Unpack, cast

from fastapi import Depends, FastAPI, Header, Request
from fastapi import routing as fastapi_routing
from fastapi.dependencies.models import Dependant
from starlette.routing import BaseRoute

from idemstore.async_guard import AsyncOperation
from idemstore.async_store import AsyncStore
from idemstore.errors import ConfigurationError
from idemstore.http import starlette
from idemstore.http.core import OPERATION
from idemstore.http.policy import HttpPolicy
from idemstore.http.views import POLICY, Changes, Mark

__all__ = ["Idempotency", "IdempotencyMiddleware"]

PROBLEM: Final[Mapping[str, object]] = {
    "type": "object",
    "title": "IdempotencyProblem",
    "description": "RFC 9457; clients may rely on `type`.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
Parts = MutableMapping[str, Any]
"""A part of an OpenAPI document."""


class Guarding:
    """The dependency: its signature names the header, so that OpenAPI does."""

    def __init__(self, mark: Mark, header: str) -> None:
        self.mark = mark
        described = Annotated[str | None, Header(alias=header, description=DESCRIPTION)]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter("request", kind, annotation=Request)]
        if mark.on:
            parameters.append(inspect.Parameter("key", kind, default=None, annotation=described))
        self.__signature__ = inspect.Signature(parameters)

    async def __call__(self, request: Request, key: str | None = None) -> AsyncOperation | None:
        """The running operation."""
        if POLICY not in request.scope:
            raise ConfigurationError("the route depends on Idempotency, whose middleware is not there: call install()")
        found = request.scope.get(OPERATION)
        return found if isinstance(found, AsyncOperation) else None


DESCRIPTION: Final = (
    "Makes the request safe to retry: send the same key again, and the first response is replayed. "
    "Make one key per operation, not per attempt."
)


class IdempotencyMiddleware(starlette.IdempotencyMiddleware):
    """As Starlette's; it knows dependencies and included routers."""

    def leaves(self, routes: Sequence[BaseRoute]) -> Sequence[BaseRoute]:
        """Routes as they are in effect."""
        return cast("Sequence[BaseRoute]", list(effective(routes)))

    def mark(self, route: BaseRoute, method: str) -> Mark | None:
        """A dependency's, or a decorator's."""
        return dependency_mark(route) or super().mark(route, method)


def effective(routes: Sequence[BaseRoute]) -> Iterator[Any]:
    """Routes with what the routers that include them add; older FastAPI copies routes at inclusion."""
    contexts = getattr(fastapi_routing, "iter_route_contexts", None)
    yield from routes if contexts is None else contexts(routes)


def dependency_mark(route: object) -> Mark | None:
    """The mark of the innermost dependency that has one: those of routers come first, the function's own last."""
    dependant = getattr(route, "dependant", None)
    found = None
    for one in _dependencies(dependant) if isinstance(dependant, Dependant) else ():
        if isinstance(one.call, Guarding):
            found = one.call.mark
    return found


def _dependencies(dependant: Dependant) -> Iterator[Dependant]:
    """All of them, in order."""
    for one in dependant.dependencies:
        yield one
        yield from _dependencies(one)


class Idempotency:
    """A store and a policy, for one or more applications. ``marked_only``: guard only routes that have ``on()``."""

    def __init__(self, store: AsyncStore, policy: HttpPolicy, *, marked_only: bool = False) -> None:
        self.store, self.policy, self.marked_only = store, policy, marked_only

    def install(self, app: FastAPI) -> None:
        """Add the middleware, and describe guarded routes in the OpenAPI document."""
        app.add_middleware(IdempotencyMiddleware, store=self.store, policy=self.policy, marked_only=self.marked_only)
        plain = app.openapi
        app.openapi = lambda: self.described(app, plain)  # type: ignore[method-assign]

    def on(self, **changes: Unpack[Changes]) -> Any:  # noqa: ANN401 - as ``Depends`` itself
        """The dependency of a route that is guarded, with these changes to the policy."""
        mark = Mark(changes=changes)
        names = changes.get("headers", self.policy.headers)
        return Depends(Guarding(mark, _title(names[0])))

    def off(self) -> Any:  # noqa: ANN401
        """The dependency of a route that is left alone."""
        return Depends(Guarding(Mark(on=False), ""))

    def described(self, app: FastAPI, plain: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The OpenAPI document, with the header and the problems of each guarded route."""
        if app.openapi_schema is not None:
            return plain()
        document = plain()
        for route in effective(app.routes):
            for method in sorted(getattr(route, "methods", None) or ()):
                part = document.get("paths", {}).get(getattr(route, "path_format", None), {}).get(method.lower())
                policy = self._policy_of(route, method)
                if part is not None and policy is not None:
                    document.setdefault("components", {}).setdefault("schemas", {})["IdempotencyProblem"] = PROBLEM
                    Described(part, policy).write()
                elif part is not None:
                    _undescribed(part)
        return document

    def _policy_of(self, route: object, method: str) -> HttpPolicy | None:
        """What guards a route."""
        mark = dependency_mark(route)
        if mark is not None:
            found = mark.policy(self.policy, getattr(route, "methods", None) or ())
        else:
            found = None if self.marked_only else self.policy
        return found if found is not None and method in found.methods else None


class Described(NamedTuple):
    """One operation of an OpenAPI document, and its policy."""

    part: Parts
    policy: HttpPolicy

    def write(self) -> None:
        """Header and responses."""
        policy = self.policy
        self._header()
        self._response(400, "The idempotency key is missing or malformed" if policy.required else "Malformed key")
        self._response(policy.in_flight_status, "A request with this key is in progress: try again later")
        if policy.fingerprint is not None:
            self._response(policy.mismatch_status, "The key was first used with another payload")

    def _header(self) -> None:
        """The parameter."""
        name, parameters = self.policy.headers[0], self.part.setdefault("parameters", [])
        found = [one for one in parameters if one.get("in") == "header" and one.get("name", "").lower() == name]
        if not found:
            schema = {"type": "string", "title": _title(name)}
            found = [{"name": _title(name), "in": "header", "description": DESCRIPTION, "schema": schema}]
            parameters.extend(found)
        found[0]["required"] = self.policy.required

    def _response(self, status: int, meaning: str) -> None:
        """A problem document beside what the application says of this status."""
        response = self.part.setdefault("responses", {}).setdefault(str(status), {})
        said = response.get("description")
        response["description"] = meaning if said is None else f"{said}; or: {meaning}"
        schema = {"$ref": "#/components/schemas/IdempotencyProblem"}
        response.setdefault("content", {})["application/problem+json"] = {"schema": schema}


def _undescribed(part: Parts) -> None:
    """A route that opts out of what its router opts in: the router's dependency has named the header."""
    named = part.get("parameters", [])
    left = [one for one in named if one.get("description") != DESCRIPTION]
    if named and not left:
        del part["parameters"]
    elif named:
        part["parameters"] = left


def _title(name: str) -> str:
    """As headers are written."""
    return "-".join(part.capitalize() for part in name.split("-"))
