"""Where a new connection goes: one host after the other, each with its share of the time. Pure but for the clock.

Clients that are given several hosts try them within one time-out, so a first host that is silent (its machine is gone)
uses up all of it, every time. Here each gets a share, and the host that answered last is tried first.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from idemstore.backends.postgresql import refusals
from idemstore.backends.postgresql.options import Target
from idemstore.backends.postgresql.refusals import Refusal
from idemstore.errors import IdemstoreError, StoreTimeout, StoreUnavailable

T = TypeVar("T")

SHORTEST_SHARE: Final = 0.05
"""Seconds; a host that is tried at all gets as much."""


class Host(NamedTuple):
    """One server; without a name, whatever the client library takes from the environment."""

    name: str | None
    port: int | None


class Hosts:
    """The hosts of a target, the one that answered last in front. Safe for many threads."""

    def __init__(self, target: Target) -> None:
        ports = (*target.ports, *(None for _ in target.hosts))
        self._hosts = [Host(name, port) for name, port in zip(target.hosts, ports, strict=False)] or [Host(None, None)]
        self._lock = threading.Lock()

    def shares(self, deadline: float) -> Iterator[tuple[Host, float]]:
        """Each host, and until when it may take to answer."""
        with self._lock:
            hosts = list(self._hosts)
        return shares(hosts, deadline)

    def answered(self, host: Host) -> None:
        """Try this one first from now on."""
        if self._hosts[0] is not host:
            with self._lock:
                self._hosts.remove(host)
                self._hosts.insert(0, host)


def shares(things: Sequence[T], deadline: float) -> Iterator[tuple[T, float]]:
    """Each of several, and until when it may take, if those behind it are to have as much."""
    for place, thing in enumerate(things):
        now = time.monotonic()
        yield thing, now + max((deadline - now) / (len(things) - place), SHORTEST_SHARE)


def telling(before: IdemstoreError | None, error: IdemstoreError) -> IdemstoreError:
    """Of several hosts' errors, the one to raise: an answer rather than silence, else the last."""
    return error if before is None or isinstance(before, StoreUnavailable) else before


def conninfo(target: Target, host: Host, address: str | None, timeout: float) -> dict[str, str | int]:
    """The keywords of libpq for one host."""
    options = target.options
    words: Mapping[str, str | int | None] = {
        "host": host.name,
        "hostaddr": address,
        "port": host.port,
        "user": target.user,
        "password": target.password,
        "dbname": target.database,
        "application_name": options.application_name,
        "options": target.startup(timeout),
        "client_encoding": "UTF8",
        "target_session_attrs": None if options.target_session_attrs == "any" else options.target_session_attrs,
        **target.ssl,
    }
    return {name: value for name, value in words.items() if value not in (None, "")}


def refused(target: Target, refusal: Refusal) -> IdemstoreError:
    """Why nobody could be connected to."""
    if refusal.sqlstate == refusals.LOST:
        return StoreUnavailable(f"{target.name} cannot be reached: {refusal.text}; repeating the call is safe")
    return refusals.error(refusal, target.name)


def silent(target: Target, host: Host) -> StoreTimeout:
    """A host that did not answer within its share."""
    where = "" if host.name is None else f" ({host.name})"
    return StoreTimeout(f"{target.name}{where} did not answer in time while connecting: repeating the call is safe")


def late(target: Target, timeout: float) -> StoreTimeout:
    """A call that was not answered."""
    return StoreTimeout(
        f"{target.name} did not answer within {timeout:g} s; whether the call was applied is not known: "
        "repeating it is safe"
    )
