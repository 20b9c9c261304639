"""Where a store URL leads: whether its server is this machine's own, and whether a proxy can stand before it."""

import ipaddress
import os
from typing import Final

from idemstore.errors import InvalidInput
from idemstore.url import StoreUrl, parse_url

PORTS: Final = {"redis": 6379, "valkey": 6379, "postgresql": 5432, "postgres": 5432, "mongodb": 27017, "dynamodb": 80}
INSIDE: Final = ("memory", "sqlite")
TLS_MODES: Final = ("require", "verify-ca", "verify-full")


def loopback(host: str) -> bool:
    """Whether a host is this machine: a name for it, an address, or the path of a Unix socket."""
    if host.startswith("/") or host.lower() in ("localhost", "ip6-localhost") or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def remote(url: str) -> bool:
    """Whether benchmarking the URL puts load on another machine."""
    parsed = parse_url(url)
    named = [host.name for host in parsed.hosts]
    options = dict(parsed.query)
    match parsed.family:
        case "memory" | "sqlite" | "unix":
            return False
        case "dynamodb":
            endpoint = options.get("endpoint", "").partition("://")[2]
            named += [parse_url(f"endpoint://{endpoint}").hosts[0].name] if endpoint else []
            return not named or not all(map(loopback, named))  # without a host it is AWS
        case "postgresql" | "postgres" if not named:
            named = [options.get("host") or os.environ.get("PGHOST") or "localhost"]
    return not all(map(loopback, named))


def obstacle(url: str) -> str | None:
    """Why no proxy can stand between client and server; None where one can."""
    parsed = parse_url(url)
    options = dict(parsed.query)
    if parsed.family in INSIDE:
        return f"{parsed.family}:// has no network to it"
    if parsed.family in ("rediss", "valkeys") or options.get("sslmode") in TLS_MODES or _on(options, "tls", "ssl"):
        return "the client speaks TLS to the server itself"
    driver = parsed.driver or ""
    if driver in ("cluster", "sentinel") or driver.startswith("srv"):
        return "the client asks for the servers' own addresses and goes there, past a proxy"
    if parsed.family not in PORTS or "unix" in driver:
        return "it is no TCP connection that this command knows"
    if parsed.family == "dynamodb" and driver != "http":
        return "the client speaks TLS to the server itself (dynamodb+http:// does not)"
    if len(parsed.hosts) > 1 or "host" in options:
        return "the URL must name one host and port"
    if parsed.family == "mongodb" and not _on(options, "directConnection"):
        return "the client goes to where the replica set says it is, past a proxy: add directConnection=true"
    return None


def _on(options: dict[str, str], *names: str) -> bool:
    """Whether a switch is on."""
    return any(options.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def upstream(url: str) -> tuple[str, int]:
    """Host and port."""
    parsed = parse_url(url)
    host = parsed.hosts[0].name if parsed.hosts else "127.0.0.1"
    return host, (parsed.hosts[0].port if parsed.hosts else None) or PORTS[parsed.family]


def through(url: str, port: int) -> str:
    """The same URL by way of a port of this machine."""
    scheme, _, rest = url.partition("://")
    rest, question, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    user, at, _ = authority.rpartition("@")
    return f"{scheme}://{user}{at}127.0.0.1:{port}{slash}{path}{question}{query}"


SHOWN: Final = (
    "coalesce",
    "collection",
    "in_place",
    "local_cache",
    "max_connections",
    "notify",
    "pgbouncer",
    "pool",
    "replicas",
    "synchronous",
)
"""Options that are no secret and make a difference."""


def label(url: str) -> str:
    """A URL for people, short: without secrets, but with the options that tell two of them apart."""
    parsed = parse_url(url)
    told = [f"{name}={value}" for name, value in parsed.query if name in SHOWN]
    shown = str(StoreUrl(parsed.scheme, hosts=parsed.hosts, path=parsed.path))
    return f"{shown}?{'&'.join(told)}" if told else shown


def check_urls(urls: list[str], *, latency: float, yes: bool) -> None:
    """Refuse what must not or cannot be measured."""
    for url in urls:
        if remote(url) and not yes:
            raise InvalidInput(
                f"{label(url)} is not on this machine, and a benchmark is heavy load: "
                "give --yes if nobody minds, or name a server of your own"
            )
        reason = obstacle(url) if latency else None
        if reason is not None:
            raise InvalidInput(f"--added-latency cannot be had for {label(url)}: {reason}")
