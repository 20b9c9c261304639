"""What is measured: the URLs that were given, the usual two, or every server that the test harness can start."""

import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from idemstore.bench.floors import Floor, floor_of
from idemstore.bench.network import INSIDE, label, obstacle, through, upstream
from idemstore.testing import families
from idemstore.testing.proxy import Proxy
from idemstore.testing.servers import Server, ServerUnavailable, start
from idemstore.url import parse_url

HOSTED: Final = tuple(name for name, family in families.FAMILIES.items() if family.server == name)
"""The subjects that have a server of their own name: each server once."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be measured, before any server runs for it."""

    name: str
    url: str | None = field(default=None, repr=False)
    """None: the harness starts a server, or makes a file."""


@dataclass(frozen=True, slots=True)
class Target:
    """What can be measured now. The URLs may hold passwords."""

    name: str
    url: str = field(repr=False)
    floor_url: str = field(repr=False)
    direct_url: str = field(repr=False)
    """Past the proxies."""
    floor: Floor | None
    server: str
    """What the harness says of it; empty where it was not asked."""
    emulation: bool
    proxies: tuple[Proxy, ...] = ()
    """Before the store and before its floor; none where no latency is added."""

    @property
    def family(self) -> str:
        """Of the URL."""
        return parse_url(self.url).family

    def clients(self) -> dict[str, str]:
        """The versions of its client libraries."""
        packages = self.floor.packages if self.floor is not None else ()
        return {name: importlib.metadata.version(name) for name in packages if find_spec(name) is not None}


class LeftOut(Exception):
    """It cannot be had here; the message says why."""


def candidates(urls: Sequence[str], everything: bool) -> list[Candidate]:
    """What was asked for."""
    given = [Candidate(label(url), url) for url in urls]
    names = [one.name for one in given]
    given = [
        Candidate(f"{one.name} #{number}", one.url) if names.count(one.name) > 1 else one
        for number, one in enumerate(given, 1)
    ]
    if everything:
        return [*given, *(Candidate(name) for name in ("memory", "sqlite", *HOSTED))]
    return given or [Candidate("memory"), Candidate("sqlite")]


@contextmanager
def reached(candidate: Candidate, latency: float, processes: int) -> Iterator[Target]:
    """A target, with its server and its proxies, for as long as the block takes; ``LeftOut`` where it cannot be."""
    with ExitStack() as stack:
        url, server = candidate.url, None
        if url is None:
            if latency and candidate.name in INSIDE:
                raise LeftOut("no latency can be added: there is no network to it")
            if processes > 1 and candidate.name == "memory":
                raise LeftOut("it lives inside one process, and --processes asks for several")
            url, server = _hosted(candidate.name, stack)
        reason = obstacle(url) if latency else None
        if reason is not None:
            raise LeftOut(f"no latency can be added: {reason}")
        proxies = tuple(stack.enter_context(Proxy(*upstream(url), latency=latency)) for _ in range(2 if latency else 0))
        ours, bare = (through(url, proxy.port) for proxy in proxies) if proxies else (url, url)
        yield Target(
            name=candidate.name,
            url=ours,
            floor_url=bare,
            direct_url=url,
            floor=floor_of(url),
            server=server.version if server is not None else "",
            emulation=server is not None and server.emulation,
            proxies=proxies,
        )


def _hosted(name: str, stack: ExitStack) -> tuple[str, Server | None]:
    """A server of the harness with a place of its own on it, or a file, or nothing but memory."""
    if name == "memory":
        return "memory://", None
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idemstore-bench-")))
    if name == "sqlite":
        return f"sqlite:///{directory / 'bench.db'}", None
    family = families.FAMILIES[name]
    if family.package is not None and find_spec(family.package) is None:
        raise LeftOut(f"the package {family.package} is not installed")
    try:
        server = stack.enter_context(start(family.server or name))
    except ServerUnavailable as error:
        raise LeftOut(error.reason.splitlines()[0]) from error
    subject = families.make(name, server, directory)
    stack.callback(subject.close)
    return subject.url, server
