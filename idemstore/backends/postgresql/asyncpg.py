"""The async driver on asyncpg. I/O only."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final, Protocol, cast
from urllib.parse import urlencode

import asyncpg  # type: ignore[import-untyped, unused-ignore]

from idemstore.backends.postgresql import dialing
from idemstore.backends.postgresql.alarm import Alarm
from idemstore.backends.postgresql.async_driver import AsyncPooledDriver
from idemstore.backends.postgresql.dialect import Arg, Call, Reply
from idemstore.backends.postgresql.dialing import Host
from idemstore.backends.postgresql.options import Target
from idemstore.backends.postgresql.pool import Place
from idemstore.backends.postgresql.refusals import LOST, Refusal
from idemstore.backends.postgresql.schema import Schema, Statement


class _Statement(Protocol):
    """What we use of asyncpg's prepared statements."""

    async def fetch(self, *args: Arg) -> Sequence[Iterable[bytes | None]]:
        """Execute it."""
        ...


class Connection(Protocol):
    """What we use of asyncpg's connections."""

    async def prepare(self, query: str, *, name: str) -> _Statement:
        """Prepare a statement, by no name where that is empty."""
        ...

    async def fetch(self, query: str, *args: Arg, timeout: float | None = None) -> Sequence[Iterable[bytes | None]]:
        """Execute a statement."""
        ...

    async def add_listener(self, channel: str, callback: Callable[["Connection", int, str, str], None]) -> None:
        """Listen."""
        ...

    def add_termination_listener(self, callback: Callable[["Connection"], None]) -> None:
        """Be told when the connection ends."""
        ...

    def is_in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def terminate(self) -> None:
        """Close the socket."""
        ...


REFUSED: Final = cast("type[Exception]", asyncpg.PostgresError)
BROKEN: Final = cast("tuple[type[Exception], ...]", (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError))


def refusal(error: Exception) -> Refusal:
    """An error of the server, or of a connection that broke."""
    state = cast("str | None", getattr(error, "sqlstate", None))
    text = str(error.args[0]) if error.args else type(error).__name__
    return Refusal(state or LOST, text)


def cells(rows: Sequence[Iterable[bytes | None]]) -> list[bytes | None]:
    """The cells, row after row."""
    return list(chain.from_iterable(rows))


class AsyncpgLine:
    """A connection, and the statements that it has prepared."""

    def __init__(self, connection: Connection, *, named: bool) -> None:
        self.used = time.monotonic()
        self.place: Place | None = None
        self._connection = connection
        self._prefix = "idemstore_" if named else ""
        self._statements: dict[str, _Statement] = {}
        self._alarm = Alarm(self._expire)
        self._late = False

    async def say(self, call: Call, deadline: float) -> Reply | None:
        """Say a call and wait for its reply; None where the time is up. Whoever stops waiting must close the line.

        A statement is prepared once per connection (two round trips then). Behind a pooler it has no name: asyncpg then
        sends it along with every execution, in the same round trip.
        """
        self._alarm.set(deadline)
        self._late = False  # it may have rung for the call before, in the moment when that was answered
        try:
            statement = self._statements.get(call.statement.name)
            if statement is None:
                statement = await self._prepare(call.statement)
            return cells(await statement.fetch(*call.args))
        except REFUSED as error:
            return None if self._late else refusal(error)
        except BROKEN as error:
            return None if self._late else refusal(error)
        finally:
            self._alarm.clear()

    async def listen(
        self, schema: Schema, heard: Callable[[str], None], lost: Callable[[], None], deadline: float
    ) -> Reply | None:
        """Begin to listen."""
        self._connection.add_termination_listener(lambda _: lost())
        try:
            async with asyncio.timeout(_left(deadline)):
                await self._connection.add_listener(schema.channel, lambda *said: heard(said[3]))
        except TimeoutError:
            return None
        except REFUSED as error:
            return refusal(error)
        except BROKEN as error:
            return refusal(error)
        return []

    def _expire(self) -> None:
        """The time is up: whatever asyncpg waits for comes to an end with the connection."""
        self._late = True
        self._connection.terminate()

    async def _prepare(self, statement: Statement) -> _Statement:
        """By its own name. asyncpg without a statement cache would prepare it without one, and again at every call."""
        name = f"{self._prefix}{statement.name}" if self._prefix else ""
        prepared = await self._connection.prepare(statement.sql, name=name)
        self._statements[statement.name] = prepared
        return prepared

    def close(self) -> None:
        """End the connection, without waiting for the server."""
        self._alarm.stop()
        self._connection.terminate()


def _left(deadline: float) -> float:
    """What asyncpg takes as a time-out."""
    return max(0.001, deadline - time.monotonic())


class AsyncpgDriver(AsyncPooledDriver[AsyncpgLine]):
    """A pool of lines."""

    async def _reach(self, host: Host, deadline: float, timeout: float) -> AsyncpgLine:
        """A connection to one host; asyncpg tries its addresses."""
        named = not self._target.options.pgbouncer
        try:
            async with asyncio.timeout(_left(deadline)):
                connection = await connect(self._target, host, timeout)
        except TimeoutError:
            raise dialing.silent(self._target, host) from None
        except REFUSED as error:
            raise dialing.refused(self._target, refusal(error)) from error
        except BROKEN as error:
            raise dialing.refused(self._target, refusal(error)) from error
        return AsyncpgLine(connection, named=named)


async def connect(target: Target, host: Host, timeout: float) -> Connection:
    """A connection of asyncpg. Its statement cache is off: statements are kept with the line."""
    options = target.options
    settings = {"application_name": options.application_name, "options": target.startup(timeout)}
    return cast(
        "Connection",
        await asyncpg.connect(
            dsn=f"postgresql:///?{urlencode(target.ssl)}" if target.ssl else None,
            host=host.name,
            port=host.port,
            user=target.user,
            password=target.password,
            database=target.database,
            statement_cache_size=0,
            server_settings={name: value for name, value in settings.items() if value},
            target_session_attrs=None if options.target_session_attrs == "any" else options.target_session_attrs,
        ),
    )
