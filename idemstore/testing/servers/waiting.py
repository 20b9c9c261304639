"""Waiting for a server, always with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

DEADLINE = 30.0
_PAUSE = 0.03


class NotReady(Exception):
    """The server answers, but not yet as one that can be used."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        """As a URL has it."""
        return f"{self.host}:{self.port}"


def until(check: Callable[[], object], deadline: float = DEADLINE, alive: Callable[[], None] = lambda: None) -> None:
    """Repeat a check until it raises nothing, else `TimeoutError`; `alive` may raise to give up sooner."""
    end = time.monotonic() + deadline
    while True:
        try:
            check()
        except (OSError, NotReady) as error:
            alive()
            if time.monotonic() > end:
                raise TimeoutError(f"no usable answer within {deadline:.0f} s: {error}") from error
            time.sleep(_PAUSE)
        else:
            # An answer counts only if it came from the server that was started: a dead one cannot have given it.
            return alive()
