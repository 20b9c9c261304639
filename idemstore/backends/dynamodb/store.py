"""The stores of this family: those of every family, and ``transact_item``."""

from collections.abc import Callable

from idemstore import checks
from idemstore.async_store import AsyncStore
from idemstore.backends.dynamodb.clock import ServerClock, local_clock
from idemstore.backends.dynamodb.dialect import DynamoDBDialect
from idemstore.backends.dynamodb.messages import Params, Reply, Request
from idemstore.checks import Duration
from idemstore.exchange import AsyncDriver, Driver
from idemstore.face import DAY
from idemstore.keys import KeyLike, encode_key
from idemstore.machine import Complete
from idemstore.store import Store


def _entry(
    dialect: DynamoDBDialect, clock: ServerClock, key: KeyLike, token: str, result: bytes, retention: Duration | None
) -> Params:
    """The entry for both modes."""
    limits = dialect.limits
    event = Complete(
        checks.token(token),
        checks.stored_bytes("result", result, limits.value_bytes),
        checks.retention(retention),
    )
    return dialect.transact(encode_key(key, limits.key_bytes), event, clock.read(local_clock()))


class DynamoDBStore(Store):
    """A sync store on DynamoDB."""

    def __init__(
        self,
        dialect: DynamoDBDialect,
        connect: Callable[[], Driver[Request, Reply]],
        clock: ServerClock,
        *,
        timeout: float,
        name: str,
    ) -> None:
        super().__init__(dialect, connect, timeout=timeout, name=name)
        self._table_dialect, self._clock = dialect, clock

    def transact_item(
        self, key: KeyLike, token: str, result: bytes, *, retention: Duration | None = DAY
    ) -> dict[str, object]:
        """The completion as an entry for ``TransactItems`` of the caller's own ``TransactWriteItems`` (low-level form).

        Sends nothing. The transaction succeeds as a whole or, where the token no longer owns the key, not at all: then
        the reason of this entry is ``ConditionalCheckFailed``. Call ``complete`` with the same arguments to learn which
        it is: ``Done``, it was stored before (by an earlier delivery of the transaction), or ``LeaseLost``.
        """
        return _entry(self._table_dialect, self._clock, key, token, result, retention)


class DynamoDBAsyncStore(AsyncStore):
    """An async store on DynamoDB."""

    def __init__(
        self,
        dialect: DynamoDBDialect,
        connect: Callable[[], AsyncDriver[Request, Reply]],
        clock: ServerClock,
        *,
        timeout: float,
        name: str,
    ) -> None:
        super().__init__(dialect, connect, timeout=timeout, name=name)
        self._table_dialect, self._clock = dialect, clock

    def transact_item(
        self, key: KeyLike, token: str, result: bytes, *, retention: Duration | None = DAY
    ) -> dict[str, object]:
        """As ``DynamoDBStore.transact_item``; no coroutine, since nothing is sent."""
        return _entry(self._table_dialect, self._clock, key, token, result, retention)
