"""What the harness hands out: `Server`, its members, and the errors of those that cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Literal, Protocol, Self

Origin = Literal["docker", "process"]
Settings = Mapping[str, str]

NOTHING: Mapping[str, str] = MappingProxyType({})


class ServerUnavailable(Exception):
    """This machine has no such server; the reason says how to get it."""

    def __init__(self, name: str, reason: str) -> None:
        """Name the server, and say what is missing and what to do about it."""
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        """Name and reason."""
        return f"{self.name}: {self.reason}"

    def of(self, name: str) -> Self:
        """Tell it of the server that the unavailable one is a part of."""
        return self if name == self.name else type(self)(name, str(self))


class ServerFailed(ServerUnavailable):
    """The server is installed but did not start or come back; the reason ends with the tail of its log."""


class PortTaken(ServerFailed):
    """Another process took the port between our look and the server's start."""


class Member(Protocol):
    """One process or container of a server."""

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""

    def resume(self) -> None:
        """Let a frozen one go on."""

    def kill(self) -> None:
        """End it at once (SIGKILL), and wait until it is gone."""

    def restart(self) -> None:
        """Start it again on the same port and data (after a polite stop if it still runs); wait until it answers."""

    def stop(self) -> None:
        """Stop it for good; no error if it is gone already."""

    def running(self) -> bool:
        """Whether it is there, frozen or not."""
        ...

    def log(self) -> str:
        """Return the end of what it wrote."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """A running server; `stop()` or leaving the `with` block ends it.

    `pause`, `resume`, `kill` and `restart` act on all members. A server of several processes (a cluster, a proxy and
    what is behind it) has them under their names in `members`, to be paused or killed one by one.
    """

    name: str
    url: str
    version: str
    origin: Origin
    members: Mapping[str, Member]
    endpoints: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    emulation: bool = False
    settled: Callable[[], None] = field(default=lambda: None, repr=False)
    """Returns once the members that came back agree with each other."""
    cleanup: Callable[[], None] = field(default=lambda: None, repr=False)

    def pause(self) -> None:
        """Freeze all members: connections stay open and nothing answers."""
        for member in self.members.values():
            member.pause()

    def resume(self) -> None:
        """Let frozen members go on."""
        for member in self.members.values():
            member.resume()

    def kill(self) -> None:
        """End all members at once, as a power cut would."""
        for member in self.members.values():
            member.kill()

    def restart(self) -> None:
        """Start all members again on their ports and data, and wait until they can be used."""
        for member in self.members.values():
            member.restart()
        self.settled()

    def stop(self) -> None:
        """Stop all members for good and remove their files; may be called twice."""
        for member in reversed(tuple(self.members.values())):
            member.stop()
        self.cleanup()

    def log(self) -> str:
        """Return the end of what each member wrote."""
        return "\n".join(f"--- {name}\n{member.log()}" for name, member in self.members.items())

    def __enter__(self) -> Self:
        """Use it in a `with` block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it at the end of the block."""
        self.stop()
