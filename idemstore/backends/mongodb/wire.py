"""What the three drivers share on the wire: how commands are sent, and how replies are decoded."""

from collections.abc import Callable
from typing import Final, Protocol

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo.topology_description import TopologyDescription

from idemstore.backends.mongodb.dialect import Command
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


def prepared(request: Command, session: Session | None) -> dict[str, object]:
    """A command of its own, since PyMongo writes into it. In a transaction the concerns are the transaction's."""
    if session is not None and session.in_transaction:
        return {name: value for name, value in request.items() if name not in CONCERNS}
    return dict(request)


def late(timeout: float) -> StoreTimeout:
    """A batch item whose turn came too late."""
    return StoreTimeout(f"the batch did not finish within {timeout:g} s: repeating it is safe")


def farewell(topology: Callable[[], TopologyDescription] | None) -> float:
    """Seconds in which PyMongo may say good-bye to the server: next to none where it is known to be gone."""
    return CLOSING if topology is None or topology().has_writable_server() else AT_ONCE
