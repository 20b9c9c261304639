"""PostgreSQL 12 and newer, by asyncpg or psycopg 3.

    postgresql://[user:password@]host[:port][,host[:port]...]/database     postgres:// means the same
    postgresql+asyncpg://...    async only; what open_async takes by default
    postgresql+psycopg://...    sync and async; what open takes by default

One record is one row, every operation one call of a function and one round trip; see docs/postgresql.md for what that
guarantees. The functions are installed by ``store.migrate()``, ``idemstore migrate URL`` or ``?migrate=1``.
"""

from typing import TYPE_CHECKING, Final

from idemstore.backends.postgresql.batches import step_key
from idemstore.backends.postgresql.dialect import Call, PostgresqlDialect, Reply
from idemstore.backends.postgresql.options import read_target
from idemstore.backends.postgresql.schema import Schema
from idemstore.errors import MissingPackage, UnsupportedMode
from idemstore.registry import need
from idemstore.store import Store
from idemstore.url import StoreUrl

if TYPE_CHECKING:
    from idemstore.async_store import AsyncStore
    from idemstore.backends.postgresql.migrating import AsyncMigrated
    from idemstore.backends.postgresql.options import Target
    from idemstore.exchange import AsyncDriver, Driver

EXTRA: Final = "postgresql"
OLDEST: Final = {"asyncpg": (0, 29), "psycopg": (3, 2)}


class PostgresqlBackend:
    """Serves all PostgreSQL URLs. A client library is imported when a URL asks for it."""

    def open(self, url: StoreUrl) -> Store:
        """A sync store, on psycopg."""
        if url.driver == "asyncpg":
            raise UnsupportedMode(
                "asyncpg has no sync form: open 'postgresql+psycopg://' (or 'postgresql://'), or use open_async"
            )
        target, schema = read_target(url)
        _client("psycopg")
        from idemstore.backends.postgresql.joined import join
        from idemstore.backends.postgresql.migrating import MigratingDriver
        from idemstore.backends.postgresql.psycopg import PsycopgDriver

        dialect = _dialect(target, schema)

        def connect() -> "Driver[Call, Reply]":
            driver = PsycopgDriver(target, schema)
            return MigratingDriver(driver, dialect) if target.options.migrate else driver

        return Store(
            dialect,
            connect,
            timeout=target.options.timeout,
            name=target.name,
            join=lambda connection: join(connection, target, schema),
        )

    def open_async(self, url: StoreUrl) -> "AsyncStore":
        """An async store, on asyncpg unless the URL says psycopg."""
        target, schema = read_target(url)
        _client("psycopg" if url.driver == "psycopg" else "asyncpg")
        from idemstore.async_store import AsyncStore
        from idemstore.backends.postgresql.joined import join_async
        from idemstore.backends.postgresql.migrating import AsyncMigratingDriver
        from idemstore.coalesce import Coalescing

        dialect = _dialect(target, schema)

        def connect() -> "AsyncDriver[Call, Reply]":
            driver = _async_driver(url.driver, target, schema)
            return AsyncMigratingDriver(driver, dialect) if target.options.migrate else driver

        return AsyncStore(
            dialect,
            connect,
            timeout=target.options.timeout,
            name=target.name,
            join=lambda connection: join_async(connection, target, schema),
            coalesce=Coalescing(step_key, width=2),
        )


def _client(name: str) -> None:
    """The client library, not too old; psycopg also needs libpq, which its extra ``binary`` brings."""
    try:
        module = need(name, EXTRA)
    except MissingPackage:
        raise
    except ImportError as error:
        raise MissingPackage(f"{name} cannot be imported ({error}): pip install 'idemstore[{EXTRA}]'") from error
    version = tuple(int(part) for part in module.__version__.split(".")[:2])
    if version < OLDEST[name]:
        needed = ".".join(map(str, OLDEST[name]))
        raise MissingPackage(f"{name} {module.__version__} is too old, {needed} is needed: pip install -U {name}")


def _dialect(target: "Target", schema: Schema) -> PostgresqlDialect:
    """What both modes say."""
    return PostgresqlDialect(schema, target.name, target.options.max_result)


def _async_driver(name: str | None, target: "Target", schema: Schema) -> "AsyncMigrated":
    """The driver that the URL names."""
    if name == "psycopg":
        from idemstore.backends.postgresql.psycopg_async import AsyncPsycopgDriver

        return AsyncPsycopgDriver(target, schema)
    from idemstore.backends.postgresql.asyncpg import AsyncpgDriver

    return AsyncpgDriver(target, schema)


backend: Final = PostgresqlBackend()
