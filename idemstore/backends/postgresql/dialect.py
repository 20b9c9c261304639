"""How PostgreSQL says each operation: calls of functions, and how their replies read. Pure.

A request is a ``Call``: a statement and its arguments. A reply is the cells of the rows (all of them ``bytea``), row
after row, or a ``Refusal``. Where a refusal says that something is missing, the exchange that follows asks what there
is, so that the error can say what to do.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypedDict, TypeVar, cast

from idemstore.backends.postgresql import frames, refusals
from idemstore.backends.postgresql.refusals import FOREIGN, MISSING, NEWER, Refusal
from idemstore.backends.postgresql.schema import FUNCTIONS, VERSION, Schema, Statement
from idemstore.errors import AccessDenied, IdemstoreError, SchemaError, StoreUnavailable
from idemstore.exchange import Exchange, Limits, Snapshot, make_exchange
from idemstore.machine import Claim, Complete, Fail, Release, Renew
from idemstore.outcomes import ClaimOutcome, SettleOutcome

T = TypeVar("T")

KEY_BYTES: Final = 2000
"""A B-tree entry holds 2,700 bytes; a longer key would be taken or refused by how well it compresses."""

One = str | bytes | int | None
Arg = One | list[str] | list[bytes | None] | list[int | None] | list[bool | None]
Cells = list[bytes | None]
Reply = Cells | Refusal


class Call(NamedTuple):
    """One round trip: a statement, and its arguments in the order of its parameters."""

    statement: Statement
    args: tuple[Arg, ...] = ()


_call: Final = partial(tuple.__new__, Call)

Ask = Exchange[Call, Reply, T]


class Inspection(TypedDict):
    """What ``inspect.sql`` answers."""

    now: int
    read_only: bool
    table: bool
    comment: str | None
    functions: int
    allowed: bool


class PostgresqlDialect:
    """One table and its functions. ``name`` is the store's, for messages."""

    def __init__(self, schema: Schema, name: str, value_bytes: int) -> None:
        self.limits = Limits(KEY_BYTES, value_bytes)
        self._schema = schema
        self._name = name

    def claim(self, key: str, event: Claim) -> Ask[ClaimOutcome]:
        """One call."""
        fingerprint, token, lease, retention, takeover = event
        call = _call((self._schema.claim, (key, token, fingerprint, lease, retention, takeover)))
        return make_exchange(
            (call, lambda reply: frames.claim(_first(reply), token) if type(reply) is list else self._refused(reply))
        )

    def complete(self, key: str, event: Complete) -> Ask[SettleOutcome]:
        """One call."""
        token, result, retention = event
        return self._exchange(self._schema.complete, (key, token, result, retention), _settled)

    def fail(self, key: str, event: Fail) -> Ask[SettleOutcome]:
        """One call."""
        token, result, retention, retry_after = event
        return self._exchange(self._schema.fail, (key, token, result, retention, retry_after), _settled)

    def renew(self, key: str, event: Renew) -> Ask[SettleOutcome]:
        """One call."""
        token, lease, checkpoint = event
        return self._exchange(self._schema.renew, (key, token, lease, checkpoint), _settled)

    def release(self, key: str, event: Release) -> Ask[SettleOutcome]:
        """One call."""
        return self._exchange(self._schema.release, (key, event.token), _settled)

    def get(self, key: str) -> Ask[Snapshot | None]:
        """One call; no row where there is none."""
        return self._exchange(self._schema.get, (key,), _snapshot)

    def forget(self, key: str) -> Ask[bool]:
        """One call."""
        return self._exchange(self._schema.forget, (key,), lambda cells: frames.flag(_first(cells)))

    def purge(self, limit: int) -> Ask[int]:
        """One call, one bounded batch."""
        return self._exchange(self._schema.purge, (limit,), lambda cells: frames.number(_first(cells)))

    def ping(self) -> Ask[int]:
        """A look at the catalogs: the clock, if the calls of this role would be allowed and find all they need."""
        return self._exchange(self._schema.inspect, (), self._ready)

    def migrate(self) -> Ask[None]:
        """Create what is missing, replace the functions of this version by themselves."""

        def parse(reply: Reply) -> None:
            if isinstance(reply, Refusal):
                raise self._not_migrated(reply)

        return Exchange(Call(self._schema.migrate), parse)

    def ensure(self) -> Ask[None]:
        """Migrate where something is missing; where nothing is, a look that writes nothing."""

        def parse(cells: Cells) -> Ask[None] | None:
            found = _inspection(cells)
            return None if found["table"] and found["functions"] == len(FUNCTIONS) else self.migrate()

        return self._exchange(self._schema.inspect, (), parse)

    def _exchange(self, statement: Statement, args: tuple[Arg, ...], parse: Callable[[Cells], T | Ask[T]]) -> Ask[T]:
        """A call, and how its reply reads where it is not a refusal."""
        return make_exchange(
            (_call((statement, args)), lambda reply: parse(reply) if type(reply) is list else self._refused(reply))
        )

    def _refused(self, refusal: Refusal) -> Ask[T]:
        """Raise what the refusal means; first ask what there is, where something seems to be missing."""
        if refusal.sqlstate not in MISSING:
            raise refusals.error(refusal, self._name, self._schema.grants)

        def parse(reply: Reply) -> T:
            if isinstance(reply, Refusal):
                raise self._missing("its table or functions")
            self._ready(reply)
            raise SchemaError(
                f"{self._name}: table {self._schema.qualified} has another shape than schema {VERSION} of idemstore "
                f"[{refusal.sqlstate}: {refusal.text}]: undo that change, or use another table (?table=...)"
            )

        return Exchange(Call(self._schema.inspect), parse)

    def _ready(self, cells: Cells) -> int:
        """The clock, or the error that says what is missing."""
        found = _inspection(cells)
        version = _version(found["comment"])
        if not found["table"]:
            raise self._missing(f"table {self._schema.qualified}")
        if found["functions"] < len(FUNCTIONS):
            if version is None:
                raise self._foreign()
            raise self._newer(version) if version > VERSION else self._missing(f"functions of schema {VERSION}")
        if not found["allowed"]:
            raise AccessDenied(f"{self._name}: the role lacks a permission; it needs: {self._schema.grants}")
        if found["read_only"]:
            raise StoreUnavailable(
                f"{self._name}: the server is read-only (a standby, or a primary that stepped down): try again"
            )
        return found["now"]

    def _missing(self, what: str) -> SchemaError:
        """Nobody has migrated, or an older version has."""
        return SchemaError(
            f"{self._name}: {what} not found in this database: run 'idemstore migrate URL' (or store.migrate(), or "
            f"open the store with ?migrate=1)"
        )

    def _newer(self, version: int) -> SchemaError:
        """A newer idemstore has migrated and dropped our functions."""
        return SchemaError(
            f"{self._name}: the database has schema {version} of idemstore, this version knows {VERSION}: "
            "upgrade idemstore here, or use another table (?table=...)"
        )

    def _foreign(self) -> SchemaError:
        """Somebody else's table."""
        return SchemaError(
            f"{self._name}: there is a table {self._schema.qualified} that idemstore has not made, or of another "
            "shape: use another table (?table=...)"
        )

    def _not_migrated(self, refusal: Refusal) -> IdemstoreError:
        """Why a migration was refused."""
        if refusal.sqlstate == NEWER:
            return self._newer(int(refusal.text))
        if refusal.sqlstate == FOREIGN:
            return self._foreign()
        return refusals.error(refusal, self._name, self._schema.grants_to_migrate)


def _first(cells: Cells) -> bytes:
    """The one value that a function answers."""
    frame = cells[0] if cells else None
    if frame is None:
        raise frames.misbehaved(frame)
    return frame


def _settled(cells: Cells) -> SettleOutcome:
    """A settled frame."""
    return frames.settled(_first(cells))


def _snapshot(cells: Cells) -> Snapshot | None:
    """One row of four cells, or none."""
    if not cells:
        return None
    fields, fingerprint, result, checkpoint = cells
    return frames.snapshot(fields or b"", fingerprint, result, checkpoint)


def busy(reply: Reply) -> dict[str, bytes | None]:
    """The keys that ``busy.sql`` has found, with the ends of back-offs. None where the server refused: each waiter then
    asks by itself.
    """
    if isinstance(reply, Refusal):
        return {}
    return {key.decode(): end for key, end in zip(reply[::2], reply[1::2], strict=True) if key is not None}


def _inspection(cells: Cells) -> Inspection:
    """What ``inspect.sql`` has found."""
    return cast("Inspection", json.loads(_first(cells)))


def _version(comment: str | None) -> int | None:
    """The version that a migration has noted on the table."""
    start, _, number = (comment or "").rpartition(" ")
    return int(number) if start == "idemstore schema" and number.isascii() and number.isdigit() else None
