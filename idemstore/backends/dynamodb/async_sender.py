"""HTTP for the async driver: keep-alive connections, each with one request at a time, as small as they can be.

As ``Sender`` does for the sync driver, it sends what botocore has signed and hands back what botocore parses; retries
and their pauses stay botocore's. The call's own deadline (``asyncio.timeout`` in the driver) bounds everything here.
With a proxy in the environment aiobotocore's own session is used instead.
"""

import asyncio
import ssl
from typing import cast
from urllib.parse import urlsplit

from aiobotocore.awsrequest import AioAWSResponse  # type: ignore[import-untyped]
from botocore import exceptions as aws  # type: ignore[import-untyped]
from botocore.awsrequest import AWSPreparedRequest  # type: ignore[import-untyped]

from idemstore.backends.dynamodb.wire import NotHTTP, Response, request_bytes


class Body:
    """The body of a response, as aiobotocore reads one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        """All of it."""
        return self._data


class Connection(asyncio.Protocol):
    """One connection. What comes unasked closes it, and so does a call that ends before its response."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._response = Response()
        self._waiter: asyncio.Future[Response] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport, self.open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        """A piece of the response."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.close()
            return
        try:
            if self._response.feed(data):
                waiter.set_result(self._response)
        except NotHTTP as error:
            waiter.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end: of a response without a length, or before its time."""
        self.open = False
        if self._waiter is None or self._waiter.done():
            return
        if self._response.ends():
            self._waiter.set_result(self._response)
        else:
            self._waiter.set_exception(exc or ConnectionResetError("the server closed the connection"))

    async def ask(self, data: bytes) -> Response:
        """Send a request and wait for its whole response."""
        assert self._transport is not None, "connected before it is asked"
        self._response, self._waiter = Response(), asyncio.get_running_loop().create_future()
        self._transport.write(data)
        keeps = False
        try:
            response = await self._waiter
            keeps = response.keeps
            return response
        finally:
            self._waiter = None
            if not keeps:
                self.close()

    def close(self) -> None:
        """Close it, without waiting for anything."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()


class AsyncSender:
    """A pool of connections to one endpoint, on one event loop."""

    def __init__(self, endpoint: str, connections: int, attempt: float, tls: ssl.SSLContext | None) -> None:
        """``attempt``: seconds that one attempt may take, so that botocore has some to try again."""
        url = urlsplit(endpoint)
        self._endpoint = endpoint
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._attempt = attempt
        self._tls = tls
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(connections)
        self._closed = False

    async def send(self, request: AWSPreparedRequest, **_: object) -> AioAWSResponse:
        """The hook ``before-send``: one attempt."""
        async with self._places:
            try:
                async with asyncio.timeout(self._attempt):
                    connection = self._reusable() or await self._connect()
                    response = await self._ask(connection, request)
            except TimeoutError as error:
                raise aws.ReadTimeoutError(endpoint_url=self._endpoint, error=error) from error
            if self._closed:
                connection.close()
            elif connection.open:
                self._idle.append(connection)
        return AioAWSResponse(request.url, response.status, response.headers, Body(response.body))

    async def _ask(self, connection: Connection, request: AWSPreparedRequest) -> Response:
        """One request and its response."""
        try:
            return await connection.ask(request_bytes(request))
        except (OSError, NotHTTP) as error:
            raise aws.ConnectionClosedError(endpoint_url=self._endpoint, request=request, error=error) from error

    def _reusable(self) -> Connection | None:
        """An idle connection that the server has not closed."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self) -> Connection:
        """A new one."""
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, self._host, self._port, ssl=self._tls
            )
        except ssl.SSLError as error:
            raise aws.SSLError(endpoint_url=self._endpoint, error=error) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise aws.EndpointConnectionError(endpoint_url=self._endpoint, error=error) from error
        return connection

    def close(self) -> None:
        """Close the idle connections; those in use are closed at the end of their calls."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
