"""What redis-py is given to make a connection, the same for sync and async."""

from inspect import signature
from typing import Final

from redis import __version__ as client_version
from redis.connection import AbstractConnection

from idemstore.backends.redis.options import Address, Target
from idemstore.errors import MissingPackage

TCP: Final = "tcp"
TLS: Final = "tls"
UNIX: Final = "unix"

OLDEST_CLIENT: Final = 6

_SILENT: Final = (
    ("driver_info",) if "driver_info" in signature(AbstractConnection).parameters else ("lib_name", "lib_version")
)
"""What makes redis-py introduce itself on every new connection, in two round trips, with a command that older servers
do not know and that a careful administrator does not allow: switched off.
"""


def check_client() -> None:
    """Refuse a redis-py that is too old, when the store is opened."""
    if int(client_version.partition(".")[0]) < OLDEST_CLIENT:
        raise MissingPackage(f"redis-py {client_version} is too old: pip install 'idemstore[redis]' (6.0 or later)")


def kind_of(target: Target, address: Address) -> str:
    """Over what: a Unix socket has no port."""
    if not address.port:
        return UNIX
    return TLS if target.tls else TCP


def arguments(target: Target, address: Address, sentinel: bool) -> dict[str, str | int | bool | None]:
    """Keyword arguments of a connection class of redis-py.

    RESP2, on purpose: its connections carry nothing but replies. Nothing is re-sent by redis-py (which does so up to
    ten times by default, blind to our deadline); the drivers do that.
    """
    options = target.options
    made: dict[str, str | int | bool | None] = {"protocol": 2, **dict.fromkeys(_SILENT)}
    if sentinel:
        made |= {"username": options.sentinel_username, "password": options.sentinel_password}
    else:
        made |= {"username": target.username, "password": target.password, "db": target.db}
    match kind_of(target, address):
        case "unix":
            return made | {"path": address.host}
        case "tls":
            made |= {
                "ssl_ca_certs": options.ca_certs,
                "ssl_ca_path": options.ca_path,
                "ssl_certfile": options.certfile,
                "ssl_keyfile": options.keyfile,
                "ssl_password": options.keyfile_password,
                "ssl_cert_reqs": options.cert_reqs,
                "ssl_check_hostname": options.check_hostname,
            }
    return made | {"host": address.host, "port": address.port, "socket_keepalive": True}
