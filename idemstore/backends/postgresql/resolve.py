"""Names of hosts to addresses, within a deadline. libpq would look them up in its first call, however long it takes."""

import asyncio
import socket
import time
from typing import Final

from idemstore.errors import StoreTimeout, StoreUnavailable
from idemstore.resolve import addresses, distinct, named

HERE: Final[tuple[str | None, ...]] = (None,)
"""No look-up: the client is given the host as it is."""


def resolve(host: str | None, deadline: float) -> tuple[str | None, ...]:
    """The addresses of a host."""
    if host is None or not named(host):
        return HERE
    try:
        return addresses(host, deadline)
    except TimeoutError:
        raise _late(host) from None
    except OSError as error:
        raise _unknown(host, error) from error


async def resolve_async(host: str | None, deadline: float) -> tuple[str | None, ...]:
    """The same, in the loop's own threads."""
    if host is None or not named(host):
        return HERE
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return distinct(await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except TimeoutError:
        raise _late(host) from None
    except OSError as error:
        raise _unknown(host, error) from error


def _late(host: str) -> StoreTimeout:
    """The resolver is silent."""
    return StoreTimeout(f"the name {host} was not resolved in time: repeating the call is safe")


def _unknown(host: str, error: OSError) -> StoreUnavailable:
    """The resolver does not know it (now)."""
    return StoreUnavailable(f"the name {host} cannot be resolved: {error}; correct the URL, or try again")
