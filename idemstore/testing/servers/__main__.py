"""`python -m idemstore.testing.servers list | install [NAME...] | run NAME...`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from idemstore.testing.servers import catalog
from idemstore.testing.servers.install import install
from idemstore.testing.servers.server import ServerUnavailable


def _say(line: str) -> None:
    """Write a line that also shows when the output is a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _row(name: str) -> tuple[str, str, str]:
    """Return name, availability and what it is or how to get it."""
    try:
        return name, "yes", catalog.describe(name)
    except ServerUnavailable as error:
        return name, "no", error.reason


def _list() -> int:
    """Print a table of all servers."""
    rows = [("SERVER", "HERE", "WHAT IT IS, OR HOW TO GET IT"), *map(_row, catalog.NAMES)]
    width = max(len(name) for name, _, _ in rows)
    for name, available, what in rows:
        _say(f"{name:<{width}}  {available:<4}  {what}")
    return 0


def _run(names: Sequence[str]) -> int:
    """Start servers, print their URLs, stop them at Ctrl-C (or when asked to terminate)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as servers:
            for name in names:
                server = servers.enter_context(catalog.start(name))
                _say(f"{name}  {server.url}")
                for endpoint, url in {**server.endpoints, **server.env}.items():
                    _say(f"{name}  {endpoint}: {url}")
            _say("Ctrl-C stops them.")
            signal.pause()
    except KeyboardInterrupt:
        _say("stopped")
    except ServerUnavailable as error:
        _say(str(error))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="python -m idemstore.testing.servers", description="Real servers for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="tell which servers can be started here")
    for command, many, what in (("install", "*", "get what is missing"), ("run", "+", "start servers until Ctrl-C")):
        sub = commands.add_parser(command, help=what)
        sub.add_argument("names", nargs=many, metavar="NAME", help=", ".join(catalog.NAMES))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command == "list":
        return _list()
    names: list[str] = given.names or list(catalog.NAMES)
    try:
        for name in names:
            catalog.kind(name)
    except ValueError as error:
        parser.error(str(error))
    if given.command == "run":
        return _run(names)
    return 0 if install(names, _say) else 1


if __name__ == "__main__":
    sys.exit(main())
