"""Waiting: all waiters of a store share one poll, however many they are and whatever keys they wait for.

One of them leads: it asks for all keys at once, wakes those whose key is not busy any more, and hands over when its
own wait is over. So there is no thread or task of the store's own, nothing that a fork could lose, and no query while
nobody waits. A poll asks for a state, not for a change: none can be missed between two of them.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from idemstore.errors import IdemstoreError

FIRST: Final = 0.02
LAST: Final = 0.25
"""Seconds between two polls: at first, and at last."""

SHARE: Final = 0.05
"""Of the time that the youngest waiter has waited, between these two: nobody learns much later than it has waited."""

FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 5.0
"""Seconds before a lost listener connects again, at first and at last."""

GRACE: Final = 0.5
"""Seconds that a poll may outlast its leader's wait: one cut off too early would send everybody to the server."""

Busy = Mapping[str, bytes | None]
"""The busy keys. For one that backs off: until when, since a waiter must hear of that once, and may then sit it out."""

Poll = Callable[[list[str], float], Busy]
"""Which of the keys are busy; it may take that many seconds."""
AsyncPoll = Callable[[list[str], float], Awaitable[Busy]]


def interval(youngest: float) -> float:
    """Seconds until the next poll, by how long the youngest waiter has waited."""
    return min(max(youngest * SHARE, FIRST), LAST)


class Lobby:
    """The waiters of a sync store."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._lock = threading.Lock()
        self._waiting: dict[LobbyWatch, float] = {}
        self._armed: dict[str, set[LobbyWatch]] = {}
        self._led = False
        self.listening = False
        """Whether notifications come: the poll then only makes up for lost ones."""

    def arm(self, watch: "LobbyWatch") -> None:
        """From now on no notification is lost on it."""
        with self._lock:
            self._armed.setdefault(watch.digest, set()).add(watch)

    def disarm(self, watch: "LobbyWatch") -> None:
        """Nobody cares any more."""
        with self._lock:
            armed = self._armed.get(watch.digest, set())
            armed.discard(watch)
            if not armed:
                self._armed.pop(watch.digest, None)

    def poke(self, said: str | None) -> None:
        """A notification has come; None: some may have been lost."""
        with self._lock:
            told = [self._armed.get(said, set())] if said is not None else list(self._armed.values())
            for watch in [watch for watches in told for watch in watches]:
                watch.told = True
                self._waiting.pop(watch, None)
                watch.woken.set()

    def wait(self, watch: "LobbyWatch", limit: float) -> None:
        """Until the key of the watch is not busy, as far as the last poll knows, or the time is up."""
        end = time.monotonic() + limit
        watch.woken.clear()
        with self._lock:
            if not watch.told:
                self._waiting[watch] = time.monotonic()
            watch.told = False
        try:
            while watch in self._waiting and (left := end - time.monotonic()) > 0:
                if self._take_lead():
                    self._lead(watch, end)
                else:
                    watch.woken.wait(left)
                    watch.woken.clear()
        finally:
            with self._lock:
                self._waiting.pop(watch, None)

    def _take_lead(self) -> bool:
        """Whether nobody led."""
        with self._lock:
            led, self._led = self._led, True
            return not led

    def _lead(self, watch: "LobbyWatch", end: float) -> None:
        """Poll for everybody, until the leader's own wait is over."""
        try:
            last = time.monotonic()
            while watch in self._waiting and (left := end - time.monotonic()) > 0:
                watch.woken.wait(min(FIRST, left))
                watch.woken.clear()
                keys, youngest = self._here()
                now = time.monotonic()
                if keys and now < end and now - last >= (LAST if self.listening else interval(now - youngest)):
                    self._wake(keys, self._ask(keys, end - now))
                    last = time.monotonic()
        finally:
            self._hand_over()

    def _here(self) -> tuple[set[str], float]:
        """What is waited for now, and since when the youngest waits."""
        with self._lock:
            return {watch.key for watch in self._waiting}, max(self._waiting.values(), default=0.0)

    def _ask(self, keys: set[str], left: float) -> Busy:
        """One poll. Where it fails nobody is held: each then asks by itself, and hears why."""
        try:
            return self._poll(list(keys), left + GRACE)
        except IdemstoreError:
            return {}

    def _wake(self, asked: set[str], busy: Busy) -> None:
        """End the waits that have a reason to end."""
        with self._lock:
            for watch in [watch for watch in self._waiting if watch.key in asked and watch.news(busy)]:
                del self._waiting[watch]
                watch.woken.set()

    def _hand_over(self) -> None:
        """Whoever wakes next leads."""
        with self._lock:
            self._led = False
            for watch in self._waiting:
                watch.woken.set()


def digest(key: str) -> str:
    """What ``notified.sql`` says of a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


class Interest:
    """What a waiter knows."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.digest = digest(key)
        self.told = False
        """Whether a notification came while the waiter was asking."""
        self._back_off: bytes | None = None

    def news(self, busy: Busy) -> bool:
        """Whether a claim might now be answered otherwise: the key is free, or begins to back off."""
        if self.key not in busy:
            return True
        end, known = busy[self.key], self._back_off
        self._back_off = end
        return end is not None and end != known


class LobbyWatch(Interest):
    """A waiter in a thread."""

    def __init__(self, lobby: "Lobby", key: str) -> None:
        super().__init__(key)
        self.woken = threading.Event()
        self._lobby = lobby
        lobby.arm(self)

    def wait(self, poll: float, limit: float) -> None:
        """``poll`` does not count: the lobby polls for everybody."""
        self._lobby.wait(self, limit)

    def close(self) -> None:
        """End the interest."""
        self._lobby.disarm(self)


class AsyncLobby:
    """The waiters of an async store; the same, by tasks."""

    def __init__(self, poll: AsyncPoll) -> None:
        self._poll = poll
        self._waiting: dict[AsyncLobbyWatch, float] = {}
        self._armed: dict[str, set[AsyncLobbyWatch]] = {}
        self._led = False
        self.listening = False

    def arm(self, watch: "AsyncLobbyWatch") -> None:
        """As ``Lobby.arm``."""
        self._armed.setdefault(watch.digest, set()).add(watch)

    def disarm(self, watch: "AsyncLobbyWatch") -> None:
        """As ``Lobby.disarm``."""
        armed = self._armed.get(watch.digest, set())
        armed.discard(watch)
        if not armed:
            self._armed.pop(watch.digest, None)

    def poke(self, said: str | None) -> None:
        """As ``Lobby.poke``."""
        told = [self._armed.get(said, set())] if said is not None else list(self._armed.values())
        for watch in [watch for watches in told for watch in watches]:
            watch.told = True
            self._waiting.pop(watch, None)
            watch.woken.set()

    async def wait(self, watch: "AsyncLobbyWatch", limit: float) -> None:
        """As ``Lobby.wait``."""
        end = time.monotonic() + limit
        watch.woken.clear()
        if not watch.told:
            self._waiting[watch] = time.monotonic()
        watch.told = False
        try:
            while watch in self._waiting and (left := end - time.monotonic()) > 0:
                if self._led:
                    await _set(watch.woken, left)
                    watch.woken.clear()
                else:
                    await self._lead(watch, end)
        finally:
            self._waiting.pop(watch, None)

    async def _lead(self, watch: "AsyncLobbyWatch", end: float) -> None:
        """As ``Lobby._lead``; a leader that is cancelled hands over, too."""
        self._led = True
        try:
            last = time.monotonic()
            while watch in self._waiting and (left := end - time.monotonic()) > 0:
                await _set(watch.woken, min(FIRST, left))
                watch.woken.clear()
                now = time.monotonic()
                youngest = max(self._waiting.values(), default=0.0)
                pause = LAST if self.listening else interval(now - youngest)
                if self._waiting and now < end and now - last >= pause:
                    keys = {other.key for other in self._waiting}
                    self._wake(keys, await self._ask(keys, end - now))
                    last = time.monotonic()
        finally:
            self._led = False
            for other in self._waiting:
                other.woken.set()

    async def _ask(self, keys: set[str], left: float) -> Busy:
        """As ``Lobby._ask``."""
        try:
            return await self._poll(list(keys), left + GRACE)
        except IdemstoreError:
            return {}

    def _wake(self, asked: set[str], busy: Busy) -> None:
        """As ``Lobby._wake``."""
        for watch in [watch for watch in self._waiting if watch.key in asked and watch.news(busy)]:
            del self._waiting[watch]
            watch.woken.set()


class AsyncLobbyWatch(Interest):
    """A waiter in a task."""

    def __init__(self, lobby: AsyncLobby, key: str) -> None:
        super().__init__(key)
        self.woken = asyncio.Event()
        self._lobby = lobby
        lobby.arm(self)

    async def wait(self, poll: float, limit: float) -> None:
        """As ``LobbyWatch.wait``."""
        await self._lobby.wait(self, limit)

    def close(self) -> None:
        """As ``LobbyWatch.close``."""
        self._lobby.disarm(self)


async def _set(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or the time is up."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
