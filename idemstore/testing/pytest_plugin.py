"""The pytest side of the servers: one of each kind per test run, and a report of what the tests really ran against.

Load it with `pytest_plugins = ["idemstore.testing.pytest_plugin"]` in the top `conftest.py`. Tests ask the fixture
`server_pool` for servers by name; one that cannot be had skips the test, unless IDEMSTORE_REQUIRE names it: then the
test fails, and so does a run in which no test asked for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from idemstore.testing.servers import NAMES, Server, ServerFailed, ServerUnavailable, describe, required, start
from idemstore.testing.servers.server import Settings

_SKIPPED = "skipped: "
_FAILED = "FAILED: "
_MISSING = "REQUIRED BUT MISSING: "
_OUTPUT = "idemstore_servers"


class ServerPool:
    """Starts each server when it is first asked for, and keeps it for the rest of the run."""

    def __init__(self, needed: frozenset[str]) -> None:
        """Note which servers must not be skipped; start none."""
        self._needed = needed
        self._servers: dict[str, Server] = {}
        self._refusals: dict[str, ServerUnavailable] = {}
        self._lock = threading.Lock()
        self.lines: dict[str, str] = {}
        """What became of each server that was asked for: one line each."""

    def get(self, name: str) -> Server:
        """Return the running server; where it cannot be had, skip the test or fail it."""
        with self._lock:
            if name not in self._servers and name not in self._refusals:
                self._start(name)
        if name in self._servers:
            return self._servers[name]
        refusal = self._refusals[name]
        if self._verdict(name, refusal) == _SKIPPED:
            pytest.skip(str(refusal))
        pytest.fail(str(refusal), pytrace=False)

    def _start(self, name: str) -> None:
        """Start one, and note what became of it."""
        try:
            server = start(name, settings=_RELAXED.get(name, {}))
        except ServerUnavailable as refusal:
            self._refusals[name] = refusal
            self.lines[name] = f"{self._verdict(name, refusal)}{refusal.reason.splitlines()[0]}"
        else:
            self._servers[name] = server
            self.lines[name] = f"{server.version} ({server.origin}{', emulation' if server.emulation else ''})"

    def _verdict(self, name: str, refusal: ServerUnavailable) -> str:
        """Name what a refusal means for the run."""
        if name in self._needed:
            return _MISSING
        return _FAILED if isinstance(refusal, ServerFailed) else _SKIPPED

    def check_required(self) -> None:
        """Look, without starting any, for required servers that no test has asked for."""
        for name in sorted(self._needed - self.lines.keys()):
            try:
                self.lines[name] = f"not asked for by any test; here: {describe(name)}"
            except ServerUnavailable as refusal:
                self.lines[name] = f"{_MISSING}{refusal.reason.splitlines()[0]}"

    def incomplete(self) -> bool:
        """Whether a required server could not be had."""
        return any(line.startswith(_MISSING) for line in self.lines.values())

    def close(self) -> None:
        """Stop all servers."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()


_RELAXED: Final[Mapping[str, Settings]] = {name: {"fsync": "off"} for name in ("postgresql", "postgresql15")}
"""Only a crash of the machine could tell the difference, and no test makes one: commits need not wait for a busy disk.
Tests of crashes start a server of their own, with its durability as it comes.
"""

_POOL = pytest.StashKey[ServerPool]()


def pytest_configure(config: pytest.Config) -> None:
    """Read IDEMSTORE_REQUIRE, so that a misspelt name ends the run at once."""
    try:
        config.stash[_POOL] = ServerPool(required())
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def server_pool(pytestconfig: pytest.Config) -> Iterator[ServerPool]:
    """Real servers by name: `server_pool.get("redis").url`; all are stopped at the end of the run."""
    pool = pytestconfig.stash[_POOL]
    yield pool
    pool.close()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take over what a pytest-xdist worker ran against."""
    config = getattr(node, "config", None)
    lines = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if isinstance(config, pytest.Config) and isinstance(lines, dict):
        config.stash[_POOL].lines.update(lines)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that never had a required server; hand a worker's report to its controller."""
    pool = session.config.stash[_POOL]
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_OUTPUT] = dict(pool.lines)
        return
    if session.config.option.collectonly:
        return
    pool.check_required()
    if pool.incomplete() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line per server."""
    lines = config.stash[_POOL].lines
    if not lines:
        return
    terminalreporter.section("servers")
    for name in NAMES:
        if name in lines:
            terminalreporter.write_line(f"{name}: {lines[name]}", red=lines[name].startswith(_MISSING))
