"""Over a caller's own asyncpg connection: what is done there commits or rolls back with the caller.

Nothing is sent again here: whatever goes wrong, the caller's transaction is over, and only the caller can run it again.
"""

import time
from collections.abc import Sequence
from functools import partial

from idemstore.backends.postgresql import dialing
from idemstore.backends.postgresql.asyncpg import BROKEN, REFUSED, Connection, cells, refusal
from idemstore.backends.postgresql.carry import carry_many_async
from idemstore.backends.postgresql.dialect import Call, Reply
from idemstore.backends.postgresql.options import Target
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import IdemstoreError
from idemstore.flows import AsyncSleepWatch


class AsyncJoinedDriver:
    """A caller's connection. It is the caller's to commit, roll back and close."""

    def __init__(self, connection: Connection, target: Target, schema: Schema) -> None:
        self._connection, self._target, self._schema = connection, target, schema

    @property
    def in_transaction(self) -> bool:
        """As ``Joined``."""
        return self._connection.is_in_transaction()

    async def execute(self, request: Call, timeout: float) -> Reply:
        """Carry one call."""
        return await self._call(time.monotonic() + timeout, timeout, request)

    async def execute_many(self, requests: Sequence[Call], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many; see ``batches``."""
        return await carry_many_async(requests, self._schema, partial(self._call, time.monotonic() + timeout, timeout))

    async def _call(self, deadline: float, timeout: float, call: Call) -> Reply:
        """Once. At the deadline asyncpg cancels what it has sent, so that the caller can roll back."""
        left = max(0.001, deadline - time.monotonic())
        try:
            return cells(await self._connection.fetch(call.statement.sql, *call.args, timeout=left))
        except TimeoutError:
            raise dialing.late(self._target, timeout) from None
        except REFUSED as error:
            return refusal(error)
        except BROKEN as error:
            return refusal(error)

    def watch(self, key: str) -> AsyncSleepWatch:
        """Nobody notifies."""
        return AsyncSleepWatch()

    async def close(self) -> None:
        """The connection is the caller's."""
