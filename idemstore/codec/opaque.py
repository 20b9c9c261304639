"""Pickle, for those who choose it. The only module that unpickles, and nothing imports it unasked."""

import pickle
from typing import Final, TypeVar, cast

from idemstore.codec.base import Codec
from idemstore.errors import UncarriedResult, UndecodableResult

T = TypeVar("T")

_BROKEN: Final = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError, ValueError)
"""What unpickling raises for bytes that are no pickle, or of classes that are gone."""


class PickleCodec(Codec[T]):
    """Pickle, by explicit choice only: whoever can write to the store can run code in your process. ``Encrypted``
    around it closes that door, as long as the key is secret.
    """

    def encode(self, value: T) -> bytes:
        """Pickle, protocol 5."""
        try:
            return pickle.dumps(value, protocol=5)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise UncarriedResult(f"pickle cannot carry the result ({type(value).__name__}): {error}") from error

    def decode(self, data: bytes) -> T:
        """Unpickle."""
        try:
            return cast("T", pickle.loads(data))  # noqa: S301 - the class is this choice
        except _BROKEN as error:
            raise UndecodableResult(f"the stored result cannot be unpickled: {error}") from error
