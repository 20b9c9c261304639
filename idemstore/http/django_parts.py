"""What both modes of Django's middleware share: its request as facts, a response as a response of Django."""

from collections.abc import Iterable
from io import BytesIO
from typing import Any, BinaryIO, Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

REQUEST: Final = "django.request"
VISIT: Final = "idemstore.visit"
OPERATION_KEY: Final = "idemstore_operation"


def user_of(request: HttpRequest) -> str | None:
    """The authenticated user."""
    user = getattr(request, "user", None)
    return f"user-{user.pk}" if user is not None and user.is_authenticated else None


def stream_of(request: HttpRequest) -> BinaryIO:
    """What the body can be read from, without the bounds that ``request.body`` has; see ``hand_on``."""
    body = getattr(request, "_body", None)
    if isinstance(body, bytes):
        return BytesIO(body)
    stream: BinaryIO = request._stream
    return stream


def hand_on(request: HttpRequest, stream: BinaryIO) -> None:
    """Let the view find the body as if nobody had read of it; Django REST framework does it in the same way."""
    if not hasattr(request, "_body"):
        request._stream = stream


def header_pairs(response: HttpResponseBase) -> list[tuple[str, str]]:
    """The headers, cookies among them; the length where it is known."""
    pairs = [(str(name), str(value)) for name, value in response.items()]
    pairs += [("Set-Cookie", cookie.output(header="").strip()) for cookie in response.cookies.values()]
    if isinstance(response, HttpResponse) and not response.has_header("Content-Length"):
        pairs.append(("Content-Length", str(len(response.content))))
    return pairs


def pending(response: HttpResponseBase) -> Any:  # noqa: ANN401 - whatever template responses are made with
    """What renders a response that is not rendered yet, else None."""
    return None if getattr(response, "is_rendered", True) else getattr(response, "render", None)


def made(status: int, pairs: Iterable[tuple[str, str]], body: bytes) -> HttpResponse:
    """A response of Django: a replay, or a problem document."""
    response = HttpResponse(body, status=status)
    del response["Content-Type"]
    for name, value in pairs:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response.headers[name] = value if name not in response.headers else f"{response.headers[name]}, {value}"
    return response
