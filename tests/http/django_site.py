"""A Django project in one module: views of every kind; what ran is noted."""

import asyncio
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from idemstore.http.choices import keep_everything
from idemstore.http.policy import HttpPolicy

POLICY = HttpPolicy(scope=lambda request: request.header("x-user"))
URL = {"URL": "memory://django-site", "POLICY": POLICY}

if not settings.configured:
    settings.configure(
        SECRET_KEY="s",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        MIDDLEWARE=["idemstore.http.django.IdempotencyMiddleware"],
        INSTALLED_APPS=["rest_framework"],
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        DATABASES={},
        LOGGING_CONFIG=None,
        IDEMSTORE=URL,
    )
    django.setup()

from rest_framework.decorators import action, api_view, renderer_classes  # noqa: E402 - after setup
from rest_framework.renderers import JSONRenderer  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402
from rest_framework.viewsets import ViewSet  # noqa: E402

from idemstore.http.django import idempotent, not_idempotent, operation_of  # noqa: E402

runs: list[str] = []


def ran(name: str) -> str:
    """Note it."""
    runs.append(name)
    return f"{name} {len(runs)}"


def order(request: HttpRequest) -> JsonResponse:
    """A plain view."""
    answer = JsonResponse(
        {
            "order": ran("order"),
            "bytes": len(request.body),
            "attempt": getattr(operation_of(request), "attempt", None),
        },
        status=201,
    )
    answer.set_cookie("session", "secret")
    answer["X-Order"] = "7"
    return answer


async def aorder(request: HttpRequest) -> HttpResponse:
    """An async view."""
    await asyncio.sleep(0)
    return HttpResponse(ran("aorder") + f" {request.POST.get('a')}", status=201)


@idempotent(required=True, fingerprint=None)
def pay(request: HttpRequest) -> HttpResponse:
    """With a policy of its own."""
    return HttpResponse(ran("pay"))


@not_idempotent
@csrf_exempt
def search(request: HttpRequest) -> HttpResponse:
    """Opts out."""
    return HttpResponse(ran("search"))


def template(request: HttpRequest) -> TemplateResponse:
    """Rendered late."""
    return TemplateResponse(request, engines["django"].from_string("<b>{{ x }}</b>"), {"x": ran("template")})


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Streamed from an iterator of the mode that the server has."""

    async def asynchronous() -> Any:
        for part in (ran("stream"), "-b", "-c"):
            yield part

    use_async = request.headers.get("x-mode") == "async"
    return StreamingHttpResponse(asynchronous() if use_async else iter((ran("stream"), "-b", "-c")))


def long(request: HttpRequest) -> StreamingHttpResponse:
    """A stream of many parts, of the server's mode."""

    async def asynchronous() -> Any:
        ran("long")
        for number in range(200):
            yield b"%03d" % number

    def synchronous() -> Any:
        ran("long")
        for number in range(200):
            yield b"%03d" % number

    return StreamingHttpResponse(asynchronous() if request.headers.get("x-mode") == "async" else synchronous())


def sync_only(get_response: Any) -> Any:
    """A middleware of the old kind."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    return middleware


def lazy(get_response: Any) -> Any:
    """A middleware that answers by itself, with what is not rendered yet."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return template(request)

    return middleware


def broken(request: HttpRequest) -> HttpResponse:
    """Raises."""
    ran("broken")
    raise ValueError("broken")


class Thing(View):
    """Options by method."""

    @method_decorator(idempotent(fate=keep_everything))
    def put(self, request: HttpRequest, thing: str) -> HttpResponse:
        """Fails, and that is kept."""
        return HttpResponse(ran("put"), status=500)

    @not_idempotent
    def post(self, request: HttpRequest, thing: str) -> HttpResponse:
        """Runs."""
        return HttpResponse(ran("post"))


class Lazy(JSONRenderer):
    """Notes when it renders."""

    def render(self, data: Any, *args: Any, **more: Any) -> bytes:
        """Late."""
        ran("rendered")
        return super().render(data, *args, **more)


class Pets(APIView):
    """A view of Django REST framework."""

    renderer_classes = (Lazy,)

    def post(self, request: Request) -> Response:
        """Reads the body its own way."""
        return Response({"pet": ran("pet"), "got": request.data}, status=201)


@idempotent(required=True)
@api_view(["POST"])
@renderer_classes([Lazy])
def fed(request: Request) -> Response:
    """A function view of it."""
    return Response({"fed": ran("fed"), "got": request.data})


class Zoo(ViewSet):
    """Actions."""

    def create(self, request: Request) -> Response:
        """Guarded."""
        return Response(ran("create"))

    @not_idempotent
    @action(detail=False, methods=["post"])
    def look(self, request: Request) -> Response:
        """Opts out."""
        return Response(ran("look"))


urlpatterns = [
    path("orders", order),
    path("aorders", aorder),
    path("pay", pay),
    path("search", search),
    path("template", template),
    path("stream", stream),
    path("long", long),
    path("broken", broken),
    path("things/<thing>", Thing.as_view()),
    path("pets", Pets.as_view()),
    path("fed", fed),
    path("zoo", Zoo.as_view({"post": "create"})),
    path("zoo/look", Zoo.as_view({"post": "look"})),
]
