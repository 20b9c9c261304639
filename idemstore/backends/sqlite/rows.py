"""Between records and table rows, and the rule that a row which is no record of ours is never taken for an absent one.

The connection decodes nothing: text comes as a bytearray, so it differs from a BLOB, and no text can break a read.
"""

from itertools import product
from typing import Final, cast

from idemstore.checks import MAX_TOKEN
from idemstore.errors import CorruptRecord
from idemstore.machine import Record, State

Row = tuple[object, ...]
_Rest = tuple[int, int, bytes | None, int | None, int | None, int | None, bytes | None, bytes | None]

_NONE: Final = type(None)
_IN_FLIGHT: Final = ((_NONE, bytes), (int,), (_NONE, int), (_NONE,), (_NONE,), (_NONE, bytes))
_COMPLETED: Final = ((_NONE, bytes), (_NONE,), (_NONE, int), (_NONE,), (bytes,), (_NONE,))
_FAILED: Final = ((_NONE, bytes), (_NONE,), (_NONE, int), (_NONE, int), (bytes,), (_NONE, bytes))

_SHAPES: Final[dict[bytes, tuple[State, frozenset[tuple[type, ...]]]]] = {
    state.value.encode(): (state, frozenset((bytearray, bytearray, int, int, *rest) for rest in product(*columns)))
    for state, columns in ((State.IN_FLIGHT, _IN_FLIGHT), (State.COMPLETED, _COMPLETED), (State.FAILED, _FAILED))
}
"""By state: the types that the columns of a row may have, all together."""


def encode(key: str, record: Record) -> Row:
    """The row of a record: the parameters of ``insert`` and ``update``."""
    return (record.state.value, *record[1:], key)


def decode(row: Row) -> Record:
    """The record of a row (its columns from ``state`` on), or ``CorruptRecord``."""
    found = _SHAPES.get(bytes(row[0])) if isinstance(row[0], bytearray) else None
    if found is None:
        raise _corrupt("its state is unknown")
    state, shapes = found
    if tuple(map(type, row)) not in shapes:
        raise _corrupt(f"its columns are not those of a record that is {state}")
    token, fence, attempt = cast("tuple[bytearray, int, int]", row[1:4])
    if attempt < 1 or fence < 0 or not (0 < len(token) <= MAX_TOKEN and token.isascii()):
        raise _corrupt("its token, fence or attempt is out of range")
    return Record(state, token.decode("ascii"), *cast("_Rest", row[2:]))


def out_of_range() -> CorruptRecord:
    """The error for a row whose numbers lead beyond what a column can hold."""
    return _corrupt("its fence, attempt or times are out of range")


def _corrupt(what: str) -> CorruptRecord:
    """The error, without what is stored."""
    return CorruptRecord(
        f"the row under this key is not a record of idemstore: {what}. Look at it, then forget the key"
    )
