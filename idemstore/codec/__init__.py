"""Results to bytes and back.

A codec turns a value into bytes (``encode``, ``decode``) and may seal all bytes that a guard stores, failures and
checkpoints included (``seal``, ``unseal``): compression and encryption wrap any codec. Nothing is unpickled unless
``PickleCodec`` is asked for by name. What cannot be read back raises ``UndecodableResult``: it is never absent.
"""

import importlib
from typing import TYPE_CHECKING, Final

from idemstore.codec.base import BytesCodec, Codec, JsonCodec

if TYPE_CHECKING:
    from idemstore.codec.by_type import DataclassCodec, MsgspecCodec, PydanticCodec, typed
    from idemstore.codec.opaque import PickleCodec
    from idemstore.codec.wrappers import Compressed, Encrypted

__all__ = [
    "BytesCodec",
    "Codec",
    "Compressed",
    "DataclassCodec",
    "Encrypted",
    "JsonCodec",
    "MsgspecCodec",
    "PickleCodec",
    "PydanticCodec",
    "typed",
]

_LATE: Final = {
    "Compressed": "wrappers",
    "DataclassCodec": "by_type",
    "Encrypted": "wrappers",
    "MsgspecCodec": "by_type",
    "PickleCodec": "opaque",
    "PydanticCodec": "by_type",
    "typed": "by_type",
}


def __getattr__(name: str) -> object:
    """What not every guard needs, imported when it is asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"idemstore.codec.{_LATE[name]}"), name)
