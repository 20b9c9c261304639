"""From a URL to a store: which backend serves which scheme.

Looked up in this order: registered in this process (``register``), built in, entry points of the group
``idemstore.drivers``. All are strings ``"module:attribute"`` that are imported when a URL asks for them, not before.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from idemstore.errors import ConfigurationError, MissingPackage, UnknownScheme

if TYPE_CHECKING:
    from idemstore.async_store import AsyncStore
    from idemstore.store import Store
    from idemstore.url import StoreUrl

ENTRY_POINTS: Final = "idemstore.drivers"

BUILT_IN: Final = {
    "memory": "idemstore.backends.memory:backend",
    "sqlite": "idemstore.backends.sqlite:backend",
    "redis": "idemstore.backends.redis:backend",
    "rediss": "idemstore.backends.redis:backend",
    "unix": "idemstore.backends.redis:backend",
    "redis+unix": "idemstore.backends.redis:backend",
    "redis+cluster": "idemstore.backends.redis:backend",
    "rediss+cluster": "idemstore.backends.redis:backend",
    "redis+sentinel": "idemstore.backends.redis:backend",
    "rediss+sentinel": "idemstore.backends.redis:backend",
    "valkey": "idemstore.backends.redis:backend",
    "valkeys": "idemstore.backends.redis:backend",
    "valkey+unix": "idemstore.backends.redis:backend",
    "valkey+cluster": "idemstore.backends.redis:backend",
    "valkeys+cluster": "idemstore.backends.redis:backend",
    "valkey+sentinel": "idemstore.backends.redis:backend",
    "valkeys+sentinel": "idemstore.backends.redis:backend",
    "dynamodb": "idemstore.backends.dynamodb:backend",
    "dynamodb+http": "idemstore.backends.dynamodb:backend",
    "dynamodb+boto3": "idemstore.backends.dynamodb:backend",
    "dynamodb+aiobotocore": "idemstore.backends.dynamodb:backend",
    "postgresql": "idemstore.backends.postgresql:backend",
    "postgresql+asyncpg": "idemstore.backends.postgresql:backend",
    "postgresql+psycopg": "idemstore.backends.postgresql:backend",
    "postgres": "idemstore.backends.postgresql:backend",
    "postgres+asyncpg": "idemstore.backends.postgresql:backend",
    "postgres+psycopg": "idemstore.backends.postgresql:backend",
    "mongodb": "idemstore.backends.mongodb:backend",
    "mongodb+srv": "idemstore.backends.mongodb:backend",
    "mongodb+motor": "idemstore.backends.mongodb:backend",
    "mongodb+srv+motor": "idemstore.backends.mongodb:backend",
}

_registered: Final[dict[str, str]] = {}


@runtime_checkable
class Backend(Protocol):
    """What a registry entry names. Neither method connects; both check everything that can be checked without."""

    def open(self, url: "StoreUrl") -> "Store":
        """A sync store, or ``UnsupportedMode``."""
        ...

    def open_async(self, url: "StoreUrl") -> "AsyncStore":
        """An async store, or ``UnsupportedMode``."""
        ...


def register(scheme: str, target: str) -> None:
    """Let ``scheme`` be served by ``target`` (``"module:attribute"`` of a ``Backend``) in this process."""
    module, colon, attribute = target.partition(":")
    if not (scheme and module and colon and attribute):
        raise ConfigurationError("register takes a scheme and 'module:attribute', such as 'my_package.backend:backend'")
    _registered[scheme.lower()] = target


def open(url: str) -> "Store":  # noqa: A001 - the field's word, as in dbm.open and fsspec.open
    """Open a sync store by URL. Nothing connects before the first call; every error in the URL is raised here."""
    from idemstore.url import common_options

    parsed, backend = _find(url)
    return backend.open(parsed)._configure(common_options(parsed))


def open_async(url: str) -> "AsyncStore":
    """Open an async store by URL; not a coroutine. It binds to the event loop that first uses it."""
    from idemstore.url import common_options

    parsed, backend = _find(url)
    return backend.open_async(parsed)._configure(common_options(parsed))


def schemes() -> list[str]:
    """Every scheme that ``open`` knows now."""
    return sorted({*_registered, *BUILT_IN, *_entry_points()})


def _entry_points() -> dict[str, str]:
    """What installed packages offer."""
    import importlib.metadata  # slow to import, and seldom needed

    return {point.name.lower(): point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _find(url: str) -> tuple["StoreUrl", Backend]:
    """The URL as read, and the backend of its scheme."""
    from idemstore.url import parse_url  # not before a URL is opened

    parsed = parse_url(url)
    scheme = parsed.scheme
    target = _registered.get(scheme) or BUILT_IN.get(scheme) or _entry_points().get(scheme)
    if target is None:
        known = schemes()
        import difflib  # only errors need it

        close = difflib.get_close_matches(scheme, known, n=1)
        hint = f"did you mean {close[0]}://? " if close else ""
        raise UnknownScheme(f"no backend serves {scheme}://; {hint}known schemes: {', '.join(known)}")
    module, _, attribute = target.partition(":")
    try:
        backend = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"the backend of {scheme}:// ({target}) cannot be loaded: {error}") from error
    if not isinstance(backend, Backend):
        raise ConfigurationError(f"the backend of {scheme}:// ({target}) has no open and open_async: it is no Backend")
    return parsed, backend


def need(module: str, extra: str) -> ModuleType:
    """Import a client library, or raise ``MissingPackage`` with the exact command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise MissingPackage(
            f"the package {module.partition('.')[0]!r} is not installed: pip install 'idemstore[{extra}]'"
        ) from error
