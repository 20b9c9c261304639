"""Telling the store what has been done, for as long as it may still be told: until the lease would be over.

Every operation of a store may be applied twice and answers the same, so a call without an answer is simply repeated.
An interruption (KeyboardInterrupt, SystemExit, a signal handler that raises, ``async_insist`` has cancellation) gets
one more try in, so that work that has been done is not done again; then it goes on.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from idemstore.errors import IdemstoreError

T = TypeVar("T")

FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 1.0
"""Seconds between attempts: doubled from the first to the last."""


def pauses(until: float) -> Iterator[float]:
    """Pauses between attempts until ``until`` (``time.monotonic``); after the last one a last attempt is made."""
    pause = FIRST_PAUSE
    while (left := until - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 2, LAST_PAUSE)


def insist(tell: Callable[[], T], until: float) -> T:
    """Call ``tell`` until it is answered; raises its error if that is final, or when the time is over."""
    waiting = pauses(until)
    while True:
        try:
            return tell()
        except IdemstoreError as error:
            pause = next(waiting, None) if error.retryable else None
            if pause is None:
                raise
        except BaseException as interruption:
            last_try(tell, interruption)
            raise
        try:
            time.sleep(pause)
        except BaseException as interruption:
            last_try(tell, interruption)
            raise


def last_try(tell: Callable[[], object], interruption: BaseException) -> None:
    """One more try before the interruption goes on; only another interruption replaces it."""
    try:
        tell()
    except IdemstoreError as error:
        interruption.add_note(f"idemstore: interrupted while the store was being told what had been done: {error}")
