"""The options of a MongoDB URL, and the client's keyword arguments. Pure: no client library.

Names that MongoDB's own connection strings have are spelt and meant as there.
"""
# ruff: noqa: N815 - MongoDB's names

from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple, TypeAlias

from idemstore.backends.mongodb.dialect import VALUE_BYTES
from idemstore.errors import InvalidUrl, UnknownOption
from idemstore.url import Host, Options, StoreUrl

Setting: TypeAlias = str | int | bool


class Settings(NamedTuple):
    """What a client of either mode is made from. Holds the password: never show it."""

    host: str | list[str]
    options: dict[str, Setting]

    def __repr__(self) -> str:
        """Nothing that could be secret."""
        return f"Settings({self.host!r})"


SRV: Final = "srv"
DEFAULT_DATABASE: Final = "idemstore"
LOCAL: Final = ("admin", "config", "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoOptions(Options):
    """Options of ``mongodb://`` and ``mongodb+motor://``."""

    collection: str = "idemstore"
    max_result: int = field(default=VALUE_BYTES, metadata={"min": 1, "max": VALUE_BYTES})
    """Largest result or checkpoint, bytes."""

    w: str = "majority"
    """Fixed: with less, an election may undo what a caller was told."""
    readPreference: str = "primary"
    """Fixed: a secondary lags behind."""
    journal: bool = False
    """Wait until a majority has it on disk, also where the replica set's default is less."""

    replicaSet: str | None = None
    directConnection: bool | None = None
    loadBalanced: bool | None = None
    authSource: str | None = None
    authMechanism: str | None = None
    authMechanismProperties: str | None = None
    tls: bool | None = None
    ssl: bool | None = None
    tlsCAFile: str | None = None
    tlsCertificateKeyFile: str | None = None
    tlsCertificateKeyFilePassword: str | None = None
    tlsAllowInvalidCertificates: bool | None = None
    tlsAllowInvalidHostnames: bool | None = None
    appName: str | None = None
    maxPoolSize: int | None = field(default=None, metadata={"min": 1, "max": 10_000})
    minPoolSize: int | None = field(default=None, metadata={"min": 0, "max": 10_000})
    maxConnecting: int | None = field(default=None, metadata={"min": 1, "max": 1000})
    maxIdleTimeMS: int | None = field(default=None, metadata={"min": 1, "max": 2**31 - 1})
    connectTimeoutMS: int | None = field(default=None, metadata={"min": 1, "max": 3_600_000})
    serverSelectionTimeoutMS: int | None = field(default=None, metadata={"min": 1, "max": 3_600_000})
    heartbeatFrequencyMS: int | None = field(default=None, metadata={"min": 500, "max": 3_600_000})
    compressors: str | None = None
    srvServiceName: str | None = None
    srvMaxHosts: int | None = field(default=None, metadata={"min": 0, "max": 1000})
    retryWrites: bool | None = None
    """Taken because connection strings have it; without effect, see docs/mongodb.md."""
    retryReads: bool | None = None
    """As ``retryWrites``."""


_OURS: Final = frozenset(
    {"collection", "max_result", "w", "readPreference", "journal", "retryWrites", "retryReads", "authSource"}
) | {item.name for item in fields(Options)}
"""What PyMongo is not given, or not as it stands."""


def database(url: StoreUrl) -> str:
    """The database that the URL names, or refuse it."""
    name = url.path.removeprefix("/")
    if not name:
        return DEFAULT_DATABASE
    if len(name.encode()) > 63 or any(character in '/\\. "$*<>:|?' for character in name):
        raise InvalidUrl(f'{url.scheme}:// takes one database name behind the hosts: 1 to 63 bytes, no /\\. "$*<>:|?')
    if name in LOCAL:
        raise InvalidUrl(f"the database {name!r} is MongoDB's own: name another one behind the hosts")
    return name


def check(url: StoreUrl, options: MongoOptions) -> None:
    """Refuse what only looks like a choice."""
    if options.w != "majority":
        raise UnknownOption("w is always 'majority' here: with less, an election may undo what a caller was told")
    if options.readPreference != "primary":
        raise UnknownOption("readPreference is always 'primary' here: a secondary lags behind")
    name = options.collection
    if not name or "$" in name or "\0" in name or name[0] == "." or name[-1] == "." or name.startswith("system."):
        raise UnknownOption("collection is a name without $, not beginning with 'system.', nor with or ending in a dot")
    if (url.driver or "").startswith(SRV) and (len(url.hosts) != 1 or url.hosts[0].port is not None):
        raise InvalidUrl(f"{url.scheme}:// takes one host name without a port: DNS names the servers")


def settings(url: StoreUrl, options: MongoOptions) -> Settings:
    """What to make a client from."""
    given = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in _OURS}
    # Nothing that this store sends is a "retryable write" of MongoDB's: repeating it is safe anyway, and cheaper.
    known: dict[str, Setting] = {"appName": "idemstore", "retryWrites": False, "retryReads": False}
    known |= {name: value for name, value in given.items() if value is not None}
    if url.username is not None:
        known["username"] = url.username
    if url.password is not None:
        known["password"] = url.password
    source = options.authSource or (url.path.removeprefix("/") if url.username is not None else "")
    if source:
        known["authSource"] = source
    if (url.driver or "").startswith(SRV):
        return Settings(f"mongodb+srv://{url.hosts[0].name}/", known)
    return Settings([_address(host) for host in url.hosts] or ["localhost"], known)


def _address(host: Host) -> str:
    """One address, as the client takes it; a path is a Unix socket."""
    if host.name.startswith("/"):
        return host.name
    name = f"[{host.name}]" if ":" in host.name else host.name
    return name if host.port is None else f"{name}:{host.port}"
