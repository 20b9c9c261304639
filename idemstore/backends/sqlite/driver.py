"""Sync: one connection that writes, a few that read, and turns for the writing one.

Writers of one process queue up here, in memory, rather than poll the lock of the file against each other. Who finds
the writing connection free does everything on it, so a program of one thread has one connection, whose cache stays
warm. Who finds it taken reads elsewhere first, so replays never wait for writers, not even for one that is stuck behind
another process.
"""

import random
from collections.abc import Sequence

from idemstore.backends.sqlite.dialect import Reply, Request
from idemstore.backends.sqlite.patience import Patience
from idemstore.backends.sqlite.session import PENDING, Answer, Answers, Place, Session
from idemstore.backends.sqlite.turn import Taken, Turn
from idemstore.errors import IdemstoreError
from idemstore.flows import SleepWatch


class SqliteDriver:
    """The connections of one sync store; safe for many threads."""

    def __init__(self, place: Place, connections: int) -> None:
        self._path = place.path
        self._writer = Session(place)
        self._readers = [Session(place) for _ in range(connections - 1)]
        self._turn = Turn()

    def execute(self, request: Request, timeout: float) -> Reply:
        """One request, within ``timeout`` seconds."""
        answer = self.execute_many((request,), timeout)[0]
        if isinstance(answer, IdemstoreError):
            raise answer
        return answer

    def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[Answer]:
        """Many, in one transaction where anything must be written; an item's error is its own."""
        patience = Patience(timeout)
        try:
            return self._turn.run(lambda: patience.run(self._writer.run, requests), 0)
        except Taken:
            answers = patience.run(self._look, requests)
        if not any(answer is PENDING for answer in answers):
            return answers  # type: ignore[return-value]  # nothing is pending
        try:
            return self._turn.run(lambda: patience.run(self._writer.run, requests), patience.left())
        except Taken:
            raise patience.over(f"{self._path} is being written by other calls of this process") from None

    def _look(self, requests: Sequence[Request], timeout: float) -> Answers:
        """Read, on a connection that nobody uses now if there is one."""
        if not self._readers:
            return [PENDING] * len(requests)
        free = [reader for reader in self._readers if not reader.busy()]
        reader = free[0] if free else random.choice(self._readers)  # noqa: S311 - no secret
        return reader.look(requests, timeout)

    def watch(self, key: str) -> SleepWatch:
        """Nobody tells of changes: poll."""
        return SleepWatch()

    def close(self) -> None:
        """Close every connection, each after the call in progress there."""
        for session in (self._writer, *self._readers):
            session.close()
