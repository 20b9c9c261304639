"""Connections of redis-py, sync, each with a deadline, and a pool of them for one server.

redis-py bounds every single read and write, so a server that answers byte by byte is waited for without end. Here a
connection has one deadline, set for each call, which every read, write, connect and handshake on it respects. The pools
of redis-py raise at once where they are full, or wait as long as was fixed when they were made; this one waits
until the deadline of the call.
"""

import math
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from queue import Empty
from typing import Final, Protocol, cast

import redis

from idemstore.backends.redis.connect import TLS, UNIX, arguments, kind_of
from idemstore.backends.redis.dialect import Reply
from idemstore.backends.redis.errors import CLIENT_ERRORS, fault
from idemstore.backends.redis.faults import Failed, exhausted, final
from idemstore.backends.redis.options import Address, Target
from idemstore.resolve import addresses
from idemstore.tickets import Ticket, Tickets

PRECISION: Final = 0.01
"""Seconds."""


class Line(Protocol):
    """What we use of a connection of redis-py, and what ours adds."""

    deadline: float
    """Until when everything on it must be done (monotonic clock)."""
    since: float
    """When the current call got it."""
    generation: int
    """Of its pool, when it was opened."""
    wire: "TimedSocket"
    """Its socket."""
    ticket: "Ticket | None"
    """What it is in use by."""

    def connect(self) -> None:
        """Connect and authenticate."""

    def disconnect(self) -> None:
        """Close the socket."""

    def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """Write."""

    def read_response(self) -> Reply:
        """Read one reply; raise it where it is an error."""


class TimedSocket:
    """A socket that gives each call what is left of the time, to a hundredth of a second: setting it is a system call,
    which calls with the usual time-out on a server that answers at once need not make.
    """

    __slots__ = ("_left", "_set", "_socket")

    def __init__(self, plain: socket.socket, left: Callable[[], float]) -> None:
        self._socket, self._left, self._set = plain, left, -1.0

    def _limit(self) -> socket.socket:
        """The socket, limited to what is left."""
        left = self._left()
        if not -PRECISION < left - self._set < PRECISION:
            self._socket.settimeout(left)
            self._set = left
        return self._socket

    def recv(self, size: int) -> bytes:
        """Read what is there."""
        return self._limit().recv(size)

    def recv_into(self, buffer: bytearray, *sizes: int) -> int:
        """Read what is there (the hiredis parser)."""
        return self._limit().recv_into(buffer, *sizes)

    def sendall(self, data: bytes) -> None:
        """Write everything."""
        self._limit().sendall(data)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def pending(self) -> int:
        """Bytes that TLS has decrypted and nobody has read."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    def __getattr__(self, name: str) -> object:
        """Whatever else redis-py does with a socket."""
        return getattr(self._socket, name)


class _Connecting(Protocol):
    """What a connection class of redis-py lets its subclasses replace."""

    def _connect(self) -> socket.socket: ...


class _Timed:
    """Mixed in front of a connection class of redis-py: the deadline instead of two fixed time-outs."""

    deadline: float = math.inf
    since: float = 0.0
    generation: int = 0
    ticket: "Ticket | None" = None

    def left(self) -> float:
        """Seconds left, or ``TimeoutError``."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    @property
    def socket_timeout(self) -> float:
        """What redis-py gives a new socket."""
        return self.left()

    @socket_timeout.setter
    def socket_timeout(self, value: float | None) -> None:
        """The fixed time-out of redis-py is not used."""

    @property
    def socket_connect_timeout(self) -> float:
        """What redis-py gives a new socket to connect."""
        return self.left()

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        """As ``socket_timeout``."""

    def _connect(self) -> TimedSocket:
        """Connect, through TLS where asked for."""
        self.wire = TimedSocket(cast("_Connecting", super())._connect(), self.left)
        return self.wire


class _Resolved(redis.Connection):
    """Looks the name of its host up within the deadline. redis-py's own look-up is given an address: that is quick."""

    deadline: float

    def _connect(self) -> socket.socket:
        """Try each address. TLS, further out, finds the name in its place again."""
        host, failure = self.host, OSError("the host has no address")
        for address in addresses(host, self.deadline):
            self.host = address
            try:
                return cast("_Connecting", super())._connect()
            except OSError as error:
                failure = error
            finally:
                self.host = host
        raise failure


class _TcpLine(_Timed, _Resolved):  # type: ignore[misc]  # pyright: ignore[reportIncompatibleMethodOverride]
    """Over TCP."""


class _TlsLine(_Timed, redis.SSLConnection, _Resolved):  # type: ignore[misc]
    """Over TLS."""


class _UnixLine(_Timed, redis.UnixDomainSocketConnection):  # type: ignore[misc]
    """Over a Unix socket."""


_LINES: Final = {TLS: _TlsLine, UNIX: _UnixLine}


def open_line(target: Target, address: Address, deadline: float, sentinel: bool = False) -> Line:
    """A connection, connected and authenticated, or ``Failed``."""
    make = cast("Callable[..., Line]", _LINES.get(kind_of(target, address), _TcpLine))
    line = make(**arguments(target, address, sentinel))
    line.deadline = deadline
    try:
        line.connect()
    except CLIENT_ERRORS as error:
        line.disconnect()
        raise Failed(fault(error, address)) from error
    except BaseException:
        line.disconnect()
        raise
    return line


class Pool:
    """Connections to one server: those in use are bounded in number, idle ones wait, last in, first out.

    A connection on which anything went wrong never comes back: a reply that is still on its way must not become the
    reply to somebody else's command.
    """

    def __init__(self, address: Address, size: int, connect: Callable[[float], Line]) -> None:
        """``connect`` opens a connection before a deadline."""
        self.address = address
        self._size, self._connect = size, connect
        self._idle: list[Line] = []
        self._tickets = Tickets(size)
        self._generation = 0
        self._closed = False

    def take(self, deadline: float) -> Line:
        """A connection, for the caller alone until ``give`` or ``drop``."""
        now = time.monotonic()
        try:
            ticket = self._tickets.take()
        except Empty:
            ticket = self._wait(deadline)
            now = time.monotonic()
        try:
            line = self._idle.pop() if self._idle else self._open(deadline, ticket)
        except IndexError:  # another thread was faster
            line = self._open(deadline, ticket)
        line.deadline, line.since, line.ticket = deadline, now, ticket
        return line

    def _wait(self, deadline: float) -> Ticket:
        """Wait until another call is done with its connection."""
        try:
            return self._tickets.wait(max(deadline - time.monotonic(), 0))
        except Empty:
            raise final(exhausted(self.address, self._size)) from None

    def _open(self, deadline: float, ticket: Ticket) -> Line:
        """A new connection for the holder of a ticket."""
        generation = self._generation
        try:
            line = self._connect(deadline)
        except BaseException:
            self._tickets.give(ticket)
            raise
        line.generation = generation
        return line

    def separate(self, deadline: float) -> Line:
        """A connection beside the pool."""
        return self._connect(deadline)

    def give(self, line: Line) -> None:
        """Back, with no reply outstanding."""
        ticket, line.ticket = line.ticket, None
        if line.generation == self._generation:
            self._idle.append(line)
        else:
            line.disconnect()
        self._return(ticket)
        if self._closed:  # it was closed while this call was on its way, or still waited for a connection
            self._clear()

    def drop(self, line: Line) -> None:
        """Close a connection that something went wrong on."""
        ticket, line.ticket = line.ticket, None
        line.disconnect()
        self._return(ticket)

    def _return(self, ticket: Ticket | None) -> None:
        """The next one may use a connection."""
        if ticket is not None:
            self._tickets.give(ticket)

    @property
    def generation(self) -> int:
        """Of the connections that are opened now."""
        return self._generation

    def renew(self, generation: int) -> None:
        """Close every connection of a generation, those in use when they come back: one of them failed, since the
        server restarted, stalled or changed its role.
        """
        if generation == self._generation:
            self._clear()

    def close(self) -> None:
        """Close every connection, those in use when they come back, for good: none is kept from then on."""
        self._closed = True
        self._clear()

    def _clear(self) -> None:
        """End a generation."""
        self._generation += 1
        while self._idle:
            try:
                self._idle.pop().disconnect()
            except IndexError:  # another thread was faster
                return
