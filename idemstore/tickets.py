"""Places in a pool for threads, which no exception of a signal handler can lose or leave locked."""

import weakref
from queue import Empty, SimpleQueue


class Ticket:
    """The right to use one connection of a pool."""

    __slots__ = ("__weakref__",)


class Tickets:
    """So many and no more. A signal handler may raise anywhere, even where a ticket was just taken and nobody knows it
    yet: it dies then, and another one is made in its place.
    """

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[Ticket] = SimpleQueue()
        self._dead: SimpleQueue[weakref.ref[Ticket]] = SimpleQueue()
        self._known: set[weakref.ref[Ticket]] = set()
        for _ in range(count):
            self._issue()

    def _issue(self) -> None:
        """One more. The queue is told of its death by no Python code, which a signal could interrupt."""
        ticket = Ticket()
        self._known.add(weakref.ref(ticket, self._dead.put))
        self._free.put(ticket)

    def take(self) -> Ticket:
        """One, or ``Empty``."""
        try:
            return self._free.get_nowait()
        except Empty:
            while not self._dead.empty():
                self._known.discard(self._dead.get_nowait())
                self._issue()
            return self._free.get_nowait()

    def wait(self, seconds: float) -> Ticket:
        """One, within so many seconds, or ``Empty``."""
        return self._free.get(timeout=seconds)

    def give(self, ticket: Ticket) -> None:
        """Back."""
        self._free.put(ticket)
