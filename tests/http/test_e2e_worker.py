"""The client's side, end to end: a queue worker that dies, or whose server does, repeats nothing.

The server is the example of preset F under uvicorn, on an SQLite file.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e_support import HERE, LEASE, PATIENCE, App, Call


@pytest.fixture
def app(make_subject) -> Iterator[App]:
    """The example."""
    pytest.importorskip("tenacity")
    made = App("uvicorn", "orders", "buy", make_subject("sqlite"))
    yield made
    made.close()


@pytest.fixture
def message(tmp_path: Path) -> Path:
    """A job in the queue."""
    path = tmp_path / "message.json"
    path.write_text(json.dumps({"order": {"item": "desk"}}))
    return path


@contextmanager
def worker(app: App, message: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that has been given the message."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "e2e_worker.py"), str(message), str(app.server.client.base_url.join("/orders"))],
        env={**os.environ, "E2E_WORLD": str(app.world.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        print(process.communicate()[0])  # noqa: T201 - pytest captures it


def told(app: App, name: str) -> list[Call]:
    """The calls of one name."""
    return [call for call in app.world.calls if call.name == name]


def test_a_worker_that_dies_before_its_acknowledgement(app: App, message: Path):
    """Its successor gets the same message, sends the same key, and gets the first response."""
    with app.world.hold_at("acknowledge") as gate, worker(app, message) as first:
        gate.begun()
        first.send_signal(signal.SIGKILL)
        first.wait(PATIENCE)
    assert message.exists()
    with worker(app, message) as second:
        assert second.wait(PATIENCE) == 0
    assert not message.exists()
    one, two = told(app, "acknowledge")
    assert one.arguments == two.arguments
    assert len(told(app, "buy")) == 1


def test_a_server_that_dies_under_a_worker(app: App, message: Path):
    """The worker retries with its key: busy until the lease of the dead owner is over, then the successor does it."""
    with app.world.hold_at("buy") as gate, worker(app, message) as process:
        gate.begun()
        app.server.kill()
        app.server.restart()
        with app.world.hold_at("attempt") as busy:
            busy.begun()  # a retry has had its answer
            key = json.loads(message.read_text())["order_key"]
            app.age(("acme",), key, LEASE + 1)
        assert process.wait(PATIENCE) == 0
    assert len(told(app, "buy")) == 2
    attempts = [call.arguments[0] for call in told(app, "attempt")]
    assert (attempts[0], attempts[-1]) == ("409", "201")
    found = app.get(("acme",), key)
    assert found is not None
    assert found.record.attempt == 2
