"""moto as a mutant: its conditional writes are not atomic under threads, and our storm must say so.

Not a backend to test against: a defect that somebody else made, which shows that the storm would catch it.
"""

import importlib.util
import subprocess
import sys
import time
import urllib.request
from urllib.error import URLError

import pytest

import idemstore
from idemstore.errors import CorruptRecord
from idemstore.machine import MICROSECONDS, Claim
from idemstore.outcomes import Claimed
from idemstore.testing.servers.process import free_port
from idemstore.testing.storm import together

KEYS, CLIENTS = 400, 32
LONG = 1000 * MICROSECONDS


@pytest.fixture
def moto():
    """Moto's server as a process of its own; the URL of a store on it."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask_cors") is None:
        pytest.skip("moto's server is not installed: pip install 'moto[dynamodb]' flask flask-cors")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(process, port)
        yield f"dynamodb+http://a:b@127.0.0.1:{port}/idemstore?region=eu-central-1&timeout=30"
    finally:
        process.kill()
        process.wait()


def _await(process, port):
    """Until it answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "moto's server has ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=2).close()
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError("moto's server does not answer")


def violated(store, key):
    """Whether the storm sees something that DynamoDB never does: not one winner, or half a record."""
    scripts = [[Claim(None, f"client-{n}", LONG, LONG)] for n in range(CLIENTS)]
    try:
        history = together(store, key, scripts)
    except CorruptRecord:
        return True
    return sum(isinstance(operation.outcome, Claimed) for operation in history) != 1


def test_the_storm_catches_moto(moto):
    """Up to 400 keys with 32 clients each: on some key moto lets two clients win, or shows half a record."""
    with idemstore.open(moto) as store:
        store.migrate()
        assert any(violated(store, f"key-{n}") for n in range(KEYS)), "moto has become atomic: the storm caught nothing"
