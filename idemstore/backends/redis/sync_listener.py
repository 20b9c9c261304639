"""The listener of a sync store: one connection and one daemon thread, while somebody waits and a little longer."""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from idemstore.backends.redis.channels import (
    CONNECT_TIMEOUT,
    FIRST_PAUSE,
    HEALTH,
    SEND_TIMEOUT,
    Channels,
    Frames,
    Refused,
    log,
    pause_after,
)
from idemstore.backends.redis.errors import CLIENT_ERRORS
from idemstore.backends.redis.faults import Failed
from idemstore.backends.redis.sync_pool import Line

CLOSE_PATIENCE: Final = 1.0


class RedisWatch:
    """A waiter in a thread."""

    def __init__(self, listener: "Listener", channel: bytes) -> None:
        self._listener, self._channel, self._changed = listener, channel, threading.Event()
        self._wake = self._changed.set
        listener.add(channel, self._wake)

    def wait(self, poll: float, limit: float) -> None:
        """Until the key changes, as far as the server tells."""
        self._changed.wait(min(limit, self._listener.channels.patience(self._channel, poll)))
        self._changed.clear()

    def close(self) -> None:
        """End the watch."""
        self._listener.channels.remove(self._channel, self._wake)


class Listener:
    """Serves all waiters of one store. Every socket operation happens in its thread."""

    def __init__(self, connect: Callable[[float], Line]) -> None:
        """``connect`` opens a connection before a deadline."""
        self.channels = Channels()
        self._connect = connect
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._button: socket.socket | None = None
        """Rings the bell that the thread hears while it waits for its connection."""
        self._closed = threading.Event()
        self._told = False
        """Whether it was said that there is no listener."""

    def add(self, channel: bytes, wake: Callable[[], None]) -> None:
        """One more waiter."""
        if self.channels.add(channel, wake):
            self._ring()
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """End, and close the connection."""
        self._closed.set()
        self._ring()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_PATIENCE)

    def _ring(self) -> None:
        """Have the thread look at what is wanted."""
        with self._lock:
            if self._button is not None:
                with contextlib.suppress(BlockingIOError):  # full of rings
                    self._button.send(b"\0")

    def _start(self) -> None:
        """Start the thread, unless another waiter just did."""
        with self._lock:
            if self._thread is not None or self._closed.is_set():
                return
            bell, button = socket.socketpair()
            bell.setblocking(False)
            button.setblocking(False)
            thread = threading.Thread(target=self._run, args=(bell,), name="idemstore-redis-listener", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads, or the interpreter is on its way out
                bell.close()
                button.close()
                if not self._told:
                    self._told = True
                    log.warning("no listener, waiters poll: %s", error)
            else:
                self._thread, self._button = thread, button

    def _ends(self, bell: socket.socket) -> bool:
        """Whether the thread may end: not if a waiter came in between."""
        with self._lock:
            if self.channels and not self._closed.is_set():
                return False
            if self._button is not None:
                self._button.close()
            bell.close()
            self._thread = self._button = None
            return True

    def _run(self, bell: socket.socket) -> None:
        """Connect, listen, connect again."""
        pause = FIRST_PAUSE
        while not self._ends(bell):
            started = time.monotonic()
            try:
                self._listen(self._connect(started + CONNECT_TIMEOUT), bell)
            except Failed as failed:
                why: Exception = failed.fault.error
            except (*CLIENT_ERRORS, Refused) as error:
                why = error
            else:
                continue
            pause = pause_after(why, pause, time.monotonic() - started)
            self._closed.wait(pause)

    def _listen(self, line: Line, bell: socket.socket) -> None:
        """Listen, until nobody waits any more."""
        frames, silent = Frames(), 0
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(line.wire, selectors.EVENT_READ)
                selector.register(bell, selectors.EVENT_READ)
                while not self._closed.is_set():
                    commands = self.channels.commands() or (self.channels.probe() if silent else [])
                    if commands:
                        line.deadline = time.monotonic() + SEND_TIMEOUT
                        line.send_packed_command(commands, False)
                    ready = {key.fd for key, _ in selector.select(HEALTH)}
                    if not ready and not self.channels:
                        return
                    if bell.fileno() in ready:
                        bell.recv(65536)
                    if line.wire.fileno() in ready:
                        self._read(line, frames)
                    silent = 0 if ready else silent + 1
                    if silent > 1:
                        raise TimeoutError(f"nothing was heard for {silent * HEALTH:.0f} s")
        finally:
            self.channels.lost()
            line.disconnect()

    def _read(self, line: Line, frames: Frames) -> None:
        """Read what is there; TLS may have decrypted more than was asked for."""
        line.deadline = time.monotonic() + SEND_TIMEOUT
        pending = 1
        while pending:
            data = line.wire.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            for frame in frames.feed(data):
                self.channels.took(frame)
            pending = line.wire.pending()
