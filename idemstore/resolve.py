"""Names of hosts to addresses, within a deadline. ``socket.getaddrinfo`` takes as long as the resolver likes, and
clients call it before any time-out of theirs begins.

A look-up runs in a thread that is left behind where it takes too long. Callers that ask for the same name meanwhile
wait for the same one, so a resolver that stalls holds one thread for each name, however many calls there are.
"""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterable

from idemstore.promise import Promise


def named(host: str) -> bool:
    """Whether it must be looked up: not an address, not the directory of a socket."""
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def addresses(host: str, deadline: float) -> tuple[str, ...]:
    """The addresses of a host, each once, in the resolver's order; ``TimeoutError`` at the deadline
    (``time.monotonic``), ``OSError`` where the name is not known. What needs no look-up is given back as it is.
    """
    if not named(host):
        return (host,)
    return _asked(host).result(max(0.0, deadline - time.monotonic()))


def distinct(found: Iterable[tuple[object, object, object, object, tuple[object, ...]]]) -> tuple[str, ...]:
    """The addresses in what ``getaddrinfo`` found."""
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


_lock = threading.RLock()  # a signal handler may call in the middle
_under_way: dict[str, "Promise[tuple[str, ...]]"] = {}


def _asked(host: str) -> "Promise[tuple[str, ...]]":
    """A look-up that is under way, or a new one."""
    with _lock:
        found = _under_way.get(host)
        if found is None:
            found = Promise()
            try:
                threading.Thread(target=_look_up, args=(host, found), name="idemstore-resolve", daemon=True).start()
            except RuntimeError as error:  # no more threads, or the interpreter is on its way out
                raise OSError(f"the name {host} cannot be looked up: {error}") from error
            _under_way[host] = found
    return found


def _look_up(host: str, found: "Promise[tuple[str, ...]]") -> None:
    """In the thread."""
    try:
        answer = distinct(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        failure = error if isinstance(error, OSError) else OSError(f"{host!r} is no name of a host: {error}")
        with _lock:
            _under_way.pop(host, None)
        found.set_exception(failure)
    else:
        with _lock:
            _under_way.pop(host, None)
        found.set_result(answer)


def _after_fork() -> None:
    """In a child process: the threads are the parent's."""
    global _lock
    _lock = threading.RLock()
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
