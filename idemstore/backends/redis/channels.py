"""What waiters listen for: which channels are wanted, which the server has confirmed, whom a message wakes. No I/O.

A channel has the name of the key. Notifications are hints: a waiter that was woken claims again, one that was not looks
for itself now and then. So whatever gets lost here costs time and nothing else.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from idemstore.backends.redis.resp import pack

log: Final = logging.getLogger("idemstore.redis")

UNHEARD: Final = 2.0
"""Seconds until a waiter that hears nothing on a confirmed channel looks for itself, jittered."""
HEALTH: Final = 10.0
"""Seconds of silence after which the listener asks whether its connection is alive; after as many again it is not."""
CONNECT_TIMEOUT: Final = 5.0
SEND_TIMEOUT: Final = 5.0
FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 5.0
"""Seconds between attempts to connect: twice as long each time."""
AT_ONCE: Final = 500
"""Channels in one command."""

Wake = Callable[[], None]
Frame = list[bytes | int | None]


class Refused(Exception):
    """The server does not let this user listen."""


class Channels:
    """The channels of one store. Safe for threads; ``wake`` must be quick and must not raise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: dict[bytes, list[Wake]] = {}
        self._asked: set[bytes] = set()
        self._live: set[bytes] = set()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._wakes)

    def add(self, channel: bytes, wake: Wake) -> bool:
        """One more waiter; True where the listener must ask for the channel."""
        with self._lock:
            self._wakes.setdefault(channel, []).append(wake)
            return channel not in self._asked

    def remove(self, channel: bytes, wake: Wake) -> None:
        """A waiter is done. The listener gives the channel up when it has something else to say."""
        with self._lock:
            wakes = self._wakes.get(channel, [])
            if wake in wakes:
                wakes.remove(wake)
            if not wakes:
                self._wakes.pop(channel, None)

    def patience(self, channel: bytes, poll: float) -> float:
        """Seconds until a waiter looks for itself: soon where nobody would tell it."""
        return UNHEARD * random.uniform(0.75, 1.25) if channel in self._live else poll  # noqa: S311 - no secret

    def commands(self) -> list[bytes]:
        """What to send now, so that the server knows what is wanted."""
        with self._lock:
            new = [channel for channel in self._wakes if channel not in self._asked]
            old = [channel for channel in self._asked if channel not in self._wakes]
            self._asked = set(self._wakes)
            self._live.difference_update(old)
        return [*_packed(b"SUBSCRIBE", new), *_packed(b"UNSUBSCRIBE", old)]

    def probe(self) -> list[bytes]:
        """What proves that the server still listens: to ask for a channel again, which takes no other permission."""
        with self._lock:
            return list(_packed(b"SUBSCRIBE", list(self._wakes)[:1]))

    def took(self, frame: object) -> None:
        """Something arrived. A channel that is confirmed wakes its waiters once: what happened before nobody told."""
        match frame:
            case [b"subscribe", bytes(channel), *_] if channel not in self._live:
                self._live.add(channel)
            case [b"message", bytes(channel), *_]:
                pass
            case _:
                return
        self._wake(channel)

    def lost(self) -> None:
        """The connection is gone: waiters poll, and look at once for what they have missed."""
        with self._lock:
            self._asked.clear()
            self._live.clear()
            waiting = list(self._wakes)
        for channel in waiting:
            self._wake(channel)

    def _wake(self, channel: bytes) -> None:
        """Wake who waits on a channel."""
        with self._lock:
            wakes = tuple(self._wakes.get(channel, ()))
        for wake in wakes:
            wake()


def pause_after(why: Exception, pause: float, lasted: float) -> float:
    """Seconds until a listener that lost its connection tries again; logged. ``pause``: before the last try, which held
    for ``lasted`` seconds.
    """
    pause = FIRST_PAUSE if lasted > HEALTH else min(pause * 2, LAST_PAUSE)
    log.warning("the listener lost its connection, waiters poll; again in %.1f s: %s", pause, why)
    return pause


def _packed(word: bytes, channels: Sequence[bytes]) -> Iterator[bytes]:
    """Commands of a bounded size."""
    for start in range(0, len(channels), AT_ONCE):
        yield pack(word, *channels[start : start + AT_ONCE])


class Frames:
    """Reads what a subscribed connection is sent (RESP2), piece by piece: arrays of bytes and numbers, or an error."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole by now; raises ``Refused`` for an error."""
        self._data += data
        found: list[Frame] = []
        while (read := self._frame()) is not None:
            frame, end = read
            del self._data[:end]
            found.append(frame)
        return found

    def _line(self, start: int) -> tuple[bytes, int] | None:
        """A line, and where the next one starts."""
        end = self._data.find(b"\r\n", start)
        return None if end < 0 else (bytes(self._data[start:end]), end + 2)

    def _frame(self) -> tuple[Frame, int] | None:
        """The first frame and its length, if it is whole."""
        head = self._line(0)
        if head is None:
            return None
        line, at = head
        if line.startswith(b"-"):
            raise Refused(line[1:].decode(errors="replace"))
        if not line.startswith(b"*"):
            raise ConnectionError("what answers is no Redis")
        frame: Frame = []
        for _ in range(int(line[1:])):
            item = self._item(at)
            if item is None:
                return None
            word, at = item
            frame.append(word)
        return frame, at

    def _item(self, start: int) -> tuple[bytes | int | None, int] | None:
        """One element of a frame, and where the next one starts."""
        head = self._line(start)
        if head is None:
            return None
        line, at = head
        if line.startswith(b":"):
            return int(line[1:]), at
        size = int(line[1:])
        if size < 0:
            return None, at
        if len(self._data) < at + size + 2:
            return None
        return bytes(self._data[at : at + size]), at + size + 2
