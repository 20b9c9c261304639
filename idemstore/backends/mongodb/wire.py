"""What the three drivers share on the wire: how commands are sent, and how replies are decoded."""

from typing import Final, Protocol

from bson.codec_options import CodecOptions, DatetimeConversion

from idemstore.backends.mongodb.dialect import Command
from idemstore.errors import StoreTimeout

CODEC: Final[CodecOptions[dict[str, object]]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
"""A date that Python cannot hold, in a damaged document, is no reason to fail."""

CLOSING: Final = 1.0
"""Seconds that closing may take: PyMongo says good-bye to a server that may be gone."""

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
