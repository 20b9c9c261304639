"""Over a caller's own psycopg connection, sync or async: what is done there commits or rolls back with the caller.

Goes through psycopg's cursors, since they begin the transaction where the connection asks for that. Nothing is sent
again here: whatever goes wrong, the caller's transaction is over, and only the caller can run it again.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final, TypeVar

from psycopg import AsyncConnection, AsyncRawCursor, Connection, Error, RawCursor
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from idemstore.backends.postgresql import dialing
from idemstore.backends.postgresql.carry import carry_many, carry_many_async
from idemstore.backends.postgresql.dialect import Call, Reply
from idemstore.backends.postgresql.options import Target
from idemstore.backends.postgresql.refusals import LOST, Refusal
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import IdemstoreError
from idemstore.flows import AsyncSleepWatch, SleepWatch

T = TypeVar("T")

GRACE: Final = 0.5
"""Seconds that a call which came to its deadline takes at most to be cancelled, so that the caller can roll back."""

_LOOK: Final = 0.1


class _Expired(Exception):
    """The deadline has come."""


def _bounded(work: PQGen[T], deadline: float) -> PQGen[T]:
    """A generator of psycopg is sent nothing whenever nothing happened for a while: look at the clock then."""
    try:
        wait = next(work)
        while True:
            ready = yield wait
            if not ready and time.monotonic() >= deadline:
                raise _Expired
            wait = work.send(ready)
    except StopIteration as stop:
        value: T = stop.value
        return value


def _interval(deadline: float) -> float:
    """How often to look at the clock."""
    return max(0.001, min(_LOOK, deadline - time.monotonic()))


def _refusal(error: Error) -> Refusal:
    """An error of the server, or of the connection."""
    text = error.diag.message_primary or str(error)
    return Refusal(error.sqlstate or LOST, text)


class _Cursor(RawCursor[TupleRow]):
    """A cursor with a deadline."""

    def run(self, call: Call, deadline: float) -> bool:
        """Execute; False where the time was up."""
        work = self._execute_gen(call.statement.sql.encode(), call.args, prepare=True, binary=True)
        with self._conn.lock:
            try:
                self._conn.wait(_bounded(work, deadline), _interval(deadline))
            except _Expired:
                self._give_up(work)
                return False
        return True

    def _give_up(self, work: PQGen[None]) -> None:
        """Cancel, so that the connection can be rolled back; close it where even that takes too long."""
        end = time.monotonic() + GRACE
        try:
            self._conn.cancel_safe(timeout=GRACE)
            self._conn.wait(_bounded(work, end), _interval(end))
        except (Error, _Expired):
            if self._conn.info.transaction_status == TransactionStatus.ACTIVE:
                self._conn.close()


class _AsyncCursor(AsyncRawCursor[TupleRow]):
    """The same, async."""

    async def run(self, call: Call, deadline: float) -> bool:
        """Execute; False where the time was up."""
        work = self._execute_gen(call.statement.sql.encode(), call.args, prepare=True, binary=True)
        async with self._conn.lock:
            try:
                await self._conn.wait(_bounded(work, deadline), _interval(deadline))
            except _Expired:
                await self._give_up(work)
                return False
        return True

    async def _give_up(self, work: PQGen[None]) -> None:
        """As in sync mode."""
        end = time.monotonic() + GRACE
        try:
            await self._conn.cancel_safe(timeout=GRACE)
            await self._conn.wait(_bounded(work, end), _interval(end))
        except (Error, _Expired):
            if self._conn.info.transaction_status == TransactionStatus.ACTIVE:
                await self._conn.close()


class JoinedDriver:
    """A caller's connection, sync. It is the caller's to commit, roll back and close."""

    def __init__(self, connection: Connection[TupleRow], target: Target, schema: Schema) -> None:
        self._connection, self._target, self._schema = connection, target, schema

    @property
    def in_transaction(self) -> bool:
        """As ``Joined``: psycopg begins one by itself, but with ``autocommit``."""
        connection = self._connection
        return not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE

    def execute(self, request: Call, timeout: float) -> Reply:
        """Carry one call."""
        return self._call(time.monotonic() + timeout, timeout, request)

    def execute_many(self, requests: Sequence[Call], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many; see ``batches``."""
        return carry_many(requests, self._schema, partial(self._call, time.monotonic() + timeout, timeout))

    def _call(self, deadline: float, timeout: float, call: Call) -> Reply:
        """Once."""
        try:
            with _Cursor(self._connection) as cursor:
                if not cursor.run(call, deadline):
                    raise dialing.late(self._target, timeout)
                return _cells(cursor.fetchall() if cursor.description else [])
        except Error as error:
            return _refusal(error)

    def watch(self, key: str) -> SleepWatch:
        """Nobody notifies."""
        return SleepWatch()

    def close(self) -> None:
        """The connection is the caller's."""


class AsyncJoinedDriver:
    """A caller's connection, async."""

    def __init__(self, connection: AsyncConnection[TupleRow], target: Target, schema: Schema) -> None:
        self._connection, self._target, self._schema = connection, target, schema

    @property
    def in_transaction(self) -> bool:
        """As ``Joined``: psycopg begins one by itself, but with ``autocommit``."""
        connection = self._connection
        return not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE

    async def execute(self, request: Call, timeout: float) -> Reply:
        """Carry one call."""
        return await self._call(time.monotonic() + timeout, timeout, request)

    async def execute_many(self, requests: Sequence[Call], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many; see ``batches``."""
        return await carry_many_async(requests, self._schema, partial(self._call, time.monotonic() + timeout, timeout))

    async def _call(self, deadline: float, timeout: float, call: Call) -> Reply:
        """Once."""
        try:
            async with _AsyncCursor(self._connection) as cursor:
                if not await cursor.run(call, deadline):
                    raise dialing.late(self._target, timeout)
                return _cells(await cursor.fetchall() if cursor.description else [])
        except Error as error:
            return _refusal(error)

    def watch(self, key: str) -> AsyncSleepWatch:
        """Nobody notifies."""
        return AsyncSleepWatch()

    async def close(self) -> None:
        """The connection is the caller's."""


def _cells(rows: Sequence[TupleRow]) -> list[bytes | None]:
    """The cells, row after row."""
    return [cell for row in rows for cell in row]
