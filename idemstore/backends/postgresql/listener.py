"""LISTEN for a sync store: one thread and one connection of its own, started by the first waiter.

A notification is only a better poll. Where the connection is lost the thread makes another, and wakes everybody once it
listens again; until then waiters are served by the poll that they share.
"""

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from idemstore.backends.postgresql.lobby import FIRST_PAUSE, LAST_PAUSE, Lobby
from idemstore.backends.postgresql.wire import Line
from idemstore.errors import IdemstoreError

log: Final = logging.getLogger("idemstore.postgresql")


class Listener:
    """The thread. It never keeps the process alive, and ends when the store is closed."""

    def __init__(self, connect: Callable[[], Line], lobby: Lobby) -> None:
        """``connect`` gives a connection that listens already."""
        self._connect, self._lobby = connect, lobby
        self._lock = threading.Lock()
        self._started = self._closed = self._told = False
        self._bell, self._rope = socket.socketpair()

    def start(self) -> None:
        """At the first waiter."""
        if self._started:
            return
        with self._lock:
            if not (self._started or self._closed):
                try:
                    threading.Thread(target=self._run, name="idemstore-listen", daemon=True).start()
                except RuntimeError as error:  # no more threads, or the interpreter is on its way out
                    if not self._told:
                        self._told = True
                        log.warning("no listener, waiters poll: %s", error)
                else:
                    self._started = True

    def close(self) -> None:
        """End the thread, without waiting for it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._rope.send(b".")  # a child of fork() may hold the socket, too: closing it alone would tell nobody
            self._rope.close()
            if not self._started:
                self._bell.close()

    def _run(self) -> None:
        """Listen; whenever that ends, listen anew."""
        pause = FIRST_PAUSE
        while not self._closed:
            began = time.monotonic()
            try:
                line = self._connect()
            except IdemstoreError:
                pause = min(pause * 2, LAST_PAUSE)
            else:
                pause = FIRST_PAUSE if time.monotonic() - began < LAST_PAUSE else pause
                try:
                    self._hear(line)
                finally:
                    line.close()
            self._until_closed(pause)
        self._bell.close()

    def _hear(self, line: Line) -> None:
        """Until the connection is lost, or the store closed. What was said before is lost: wake everybody."""
        self._lobby.listening = True
        self._lobby.poke(None)
        try:
            poll = select.poll()
            poll.register(line.fd, select.POLLIN)
            poll.register(self._bell, select.POLLIN)
            while not self._closed:
                poll.poll()
                if self._closed or not line.drain():
                    return
                for said in line.said():
                    self._lobby.poke(said)
        finally:
            self._lobby.listening = False

    def _until_closed(self, seconds: float) -> None:
        """A pause that ends when the store is closed."""
        if not self._closed:
            poll = select.poll()  # select() takes no socket beyond the thousandth
            poll.register(self._bell, select.POLLIN)
            poll.poll(seconds * 1000)
