"""Subjects by name, and what the run says at its end: how many examples the model took, how many mutants were caught.

The tests run on every family that is there, or on those that IDEMSTORE_SUBJECTS names.
"""

import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

pytest.register_assert_rewrite("idemstore.testing", "e2e_contract")

from idemstore.testing import families  # noqa: E402 - assertions are rewritten at import
from idemstore.testing.pytest_plugin import ServerPool  # noqa: E402
from idemstore.testing.subject import Subject  # noqa: E402

pytest_plugins = ["idemstore.testing.pytest_plugin"]

for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # begun in the background, or under nohup: children inherit it
        signal.signal(number, handler)

MakeSubject = Callable[[str], Subject]


@pytest.fixture(scope="session")
def make_subject(server_pool: ServerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSubject]:
    """A subject by name, one for the whole run; skips where its client library or server cannot be had."""
    made: dict[str, Subject] = {}

    def make(name: str) -> Subject:
        if name not in made:
            family = families.FAMILIES[name]
            if family.package is not None and find_spec(family.package) is None:
                pytest.skip(f"{family.package} is not installed")
            server = None if family.server is None else server_pool.get(family.server)
            made[name] = families.make(name, server, tmp_path_factory.mktemp(name))
        return made[name]

    yield make
    for subject in made.values():
        subject.close()


@pytest.fixture(scope="module", params=families.names())
def subject(request: pytest.FixtureRequest, make_subject: MakeSubject) -> Subject:
    """Each family."""
    return make_subject(request.param)


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Say what the contract's own tests came to."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    found = [item for report in reports if report.when == "call" for item in report.user_properties]
    counts = [value for name, value in found if name == "idemstore-examples"]
    caught = [value for name, value in found if name == "idemstore-mutant"]
    if counts or caught:
        terminalreporter.section("contract")
    for line in sorted(counts):
        terminalreporter.write_line(f"model: {line}")
    if caught:
        terminalreporter.write_line(f"mutants caught: {sum(caught)}/{len(caught)}", red=not all(caught))
