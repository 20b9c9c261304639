"""What the HTTP modules load."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("idemstore.http.presets", {"asyncio", "ssl", "email"}),
        ("idemstore.http.wsgi", {"asyncio", "ssl", "email"}),
        ("idemstore.http.asgi", {"sqlite3", "multiprocessing"}),
    ],
)
def test_the_standard_library_alone_and_little_of_it(module: str, unwanted: set[str]):
    """No framework, no client library; a WSGI server never loads asyncio."""
    shown = "print(json.dumps([*sys.modules.keys() - before]))"
    code = f"import sys; before = set(sys.modules); import {module}, json; {shown}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded - set(sys.stdlib_module_names) == {"idemstore"}
    assert not loaded & unwanted
