"""Django's sync mode on the WSGI engine: the request becomes an environ, what it answers a response of Django.

The response that the view made goes on as the object it is, so that middlewares further out find it as they would
without this one.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase, StreamingHttpResponse

from idemstore.http import wsgi
from idemstore.http.core import OPERATION
from idemstore.http.django_parts import OPERATION_KEY, REQUEST, VISIT, hand_on, header_pairs, made, pending, stream_of
from idemstore.http.views import POLICY, TEMPLATE
from idemstore.http.wsgi_run import Running
from idemstore.http.wsgi_types import Environ, WsgiApp, status_line


class Visit:
    """One request."""

    __slots__ = ("own", "request", "response", "started", "status")

    def __init__(self, request: HttpRequest) -> None:
        self.request = request
        self.response: HttpResponseBase | None = None
        self.own: list[tuple[str, str]] = []
        """The headers of the view's response;"""
        self.started: list[tuple[str, str]] | None = None
        """and those that the engine begins its answer with: the same list, or its own."""
        self.status = 0

    def start_response(
        self, status: str, pairs: list[tuple[str, str]], exc_info: object = None
    ) -> Callable[[bytes], object]:
        """What the engine answers with."""
        self.status, self.started = int(status[:3]), pairs
        return _no_write


def _no_write(data: bytes) -> None:
    """Django never asks for it."""


def inner(get_response: Callable[[HttpRequest], Any]) -> WsgiApp:
    """What the engine takes for the application."""

    def app(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        visit: Visit = environ[VISIT]
        hand_on(visit.request, environ["wsgi.input"])
        setattr(visit.request, OPERATION_KEY, environ.get(OPERATION))
        response: HttpResponseBase = get_response(visit.request)
        render = pending(response)
        if render is not None:
            response = render()
        visit.response, visit.own = response, header_pairs(response)
        start_response(status_line(response.status_code), visit.own)
        return iter(response)

    return app


def environ_of(request: HttpRequest, template: str, visit: Visit) -> Environ:
    """The environ of a request, whichever server it came from."""
    path = request.path.encode("utf-8", "surrogatepass").decode("latin-1")
    return {
        **request.META,
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "wsgi.input": stream_of(request),
        "wsgi.input_terminated": True,
        REQUEST: request,
        TEMPLATE: template,
        VISIT: visit,
    }


def guarded(engine: wsgi.IdempotencyMiddleware, request: HttpRequest, template: str) -> HttpResponseBase:
    """Let the engine answer a request."""
    visit = Visit(request)
    environ = environ_of(request, template, visit)
    environ[POLICY] = engine.policy
    result = engine(environ, visit.start_response)
    if not isinstance(result, Running):
        if visit.response is not None:
            return visit.response  # it ran without a claim
        return made(visit.status, visit.started or (), b"".join(result))
    first = next(result, b"")
    response = visit.response
    if response is not None and visit.started is visit.own:
        if isinstance(response, StreamingHttpResponse):
            response.streaming_content = Stream(first, result)
            closers = response._resource_closers  # type: ignore[attr-defined]
            closers.insert(0, closers.pop())  # ours reads what is left: before the view's own iterator is closed
            return response
        _spent(result)
        return response
    if response is not None:
        response.close()
    return made(visit.status, visit.started or (), first + _spent(result))


def _spent(result: Running) -> bytes:
    """The rest of it."""
    try:
        return b"".join(result)
    finally:
        result.close()


class Stream:
    """A streamed response on its way through the engine."""

    def __init__(self, first: bytes, rest: Running) -> None:
        self._first, self._rest = first, rest

    def __iter__(self) -> Iterator[bytes]:
        """Parts."""
        yield self._first
        yield from self._rest

    def close(self) -> None:
        """The server is done with it."""
        self._rest.close()
