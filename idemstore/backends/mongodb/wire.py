"""What the three drivers share: how commands are sent, how replies are decoded, what is made of errors. No I/O."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn, Protocol

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.topology_description import TopologyDescription

from idemstore.backends.mongodb import errors
from idemstore.backends.mongodb.clock import HeartbeatClock
from idemstore.backends.mongodb.dialect import Command, Reply
from idemstore.errors import StoreTimeout

CODEC: Final[CodecOptions[dict[str, object]]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
"""A date that Python cannot hold, in a damaged document, is no reason to fail."""

CLOSING: Final = 1.0
"""Seconds that closing may take."""
AT_ONCE: Final = 0.001
"""A time-out of 0 would be none for PyMongo."""

CONCERNS: Final = ("writeConcern", "readConcern")


class Session(Protocol):
    """What is asked of a caller's session, in either mode."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...


def late(timeout: float) -> StoreTimeout:
    """A batch item whose turn came too late."""
    return StoreTimeout(f"the batch did not finish within {timeout:g} s: repeating it is safe")


class Line(NamedTuple):
    """One client, or the caller's session."""

    where: str
    """Database and collection, for messages."""
    clock: HeartbeatClock | None = None
    topology: Callable[[], TopologyDescription] | None = None
    session: Session | None = None

    @property
    def transaction(self) -> bool:
        """Whether the caller's transaction is open."""
        return self.session is not None and self.session.in_transaction

    def command(self, request: Command) -> dict[str, object]:
        """A command of its own, since PyMongo writes into it. In a transaction the concerns are the transaction's."""
        if self.transaction:
            return {name: value for name, value in request.items() if name not in CONCERNS}
        return dict(request)

    def reply(self, body: Mapping[str, object]) -> Reply:
        """What the server answered, with the time."""
        return Reply(errors.checked(body, self.where), None if self.clock is None else self.clock.now())

    def lost(self, error: DuplicateKeyError) -> Reply:
        """The answer to the loser of a race between two upserts; in a transaction that is over, it is the error."""
        if self.transaction:
            raise error
        return Reply(errors.lost_race(error, self.where))

    def again(self, error: PyMongoError, transaction: bool) -> bool:
        """Whether the same command is worth sending once more; ``transaction``: it was part of one."""
        return not transaction and errors.worth_resending(error)

    def fail(self, error: PyMongoError | BSONError, timeout: float, transaction: bool) -> NoReturn:
        """Raise one of our errors."""
        cause = errors.reason(error, self.topology)
        errors.translate(cause, self.where, timeout, joined=self.session is not None, transaction=transaction)

    def farewell(self) -> float:
        """Seconds in which PyMongo may say good-bye to the server: next to none where it is known to be gone."""
        return CLOSING if self.topology is None or self.topology().has_writable_server() else AT_ONCE
