"""``store.on(connection)``: which driver goes over which connection. Imports no client that the caller has not."""

import sys
from typing import cast

from idemstore.backends.postgresql.dialect import Call, Reply
from idemstore.backends.postgresql.options import Target
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import UnsupportedMode
from idemstore.exchange import AsyncDriver, Driver


def join(connection: object, target: Target, schema: Schema) -> Driver[Call, Reply]:
    """A sync driver over a psycopg connection."""
    if "psycopg" in sys.modules:
        from psycopg import Connection

        from idemstore.backends.postgresql.psycopg_joined import JoinedDriver

        if isinstance(connection, Connection):
            return JoinedDriver(connection, target, schema)
    raise UnsupportedMode(f"on() of a sync store takes a psycopg.Connection, not {_named(connection)}")


def join_async(connection: object, target: Target, schema: Schema) -> AsyncDriver[Call, Reply]:
    """An async driver over an asyncpg or psycopg connection, whichever the store itself uses."""
    if "asyncpg" in sys.modules:
        import asyncpg  # type: ignore[import-untyped, unused-ignore]
        from asyncpg.pool import PoolConnectionProxy  # type: ignore[import-untyped, unused-ignore]

        from idemstore.backends.postgresql import asyncpg as line
        from idemstore.backends.postgresql import asyncpg_joined

        if isinstance(connection, (asyncpg.Connection, PoolConnectionProxy)):
            return asyncpg_joined.AsyncJoinedDriver(cast("line.Connection", connection), target, schema)
    if "psycopg" in sys.modules:
        from psycopg import AsyncConnection

        from idemstore.backends.postgresql import psycopg_joined

        if isinstance(connection, AsyncConnection):
            return psycopg_joined.AsyncJoinedDriver(connection, target, schema)
    raise UnsupportedMode(
        "on() of an async store takes an asyncpg.Connection (or one from its pool) or a psycopg.AsyncConnection, "
        f"not {_named(connection)}"
    )


def _named(connection: object) -> str:
    """For messages."""
    kind = type(connection)
    return f"{kind.__module__}.{kind.__qualname__}"
