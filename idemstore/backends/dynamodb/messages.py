"""What travels between dialect and drivers: a request that the clock completes, and its reply.

A request names a method of the client and builds its parameters from a reading of the server's clock, at the last
moment. Error codes that a request lists under ``answers`` are replies; all others are errors.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeVar

from idemstore.backends.dynamodb.clock import Reading
from idemstore.exchange import Exchange

T = TypeVar("T")

Attr = Mapping[str, object]
Item = Mapping[str, Attr]
Params = dict[str, object]

REFUSED: Final = "ConditionalCheckFailedException"
CONFLICT: Final = "TransactionConflictException"
MISSING: Final = "ResourceNotFoundException"
IN_USE: Final = "ResourceInUseException"
INVALID: Final = "ValidationException"

OK: Final = ""
NOTHING: Final[frozenset[str]] = frozenset()
CONDITIONAL: Final = frozenset({REFUSED, CONFLICT})
BUSY_DELAY: Final = 0.05
"""Seconds before a request is repeated that a transaction, or the server's load, stood in the way of."""


class Request(NamedTuple):
    """One call of the low-level client."""

    operation: str
    build: Callable[[Reading], Params]
    answers: frozenset[str] = NOTHING
    clocked: bool = False
    """Whether the parameters hold times, so that the server's clock must be known first."""
    delay: float = 0.0
    """Seconds to wait before it is sent."""

    def later(self) -> "Request":
        """The same, after a pause."""
        return self._replace(delay=BUSY_DELAY)


class Reply(NamedTuple):
    """What came back. ``reading`` is what the request was built from; for one without times, the clock afterwards."""

    code: str
    body: Mapping[str, object]
    reading: Reading
    left: float
    """Seconds left of the time that the call may take."""


Ask = Exchange[Request, Reply, T]


def fixed(operation: str, params: Params, answers: frozenset[str] = NOTHING, delay: float = 0.0) -> Request:
    """A request without times."""
    return Request(operation, lambda _: params, answers, clocked=False, delay=delay)


def text(value: str) -> Attr:
    """A string attribute."""
    return {"S": value}


def number(value: int) -> Attr:
    """A number attribute."""
    return {"N": str(value)}


def binary(value: bytes) -> Attr:
    """A binary attribute."""
    return {"B": value}
