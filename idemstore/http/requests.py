"""requests: put a key on requests, by an auth for one request or an adapter for a session.

::

    requests.post(url, json=order, auth=IdempotencyAuth(key))

    session.mount("https://", IdempotencyAdapter(max_retries=Retry(3, allowed_methods=None, status_forcelist=[503])))
    with sending(key):
        session.post(url, json=order)   # urllib3's retries send the same key
"""

from collections.abc import Mapping
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from idemstore.http.client import KeyHeader, current_key

__all__ = ["IdempotencyAdapter", "IdempotencyAuth"]

PLAIN: Final = KeyHeader()


class IdempotencyAuth(AuthBase):
    """Puts ``key`` on a request; ``inner`` is the auth that it takes the place of."""

    def __init__(self, key: str, header: KeyHeader = PLAIN, inner: AuthBase | None = None) -> None:
        self.key, self.header, self.inner = header.text(key) and key, header, inner

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        """The key, then the inner auth."""
        self.header.put(r.headers, r.method or "", self.key)
        return r if self.inner is None else self.inner(r)


class IdempotencyAdapter(HTTPAdapter):
    """An ``HTTPAdapter`` that puts the current key of ``sending`` on requests; the other arguments are its own."""

    def __init__(self, *args: Any, header: KeyHeader = PLAIN, **more: Any) -> None:  # noqa: ANN401 - HTTPAdapter's
        self.header = header
        super().__init__(*args, **more)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send."""
        self.header.put(request.headers, request.method or "", current_key())
        return super().send(request, stream, timeout, verify, cert, proxies)
