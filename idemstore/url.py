"""Store URLs: ``scheme[+driver]://[user[:password]@]host[:port][,host[:port]...]/path?option=value``.

Reads a URL once, keeps the password out of every ``repr`` and message, and turns options into the typed fields of a
family's ``Options`` class. An option that nobody reads is an error, not a surprise.
"""

import dataclasses
import math
import types
from typing import Final, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, unquote

from idemstore.errors import InvalidUrl, UnknownOption

MAX_TIMEOUT: Final = 3600.0


class Host(NamedTuple):
    """One server address; port None means the family's default."""

    name: str
    port: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed store URL. ``path`` is as written, unquoted, with its leading slash."""

    scheme: str
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    hosts: tuple[Host, ...] = ()
    path: str = ""
    query: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)

    @property
    def family(self) -> str:
        """The scheme without its driver."""
        return self.scheme.partition("+")[0]

    @property
    def driver(self) -> str | None:
        """The driver named in the scheme, if any."""
        return self.scheme.partition("+")[2] or None

    def __str__(self) -> str:
        """The URL for people: no password, and no option value, since some are secrets. A user without a password may
        be a password that lacks its colon.
        """
        user = "***" if self.username and self.password is None else self.username or ""
        secret = ":***" if self.password is not None else ""
        at = "@" if user or secret else ""
        hosts = ",".join(_host_text(host) for host in self.hosts)
        options = "?…" if self.query else ""
        return f"{self.scheme}://{user}{secret}{at}{hosts}{self.path}{options}"


def _host_text(host: Host) -> str:
    """``name[:port]``, with brackets around IPv6."""
    name = f"[{host.name}]" if ":" in host.name else host.name
    return name if host.port is None else f"{name}:{host.port}"


def parse_url(url: str) -> StoreUrl:
    """Read a store URL, or raise ``InvalidUrl``; the message never repeats the URL, which may hold a password."""
    if not isinstance(url, str):
        raise InvalidUrl(f"a store URL is a str such as 'sqlite:///idem.db', not {type(url).__name__}")
    try:
        url.encode()
    except UnicodeEncodeError:
        raise InvalidUrl("the store URL has a lone surrogate: it is no text; send valid Unicode") from None
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme or not scheme.replace("+", "").replace("-", "").isalnum():
        raise InvalidUrl("a store URL starts with 'scheme://', such as 'memory://' or 'redis://localhost:6379/0'")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    return StoreUrl(
        scheme=scheme.lower(),
        username=unquote(user) if at and user else None,
        password=unquote(password) if colon else None,
        hosts=tuple(_host(text) for text in hosts.split(",") if text),
        path=unquote(slash + path),
        query=tuple(_pairs(query)),
    )


def _pairs(query: str) -> list[tuple[str, str]]:
    """The options as written."""
    try:
        return parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise InvalidUrl("the options of the store URL (behind '?') do not read as name=value&name=value") from None


def _host(text: str) -> Host:
    """One ``name[:port]``."""
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InvalidUrl("an IPv6 host in a store URL reads [address]:port")
        port = port[1:]
    else:
        name, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise InvalidUrl(
            "a port in the store URL is not a number from 1 to 65535 (is an '@' or ':' missing its %-escape?)"
        )
    return Host(unquote(name), int(port) if port else None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every store URL may carry; a family's options are a frozen dataclass that inherits these.

    Field types may be str, int, float, bool and ``X | None``; ``metadata={"min": ..., "max": ...}`` bounds numbers.
    """

    timeout: float = dataclasses.field(default=5.0, metadata={"min": 0.001, "max": MAX_TIMEOUT})
    """Seconds that one call may take in all: connection, network, re-sends. Waiting for another caller comes on top."""
    coalesce: bool | None = None
    """Whether concurrent calls of an async store leave as batches; None: where it wins. Sync stores never do that."""
    local_cache: int = dataclasses.field(default=0, metadata={"min": 0, "max": 10_000_000})
    """How many finished records the store may keep in memory, to replay them without asking the server; 0: none."""


Opts = TypeVar("Opts", bound=Options)


def read_options(url: StoreUrl, kind: type[Opts]) -> Opts:
    """The options of ``url`` as a ``kind``, or raise ``UnknownOption``."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    values: dict[str, str | int | float | bool] = {}
    for name, text in url.query:
        if name not in fields:
            raise UnknownOption(f"{url.scheme}:// has no option {name!r}{_suggest(name, fields)}")
        if name in values:
            raise UnknownOption(f"option {name!r} of {url.scheme}:// is given twice: keep one")
        values[name] = _convert(name, text, hints[name], fields[name].metadata)
    made: Opts = dataclasses.replace(kind(), **values)  # type: ignore[arg-type]
    return made


def common_options(url: StoreUrl) -> Options:
    """The options that every store URL may carry; those of the family have been read by the family."""
    common = {field.name for field in dataclasses.fields(Options)}
    return read_options(dataclasses.replace(url, query=tuple(pair for pair in url.query if pair[0] in common)), Options)


def _suggest(name: str, known: dict[str, dataclasses.Field[object]]) -> str:
    """The end of an error about an unknown option."""
    import difflib  # only errors need it

    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f"; it knows {', '.join(sorted(known))}"


def _convert(
    name: str, text: str, hint: object, bounds: types.MappingProxyType[object, object]
) -> str | int | float | bool:
    """One option from text to the type of its field."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if bool in kinds:
        flags = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if text.lower() not in flags:
            raise UnknownOption(f"option {name!r} is a switch: give 1 or 0")
        return flags[text.lower()]
    if int in kinds or float in kinds:
        return _number(name, text, int if int in kinds else float, bounds)
    return text


def _number(
    name: str, text: str, kind: type[int] | type[float], bounds: types.MappingProxyType[object, object]
) -> int | float:
    """A number within its bounds."""
    low, high = bounds.get("min", -math.inf), bounds.get("max", math.inf)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        what = "a whole number" if kind is int else "a number"
        raise UnknownOption(f"option {name!r} is {what} from {low:g} to {high:g}")
    return number
