"""HTTP for the sync driver: keep-alive connections whose every step ends by the deadline of the call.

botocore's own time-outs are fixed for a client and count for each step of each attempt. This sends what botocore has
signed, and hands back what botocore parses; retries and their pauses stay botocore's. One system call sends head and
body. With a proxy in the environment botocore's own sender is used instead.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from queue import Empty
from typing import Final
from urllib.parse import urlsplit

from botocore import exceptions as aws  # type: ignore[import-untyped]
from botocore.awsrequest import AWSPreparedRequest, AWSResponse  # type: ignore[import-untyped]
from urllib3.util import wait_for_read

from idemstore.backends.dynamodb.wire import NotHTTP, Response, request_bytes
from idemstore.resolve import addresses
from idemstore.tickets import Ticket, Tickets

CHUNK: Final = 65536
FINAL_SHARE: Final = 0.5
"""What part of the time that is left an attempt may take, so that botocore has some to try again."""


class Body:
    """The body of a response, as botocore reads one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> Iterator[bytes]:
        """All of it."""
        yield self._data


class Sender:
    """A pool of connections to one endpoint. Safe for many threads; each sets its deadline before it calls botocore."""

    def __init__(self, endpoint: str, connections: int, tls: ssl.SSLContext | None) -> None:
        url = urlsplit(endpoint)
        self._endpoint = endpoint
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = tls
        self._idle: list[socket.socket] = []
        self._tickets = Tickets(connections)
        self._calls = threading.local()
        self._closed = False

    def begin(self, deadline: float) -> None:
        """This thread's call must end by then (``time.monotonic``)."""
        self._calls.deadline = deadline

    def left(self) -> float:
        """Seconds left of this thread's call."""
        deadline: float = self._calls.deadline
        return deadline - time.monotonic()

    def send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """The hook ``before-send``: one attempt."""
        limit = time.monotonic() + self.left() * FINAL_SHARE
        ticket = self._ticket()
        try:
            return self._attempt(request, limit)
        finally:
            self._tickets.give(ticket)

    def _ticket(self) -> Ticket:
        """The right to use one connection."""
        try:
            return self._tickets.take()
        except Empty:
            pass
        try:
            return self._tickets.wait(max(0.0, self.left()))
        except Empty:
            full = "every connection of the pool is in use"
            raise aws.ConnectTimeoutError(endpoint_url=self._endpoint, error=full) from None

    def _attempt(self, request: AWSPreparedRequest, limit: float) -> AWSResponse:
        """Send on an idle connection or a new one; only after a whole response it is kept."""
        connection = self._connection(limit)
        try:
            response = _converse(connection, request, limit)
        except TimeoutError as error:
            connection.close()
            raise aws.ReadTimeoutError(endpoint_url=self._endpoint, error=error) from error
        except (OSError, NotHTTP) as error:
            connection.close()
            raise aws.ConnectionClosedError(endpoint_url=self._endpoint, request=request, error=error) from error
        except BaseException:
            connection.close()
            raise
        if response.keeps and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()
        return AWSResponse(request.url, response.status, response.headers, Body(response.body))

    def _connection(self, limit: float) -> socket.socket:
        """An idle connection that the server has not closed, or a new one."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not wait_for_read(connection, timeout=0):
                return connection
            connection.close()
        try:
            return self._connect(limit)
        except TimeoutError as error:
            raise aws.ConnectTimeoutError(endpoint_url=self._endpoint, error=error) from error
        except ssl.SSLError as error:
            raise aws.SSLError(endpoint_url=self._endpoint, error=error) from error
        except OSError as error:
            raise aws.EndpointConnectionError(endpoint_url=self._endpoint, error=error) from error

    def _connect(self, limit: float) -> socket.socket:
        """Try each address of the endpoint, all within the limit."""
        failure: OSError = OSError("the host has no address")
        found = [
            entry
            for host in addresses(self._host, limit)
            for entry in socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM)
        ]
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(_span(limit))
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is None:
                    return connection
                return self._tls.wrap_socket(connection, server_hostname=self._host)
            except OSError as error:
                connection.close()
                failure = error
        raise failure

    def close(self) -> None:
        """Close the idle connections; those in use are closed at the end of their calls."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


def _span(limit: float) -> float:
    """Seconds until a limit, as a socket takes them."""
    left = limit - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time of this attempt is up")
    return left


def _converse(connection: socket.socket, request: AWSPreparedRequest, limit: float) -> Response:
    """Send a request and read its response, however slowly it comes, by the limit."""
    connection.settimeout(_span(limit))
    connection.sendall(request_bytes(request))
    response = Response()
    while True:
        connection.settimeout(_span(limit))
        data = connection.recv(CHUNK)
        if data:
            if response.feed(data):
                return response
        elif response.ends():
            return response
        else:
            raise ConnectionResetError("the server closed the connection")
