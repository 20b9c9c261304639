"""httpx: put a key on requests, by an auth for one request or a transport for a client; sync and async.

::

    client.post(url, json=order, auth=IdempotencyAuth(key))

    client = httpx.Client(transport=IdempotencyTransport(httpx.HTTPTransport(retries=2)))
    with sending(key):              # the retry loop goes inside
        client.post(url, json=order)
"""

from collections.abc import Generator
from typing import Final

import httpx

from idemstore.http.client import KeyHeader, current_key

__all__ = ["AsyncIdempotencyTransport", "IdempotencyAuth", "IdempotencyTransport"]

PLAIN: Final = KeyHeader()
EXTENSION: Final = "idempotency_key"
"""``client.post(url, extensions={"idempotency_key": key})`` does it, too."""


class IdempotencyAuth(httpx.Auth):
    """Puts ``key`` on a request; ``inner`` is the auth that it takes the place of."""

    def __init__(self, key: str, header: KeyHeader = PLAIN, inner: httpx.Auth | None = None) -> None:
        self.key, self.header, self.inner = header.text(key) and key, header, inner or httpx.Auth()
        self.requires_request_body = self.inner.requires_request_body
        self.requires_response_body = self.inner.requires_response_body

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The key, then the inner auth."""
        self.header.put(request.headers, request.method, self.key)
        yield from self.inner.auth_flow(request)


def put(request: httpx.Request, header: KeyHeader) -> httpx.Request:
    """The key of the request's extension, or of ``sending``."""
    found = request.extensions.get(EXTENSION)
    header.put(request.headers, request.method, found if isinstance(found, str) else current_key())
    return request


class IdempotencyTransport(httpx.BaseTransport):
    """Puts the current key on what goes through ``inner``."""

    def __init__(self, inner: httpx.BaseTransport | None = None, header: KeyHeader = PLAIN) -> None:
        self.inner, self.header = inner or httpx.HTTPTransport(), header

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send."""
        return self.inner.handle_request(put(request, self.header))

    def close(self) -> None:
        """Close the inner one."""
        self.inner.close()


class AsyncIdempotencyTransport(httpx.AsyncBaseTransport):
    """Puts the current key on what goes through ``inner``."""

    def __init__(self, inner: httpx.AsyncBaseTransport | None = None, header: KeyHeader = PLAIN) -> None:
        self.inner, self.header = inner or httpx.AsyncHTTPTransport(), header

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send."""
        return await self.inner.handle_async_request(put(request, self.header))

    async def aclose(self) -> None:
        """Close the inner one."""
        await self.inner.aclose()
