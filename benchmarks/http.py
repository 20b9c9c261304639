"""What the HTTP middlewares cost: ``python -m benchmarks.http [--rounds N]``. CPU beside the application's own.

The application answers a constant; the store is in memory. Middleware and bare application are measured in turns, many
times and briefly, since others may be at work on the machine; the median of their differences counts, and the lowest is
told beside it. ``copies`` is what a response of 1 MiB allocates beyond the stored record.
"""

import asyncio
import gc
import os
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import idemstore
from benchmarks.common import Report, parser
from idemstore.http import asgi, wsgi
from idemstore.http.asgi_types import Receive, Scope, Send
from idemstore.http.policy import HttpPolicy
from idemstore.http.wsgi_types import Environ, StartResponse

CALLS = 1000
BODY = b'{"id": 7, "state": "created"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
MIB = 2**20
POLICY = HttpPolicy(scope=lambda request: request.header("x-user"))
COMMON = [
    (b"host", b"example.org"),
    (b"user-agent", b"client/1.0"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"content-type", b"application/json"),
    (b"content-length", b"15"),
    (b"x-user", b"ann"),
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A constant."""
    await receive()
    await send({"type": "http.response.start", "status": 201, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def wsgi_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A constant."""
    environ["wsgi.input"].read(15)
    start_response("201 Created", [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))])
    return [BODY]


def scopes(method: str, keyed: bool) -> list[dict[str, Any]]:
    """Requests with keys of their own."""
    return [
        {
            "type": "http",
            "method": method,
            "path": "/orders",
            "query_string": b"",
            "headers": [*COMMON, (b"idempotency-key", os.urandom(16).hex().encode())] if keyed else COMMON,
        }
        for _ in range(CALLS)
    ]


async def receive() -> dict[str, Any]:
    """A body."""
    return {"type": "http.request", "body": b'{"amount": 1000}', "more_body": False}


async def send(message: dict[str, Any]) -> None:
    """Nowhere."""


async def per_call(served: Callable[[Any, Any, Any], Awaitable[None]], requests: list[dict[str, Any]]) -> float:
    """CPU microseconds of one request."""
    gc.collect()
    start = time.process_time()
    for scope in requests:
        await served(scope, receive, send)
    return (time.process_time() - start) / len(requests) * 1e6


def tell(report: Report, what: str, costs: list[float]) -> None:
    """One line of the report."""
    middle, least = statistics.median(costs), min(costs)
    report.note(f"{what}: {middle:.1f} us of CPU (median of {len(costs)}; the lowest {least:.1f})")


async def by_hand(report: Report, rounds: int) -> None:
    """The yardstick: claim and complete, without HTTP."""
    costs = []
    for _ in range(rounds):
        async with idemstore.open_async("memory://") as store:
            keys = [os.urandom(16).hex() for _ in range(CALLS)]
            gc.collect()
            start = time.process_time()
            for key in keys:
                claim = await store.claim(("http", "ann", key), fingerprint=bytes(32))
                assert isinstance(claim, idemstore.Claimed)
                await store.complete(("http", "ann", key), claim.token, bytes(100))
            costs.append((time.process_time() - start) / CALLS * 1e6)
    tell(report, "claim and complete by hand", costs)


async def asgi_costs(report: Report, rounds: int) -> None:
    """Each kind of request, with and without the middleware."""
    for label, method, keyed, again in (
        ("first request", "POST", True, False),
        ("replay", "POST", True, True),
        ("no key", "POST", False, False),
        ("other method", "GET", True, False),
    ):
        extra = []
        for _ in range(rounds):
            store = idemstore.open_async("memory://")
            wrapped = asgi.IdempotencyMiddleware(app, store, POLICY)
            requests = scopes(method, keyed)
            if again:
                await per_call(wrapped, requests)
            extra.append(await per_call(wrapped, requests) - await per_call(app, requests))
            await store.close()
        tell(report, f"ASGI {label}", extra)


def wsgi_costs(report: Report, rounds: int) -> None:
    """The same for WSGI."""
    import io

    def once(served: Callable[[Any, Any], Iterable[bytes]], environs: list[dict[str, Any]]) -> float:
        for environ in environs:
            environ["wsgi.input"] = io.BytesIO(b'{"amount": 100}')
        gc.collect()
        start = time.process_time()
        for environ in environs:
            found = served(environ, lambda *_: lambda _: None)
            for _ in found:
                pass
            if hasattr(found, "close"):
                found.close()
        return (time.process_time() - start) / len(environs) * 1e6

    for label, keyed in (("first request", True), ("no key", False)):
        extra = []
        for _ in range(rounds):
            with idemstore.open("memory://") as store:
                wrapped = wsgi.IdempotencyMiddleware(wsgi_app, store, POLICY)
                environs: list[dict[str, Any]] = []
                for scope in scopes("POST", keyed):
                    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/orders", "CONTENT_LENGTH": "15"}
                    pairs = {f"HTTP_{n.decode().upper().replace('-', '_')}": v.decode() for n, v in scope["headers"]}
                    environs.append({**environ, **pairs, "wsgi.input": None})
                extra.append(once(wrapped, environs) - once(wsgi_app, environs))
        tell(report, f"WSGI {label}", extra)


async def copies(report: Report) -> None:
    """What a large response allocates at its peak."""
    whole = bytes(MIB)

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": whole})

    async with idemstore.open_async("memory://") as store:
        wrapped = asgi.IdempotencyMiddleware(large, store, POLICY)
        (first, *_) = scopes("POST", True)
        tracemalloc.start()
        await wrapped(first, receive, send)
        stored, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await wrapped(first, receive, send)
        replay = tracemalloc.get_traced_memory()[1] - stored
        tracemalloc.stop()
    report.note(f"1 MiB response: {stored / MIB:.2f} MiB stored, {(peak - stored) / MIB:.2f} MiB beyond it at the peak")
    report.note(f"its replay: {replay / MIB:.2f} MiB at the peak")


def main() -> None:
    """Measure."""
    known = parser(__doc__)
    known.add_argument("--rounds", type=int, default=31)
    options = known.parse_args()
    report = Report("http", "The HTTP middlewares: CPU beside the application's own")
    asyncio.run(by_hand(report, options.rounds))
    asyncio.run(asgi_costs(report, options.rounds))
    wsgi_costs(report, options.rounds)
    asyncio.run(copies(report))
    report.write(options.json)


if __name__ == "__main__":
    main()
