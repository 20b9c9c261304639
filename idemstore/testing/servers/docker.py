"""The same servers from Docker, by way of testcontainers (whose reaper ends them with the test run).

A server listens on the same port inside and outside, so that it is found at one address from everywhere and again
after a restart.
"""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from idemstore.testing.servers.process import HOST
from idemstore.testing.servers.server import Member, ServerFailed
from idemstore.testing.servers.waiting import Address, until

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

SWITCH = "IDEMSTORE_SERVERS"
_PING_SECONDS = 3
_DEADLINE = 60.0
_TAIL = 100


class Refused(Exception):
    """Docker answers but did not give the container (an image that cannot be pulled, for one)."""


@cache
def answers() -> bool:
    """Whether testcontainers is installed and a Docker daemon answers; IDEMSTORE_SERVERS=process says no."""
    if os.environ.get(SWITCH) == "process" or find_spec("testcontainers") is None:
        return False
    with warnings.catch_warnings():
        # Where nobody answers, Docker's client forgets to close its socket: that is no business of our tests.
        warnings.simplefilter("ignore", ResourceWarning)
        answered = _ping()
        gc.collect()
    return answered


def _ping() -> bool:
    """Ask the daemon for a sign of life."""
    from docker.errors import DockerException  # type: ignore[import-untyped,unused-ignore]
    from testcontainers.core.docker_client import DockerClient

    try:
        client = DockerClient(timeout=_PING_SECONDS).client
        client.ping()
        client.close()
    except (DockerException, OSError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to run: an image with its arguments, ports (the first is the one to ask), variables and files."""

    image: str
    command: tuple[str, ...]
    ports: tuple[int, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def container(self) -> DockerContainer:
        """Describe it to testcontainers."""
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(self.image, env=dict(self.env)).with_command(list(self.command))
        for port in self.ports:
            container.with_bind_ports(port, port)
        for path, content in self.files.items():
            container.with_copy_into_container(content, path)
        return container


class Container:
    """One container."""

    __slots__ = ("_container", "_gone", "_probe", "address", "name")

    def __init__(self, name: str, recipe: Recipe, probe: Callable[[Address], object]) -> None:
        """Start it and wait until it answers."""
        self.name = name
        self._probe = probe
        self._gone = False
        self._container = _started(recipe)
        atexit.register(self.stop)
        self.address = Address(_host(self._container), recipe.ports[0])
        self._await()

    def _await(self) -> None:
        """Probe until it answers."""
        try:
            until(partial(self._probe, self.address), _DEADLINE, self._alive)
        except TimeoutError as error:
            self._fail(str(error))
        except BaseException:
            self.stop()
            raise

    def _alive(self) -> None:
        """Raise if it has ended."""
        if not self.running():
            self._fail("the container has ended")

    def _fail(self, what: str) -> None:
        """Clear away the remains and raise."""
        tail = self.log()
        self.stop()
        raise ServerFailed(self.name, f"{self._container.image}: {what}; the end of its log:\n{tail}")

    def _status(self) -> str:
        """Ask Docker for its state."""
        if self._gone:
            return "removed"
        container = self._container.get_wrapped_container()
        container.reload()
        return str(container.status)

    def running(self) -> bool:
        """Whether it is there, frozen or not."""
        return self._status() in ("running", "paused", "restarting")

    def pause(self) -> None:
        """Freeze it."""
        if self._status() == "running":
            self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        """Let it go on."""
        if self._status() == "paused":
            self._container.get_wrapped_container().unpause()

    def kill(self) -> None:
        """End it at once (SIGKILL), and wait until it is gone."""
        if self.running():
            container = self._container.get_wrapped_container()
            container.kill()
            container.wait()

    def restart(self) -> None:
        """Start the same container again; wait until it answers."""
        self.resume()
        container = self._container.get_wrapped_container()
        container.stop()
        container.start()
        self._await()

    def stop(self) -> None:
        """Remove it; no error if it is gone already."""
        if self._gone:
            return
        self._gone = True
        atexit.unregister(self.stop)
        self._container.stop()

    def log(self) -> str:
        """Return the end of what it wrote."""
        if self._gone:
            return ""
        return bytes(self._container.get_wrapped_container().logs(tail=_TAIL)).decode(errors="replace")


def _started(recipe: Recipe) -> DockerContainer:
    """Pull the image, create and start a container, or raise `Refused`."""
    from docker.errors import DockerException  # type: ignore[import-untyped,unused-ignore]

    try:
        container = recipe.container()
        return container.start()
    except (DockerException, OSError) as error:
        raise Refused(f"{recipe.image}: {error}") from error


def _host(container: DockerContainer) -> str:
    """Return where its ports are published, as a number where that is here."""
    host = container.get_container_host_ip()
    return HOST if host == "localhost" else host


def _stop_all(members: Mapping[str, Member]) -> None:
    """Remove what has been started so far."""
    for member in members.values():
        member.stop()


@contextmanager
def assembling() -> Iterator[dict[str, Member]]:
    """Give a dict for a server's containers; if the block fails, remove them."""
    with ExitStack() as undo:
        members: dict[str, Member] = {}
        undo.callback(_stop_all, members)
        yield members
        undo.pop_all()
