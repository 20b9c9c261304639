"""Names of hosts to addresses, within a deadline. libpq would look them up in its first call, however long it takes."""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import Final

from idemstore.errors import StoreTimeout, StoreUnavailable

HERE: Final[tuple[str | None, ...]] = (None,)
"""No look-up: the client is given the host as it is."""


def named(host: str | None) -> bool:
    """Whether it must be looked up: not an address, not the directory of a socket."""
    if host is None or host.startswith(("/", "@")):
        return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def resolve(host: str | None, deadline: float) -> tuple[str | None, ...]:
    """The addresses of a host, looked up in a thread that is left behind where it takes too long."""
    if host is None or not named(host):
        return HERE
    found: SimpleQueue[tuple[str, ...] | OSError] = SimpleQueue()
    threading.Thread(target=_look_up, args=(host, found), name="idemstore-resolve", daemon=True).start()
    try:
        answer = found.get(timeout=max(0.0, deadline - time.monotonic()))
    except Empty:
        raise _late(host) from None
    if isinstance(answer, OSError):
        raise _unknown(host, answer) from answer
    return answer


def _look_up(host: str, found: "SimpleQueue[tuple[str, ...] | OSError]") -> None:
    """In the thread."""
    try:
        found.put(_distinct(entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    except OSError as error:
        found.put(error)


async def resolve_async(host: str | None, deadline: float) -> tuple[str | None, ...]:
    """The same, in the loop's own threads."""
    if host is None or not named(host):
        return HERE
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return _distinct(entry[4][0] for entry in found)
    except TimeoutError:
        raise _late(host) from None
    except OSError as error:
        raise _unknown(host, error) from error


def _distinct(addresses: Iterable[object]) -> tuple[str, ...]:
    """Each address once, in the resolver's order."""
    return tuple(dict.fromkeys(map(str, addresses)))


def _late(host: str) -> StoreTimeout:
    """The resolver is silent."""
    return StoreTimeout(f"the name {host} was not resolved in time: repeating the call is safe")


def _unknown(host: str, error: OSError) -> StoreUnavailable:
    """The resolver does not know it (now)."""
    return StoreUnavailable(f"the name {host} cannot be resolved: {error}; correct the URL, or try again")
