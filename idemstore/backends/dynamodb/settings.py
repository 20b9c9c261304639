"""What a ``dynamodb`` URL says: table, region, endpoint, profile, and whose credentials. Imports no client."""

from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import urlsplit

from idemstore.errors import InvalidUrl, UnsupportedMode
from idemstore.url import Host, Options, StoreUrl, read_options

Mode = Literal["sync", "async"]

HOW: Final = (
    "a DynamoDB store URL reads dynamodb:///TABLE?region=REGION, or dynamodb://HOST[:PORT]/TABLE?region=REGION for "
    "another endpoint (dynamodb+http://... without TLS)"
)
RETRIES: Final = 3
"""How often botocore sends again what failed, besides the first time."""
USER_AGENT: Final = "idemstore botocore"
"""botocore would put its own together anew for each request, which takes a tenth of a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoDBOptions(Options):
    """Options of ``dynamodb://``."""

    region: str | None = None
    """AWS region; without it, what the profile or the environment says."""
    profile: str | None = None
    """Named profile of the AWS configuration files."""
    endpoint: str | None = None
    """Endpoint as a whole URL, where it does not stand in the place of the host."""
    margin: float = field(default=0.5, metadata={"min": 0.0, "max": 60.0})
    """How far a server's ``Date`` header may be off beyond its one-second resolution, either way (seconds)."""
    max_result: int = field(default=4 * 2**20, metadata={"min": 1, "max": 64 * 2**20})
    """Largest result, bytes."""
    in_place: int = field(default=390_000, metadata={"min": 0, "max": 390_000})
    """Results up to this size lie in the record itself, larger ones in parts beside it (bytes)."""
    connections: int = field(default=64, metadata={"min": 1, "max": 1000})
    """Connections that one store opens at most, and so how many calls it has under way at once."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a driver needs. The ``repr`` shows no credentials."""

    table: str
    region: str | None
    profile: str | None
    endpoint: str | None
    timeout: float
    connections: int
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


def read_settings(url: StoreUrl, mode: Mode) -> tuple[DynamoDBOptions, Settings]:
    """Read a URL, or raise ``InvalidUrl``, ``UnknownOption`` or ``UnsupportedMode``."""
    _check_mode(url, mode)
    options = read_options(url, DynamoDBOptions)
    table = url.path.removeprefix("/")
    if not (
        3 <= len(table) <= 255
        and table.isascii()
        and table.replace("_", "").replace("-", "").replace(".", "").isalnum()
    ):
        raise InvalidUrl(f"{HOW}; a table's name is 3 to 255 letters, digits, '_', '-' and '.'")
    if (url.username is None) != (url.password is None) or url.username == "" or url.password == "":
        raise InvalidUrl(
            "credentials in a DynamoDB store URL read ACCESS_KEY_ID:SECRET@ (better: a profile, or a role)"
        )
    return options, Settings(
        table,
        options.region,
        options.profile,
        _endpoint(url, options),
        options.timeout,
        options.connections,
        url.username,
        url.password,
    )


def shown(url: StoreUrl) -> str:
    """The URL for people: without the access key id, too."""
    return str(replace(url, username=None, password=None))


def _check_mode(url: StoreUrl, mode: Mode) -> None:
    """A driver named in the scheme has one mode only."""
    if url.driver == "boto3" and mode == "async":
        raise UnsupportedMode("dynamodb+boto3:// is sync: use open(), or dynamodb+aiobotocore:// with open_async()")
    if url.driver == "aiobotocore" and mode == "sync":
        raise UnsupportedMode("dynamodb+aiobotocore:// is async: use open_async(), or dynamodb+boto3:// with open()")


def _endpoint(url: StoreUrl, options: DynamoDBOptions) -> str | None:
    """The endpoint's URL; None: AWS's own for the region."""
    if len(url.hosts) > 1:
        raise InvalidUrl(HOW)
    if url.hosts and options.endpoint is not None:
        raise InvalidUrl("the store URL names an endpoint twice: keep its host or its option 'endpoint'")
    if url.hosts:
        return ("http://" if url.driver == "http" else "https://") + _netloc(url.hosts[0])
    if url.driver == "http" and options.endpoint is None:
        raise InvalidUrl("dynamodb+http:// needs a host: dynamodb+http://127.0.0.1:8000/TABLE?region=REGION")
    if options.endpoint is not None:
        parts = urlsplit(options.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise InvalidUrl("option 'endpoint' is an http:// or https:// URL without credentials")
    return options.endpoint


def _netloc(host: Host) -> str:
    """``name[:port]``."""
    name = f"[{host.name}]" if ":" in host.name else host.name
    return name if host.port is None else f"{name}:{host.port}"
