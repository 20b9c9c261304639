"""A loopback TCP proxy between a client and a real server, for the faults that a network makes.

It forwards bytes and knows no protocol. One thread serves all connections. A *round trip* is counted, per connection,
whenever the server begins to answer after the client has sent; latency is added to each, once.

    with Proxy("127.0.0.1", 6379) as proxy:
        store = idemstore.open(f"redis://127.0.0.1:{proxy.port}/0")
        proxy.drop_reply()        # the next request is applied, its reply dropped, its connection cut
"""

import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

CHUNK: Final = 65536
MAX_LINKS: Final = 512
TICK: Final = 0.02
PATIENCE: Final = 30.0


class Link:
    """One connection of a client and its counterpart to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.asked = False
        """Whether the client has sent something that the server has not begun to answer."""
        self.doomed: threading.Event | None = None
        """Set where the reply that comes next is to be dropped, and then by it."""
        self.held: list[tuple[float, bytes]] = []
        """Replies that latency holds back, and when they are due."""


class Proxy:
    """Forwards ``127.0.0.1:port`` to ``host:upstream``; all controls may be used from any thread."""

    def __init__(self, host: str, upstream: int, *, latency: float = 0.0) -> None:
        """Listen on a free port. ``latency``: milliseconds that every round trip takes longer."""
        self._target = (host, upstream)
        self.latency = latency
        self._lock = threading.Lock()
        self._trips = 0
        self._drops: list[tuple[bytes, threading.Event]] = []
        self._stalled = False
        self._refusing = False
        self._closing = False
        self._links: set[Link] = set()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._cuts: list[threading.Event] = []
        self._thread = threading.Thread(target=self._run, name="idemstore-test-proxy", daemon=True)
        self._thread.start()

    # -- controls -----------------------------------------------------------------------------------------------------

    @property
    def round_trips(self) -> int:
        """How many round trips there were so far, over all connections."""
        with self._lock:
            return self._trips

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._links)

    def drop_reply(self, matching: bytes = b"") -> threading.Event:
        """Drop the reply of the next request (whose bytes hold ``matching``), after the server began to send it, and
        cut its connection. The event is set when that has happened.
        """
        dropped = threading.Event()
        with self._lock:
            self._drops.append((matching, dropped))
        return dropped

    def stall(self) -> None:
        """Forward nothing, either way, until ``resume``; connections stay open, new ones are accepted."""
        with self._lock:
            self._stalled = True

    def resume(self) -> None:
        """Forward again, what was held up included."""
        with self._lock:
            self._stalled = False
        self._nudge()

    def cut(self, *, refuse: bool = False) -> None:
        """Close every connection at once; with ``refuse``, new ones, too, until ``accept``."""
        done = threading.Event()
        with self._lock:
            self._refusing = self._refusing or refuse
            self._cuts.append(done)
        self._nudge()
        assert done.wait(PATIENCE), "the proxy does not answer"

    def accept(self) -> None:
        """Take new connections again."""
        with self._lock:
            self._refusing = False

    def close(self) -> None:
        """Close everything and end the thread; may be called twice."""
        if self._closing:
            return
        self._closing = True
        self._nudge()
        self._thread.join(PATIENCE)
        os.close(self._woken)
        os.close(self._wake)

    def __enter__(self) -> Self:
        """Use it in a ``with`` block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _nudge(self) -> None:
        """Let the thread look at once."""
        os.write(self._woken, b".")

    def _run(self) -> None:
        """Serve until closed."""
        try:
            while not self._closing:
                self._turn()
        finally:
            for link in list(self._links):
                self._end(link)
            self._selector.close()
            self._listener.close()

    def _turn(self) -> None:
        """One look at everything."""
        ready = self._selector.select(self._until_due())
        while self._cuts:
            for link in list(self._links):
                self._end(link)
            self._cuts.pop().set()
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._welcome()
            elif key.fileobj == self._wake:
                self._drain()
            elif not self._stalled and isinstance(key.data, Link) and key.data in self._links:
                self._forward(key.data, from_client=key.fileobj is key.data.client)
        if self._stalled:
            time.sleep(TICK)  # sockets stay readable meanwhile
        else:
            self._release()

    def _drain(self) -> None:
        """Forget the nudges."""
        with suppress(BlockingIOError):
            os.read(self._wake, CHUNK)

    def _until_due(self) -> float | None:
        """Seconds until the next held reply is due."""
        due = [link.held[0][0] for link in self._links if link.held]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _welcome(self) -> None:
        """Take a connection and make its counterpart."""
        with suppress(BlockingIOError):
            client, _ = self._listener.accept()
            if self._refusing or len(self._links) >= MAX_LINKS:
                client.close()
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                return
            link = Link(client, server)
            for end in (client, server):
                end.setblocking(True)
                end.settimeout(5)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(end, selectors.EVENT_READ, link)
            with self._lock:
                self._links.add(link)

    def _forward(self, link: Link, *, from_client: bool) -> None:
        """Bring what one side sent to the other."""
        source, sink = (link.client, link.server) if from_client else (link.server, link.client)
        try:
            data = source.recv(CHUNK)
            if not data:
                self._end(link)
            elif from_client:
                self._ask(link, data)
                sink.sendall(data)
            else:
                self._answer(link, data)
        except OSError:
            self._end(link)

    def _ask(self, link: Link, data: bytes) -> None:
        """A client sends: is this the request whose reply is to be dropped?"""
        link.asked = True
        with self._lock:
            if self._drops and link.doomed is None and self._drops[0][0] in data:
                link.doomed = self._drops.pop(0)[1]

    def _answer(self, link: Link, data: bytes) -> None:
        """A server sends: drop it, hold it back, or bring it."""
        first, link.asked = link.asked, False
        with self._lock:
            self._trips += first
        if link.doomed is not None:
            self._end(link)
            link.doomed.set()
        elif link.held or (first and self.latency):
            link.held.append((time.monotonic() + (self.latency / 1000 if first else 0.0), data))
        else:
            link.client.sendall(data)

    def _release(self) -> None:
        """Bring the replies that were held back long enough, in their order."""
        now = time.monotonic()
        for link in list(self._links):
            try:
                while link.held and link.held[0][0] <= now:
                    link.client.sendall(link.held.pop(0)[1])
            except OSError:
                self._end(link)

    def _end(self, link: Link) -> None:
        """Close both sides, the client's by a reset: a half-open connection would hide the loss."""
        for end in (link.client, link.server):
            with suppress(KeyError):
                self._selector.unregister(end)
            end.close()
        with self._lock:
            self._links.discard(link)
