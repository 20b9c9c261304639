"""Every Python example of the README and the docs runs, page by page, as a reader would run it."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, Block, blocks

from idemstore import registry

SERVER = "redis://localhost:6379/0"
"""What pages write for a Redis server; here it is the one of the test run."""

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory to run a page in; files of the page can be imported. What the page registers, and what it
    imports from there, is forgotten afterwards.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_registered", {})
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]


def written(page: Path, desk: Path) -> list[Block]:
    """The blocks of a page that are to be run; those that are parts of a file are written to it."""
    rest = []
    for block in blocks(page, "python"):
        if block.file is None:
            rest.append(block)
        else:
            with (desk / block.file).open("a") as file:
                file.write(block.text)
    return rest


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_examples_run(page: Path, desk: Path, request: pytest.FixtureRequest):
    """One page is one program: its blocks run in order and share their names."""
    program = written(page, desk)
    names = {"__name__": "example"}
    for block in program:
        text = block.text
        if f'"{SERVER}"' in text:
            text = text.replace(SERVER, request.getfixturevalue("server_pool").get("redis").url)
        code = compile("\n" * block.line + text, str(page), "exec", dont_inherit=True)
        exec(code, names)


@pytest.mark.timeout(600)
def test_the_backend_of_the_docs_keeps_the_contract(desk: Path):
    """What "write your own backend" builds passes the whole contract, run as the page says but for fewer examples."""
    page = next(page for page in PAGES if page.name == "extending.md")
    written(page, desk)
    installed = desk / "filestore-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: filestore\nVersion: 1.0\n")
    (point,) = (tomllib.loads(block.text) for block in blocks(page, "toml"))
    targets = point["project"]["entry-points"]["idemstore.drivers"].items()
    lines = "".join(f"{name} = {target}\n" for name, target in targets)
    (installed / "entry_points.txt").write_text(f"[idemstore.drivers]\n{lines}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_filestore.py"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(desk), os.environ.get("PYTHONPATH", "")]),
            "IDEMSTORE_EXAMPLES": "20",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout[-5000:]
