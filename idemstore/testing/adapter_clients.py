"""Plain clients of ASGI and WSGI applications in this process, and plain applications before a ``Desk``."""

import asyncio
import io
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from idemstore.http.asgi_types import AsgiApp, Message, Receive, Scope, Send
from idemstore.http.facts import Headers, make_headers
from idemstore.http.wsgi_types import Environ, WsgiApp
from idemstore.testing.adapter_desk import Desk, Got
from idemstore.testing.blocking import PATIENCE, LoopThread


def asgi_app(desk: Desk) -> AsgiApp:
    """A plain ASGI application: a desk, asked in a thread so that the loop stays free."""
    workers = ThreadPoolExecutor(40, "desk")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": f"{scope['type']}.seen"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        reply = await asyncio.get_running_loop().run_in_executor(workers, desk.answer, body)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.all_headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        for part in desk.parts(reply):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def wsgi_app(desk: Desk) -> WsgiApp:
    """A plain WSGI application: a desk."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 - as PEP 3333 has it
        reply = desk.answer(environ["wsgi.input"].read())
        start_response(f"{reply.status} Something", list(reply.all_headers))
        return desk.parts(reply)

    return app


class Visit:
    """One request to an ASGI application."""

    def __init__(self, body: bytes) -> None:
        self._messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self._gone = asyncio.Event()
        self.sent: list[Message] = []

    def leave(self) -> None:
        """Go away."""
        self._gone.set()

    async def receive(self) -> Message:
        """The request, then nothing until the client goes away."""
        if self._messages:
            return self._messages.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Note what is sent; a client that went away cannot be sent anything."""
        if self._gone.is_set():
            raise OSError("the client is gone")
        self.sent.append(message)

    def got(self) -> Got:
        """What has come so far."""
        start = next((one for one in self.sent if one["type"] == "http.response.start"), None)
        if start is None:
            return Got(500, (), b"", whole=False)
        bodies = [one for one in self.sent if one["type"] == "http.response.body"]
        whole = bool(bodies) and not bodies[-1].get("more_body", False)
        body = b"".join(one.get("body", b"") for one in bodies)
        return Got(start["status"], make_headers(start["headers"]), body, whole)


class AsgiServed:
    """A client of an ASGI application that runs on the loop of ``thread``."""

    def __init__(self, app: AsgiApp, thread: LoopThread) -> None:
        self._app, self._thread = app, thread

    def request(self, method: str, path: str, headers: Headers, body: bytes = b"") -> Got:
        """As ``Served.request``."""
        return self._thread.call(self._request(method, path, headers, body))

    async def _request(self, method: str, path: str, headers: Headers, body: bytes) -> Got:
        """One request, on the loop."""
        visit = Visit(body)
        try:
            await self._app(self.scope(method, path, headers, body), visit.receive, visit.send)
        except Exception:  # noqa: BLE001 - a server answers 500, or cuts the response off
            return visit.got()
        return visit.got()

    def leave(self, method: str, path: str, headers: Headers, body: bytes, reached: Callable[[], object]) -> None:
        """As ``Served.leave``: the client is gone, and the server cancels the request."""
        self._thread.call(self._leave(method, path, headers, body, reached))

    async def _leave(
        self, method: str, path: str, headers: Headers, body: bytes, reached: Callable[[], object]
    ) -> None:
        """One request, left."""
        visit = Visit(body)
        scope = self.scope(method, path, headers, body)
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(self._app(scope, visit.receive, visit.send))
        await asyncio.to_thread(reached)
        visit.leave()
        task.cancel()
        await asyncio.wait({task})
        started = {one for one in asyncio.all_tasks() - before if one.get_name() != "idemstore-keepalive"}
        if started:
            await asyncio.wait(started, timeout=PATIENCE)

    @staticmethod
    def scope(method: str, path: str, headers: Headers, body: bytes) -> Scope:
        """The scope of a request."""
        route, _, query = path.partition("?")
        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": route,
            "raw_path": route.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [*pairs, (b"host", b"test"), (b"content-length", b"%d" % len(body))],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }

    def close(self) -> None:
        """The loop is its owner's to stop."""


class WsgiServed:
    """A client of a WSGI application; requests run in the thread that sends them."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def request(self, method: str, path: str, headers: Headers, body: bytes = b"") -> Got:
        """As ``Served.request``."""
        started: list[tuple[str, list[tuple[str, str]]]] = []
        parts = list[bytes]()

        def start_response(
            status: str, pairs: list[tuple[str, str]], exc_info: object = None
        ) -> Callable[[bytes], None]:
            started[:] = [(status, pairs)]
            return parts.append

        whole, found = True, None
        try:
            found = self._app(self.environ(method, path, headers, body), start_response)
            parts.extend(found)
        except Exception:  # noqa: BLE001 - a server answers 500, or cuts the response off
            whole = False
        finally:
            _close(found)
        if not started or not (whole or parts):
            return Got(500, (), b"", whole=False)
        status, pairs = started[0]
        return Got(int(status[:3]), make_headers(pairs), b"".join(parts), whole)

    def leave(self, method: str, path: str, headers: Headers, body: bytes, reached: Callable[[], object]) -> None:
        """As ``Served.leave``: the server gives the response up without reading it."""

        def visit() -> None:
            _close(self._app(self.environ(method, path, headers, body), lambda *_: lambda _: None))

        thread = threading.Thread(target=visit, daemon=True)
        thread.start()
        reached()
        thread.join(PATIENCE)

    @staticmethod
    def environ(method: str, path: str, headers: Headers, body: bytes) -> Environ:
        """The environ of a request; a header that comes twice is joined, as servers do."""
        route, _, query = path.partition("?")
        environ: Environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": route,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": "test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in headers:
            variable = name.upper().replace("-", "_")
            variable = variable if variable == "CONTENT_TYPE" else f"HTTP_{variable}"
            environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
        return environ

    def close(self) -> None:
        """Nothing to stop."""


def _close(found: Iterable[bytes] | None) -> None:
    """As servers do at the end."""
    close = getattr(found, "close", None)
    if close is not None:
        close()
