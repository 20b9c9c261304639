"""Every cell of the table of real APIs has its test, and every column its example, which runs as its docstring says."""

import ast
import importlib
import itertools
import re
import shlex
import sys
from pathlib import Path

import httpx
import pytest
from e2e_support import EXAMPLES, Server

from idemstore.testing.families import names

PAGE = (EXAMPLES.parent / "http.md").read_text()
TABLE = [line.strip("|").split(" | ") for line in PAGE.partition("\n## Real APIs\n")[2].splitlines() if line[:1] == "|"]
ROWS = [row[0].strip() for row in TABLE[2:]]
COLUMNS = {"A": "meeting_bots", "B": "voice_agents", "C": "transcriptions", "D": "meeting_recorder"}
COLUMNS |= {"E": "payments", "F": "orders"}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_every_cell_is_tested(row: str, column: str):
    """By a test of the row's name, in the class of the column."""
    kind = getattr(importlib.import_module(f"test_e2e_{COLUMNS[column]}"), f"Test{column}")
    assert callable(getattr(kind, f"test_{row.replace(' ', '_')}", None))
    assert kind.example == COLUMNS[column]


def test_the_table_is_whole():
    """Each row says something of each preset, and the presets have their examples."""
    assert len(ROWS) == 13
    assert {len(row) for row in (TABLE[0], *TABLE[2:])} == {1 + len(COLUMNS)}
    linked = re.findall(r"\]\(examples/(\w+)\.py\)", PAGE.partition("\n## Real APIs\n")[2])
    assert linked == list(COLUMNS.values())
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(linked)


def docstring(example: str) -> str:
    """What an example says of itself."""
    return ast.get_docstring(ast.parse((EXAMPLES / f"{example}.py").read_text())) or ""


def server_command(example: str) -> tuple[str, list[str]]:
    """The store's scheme and the command that the docstring gives."""
    url, *words = shlex.split(next(line for line in docstring(example).splitlines() if "IDEMSTORE_URL=" in line))
    bind = ["--fd", "FD"] if words[0] == "uvicorn" else ["--bind", "fd://FD"]
    return url.partition("=")[2].partition(":")[0], [sys.executable, "-m", *words, *bind]


def curl(example: str, client: httpx.Client) -> httpx.Response:
    """What the docstring's curl would send."""
    text = docstring(example).replace("\\\n", " ")
    words = shlex.split(next(line for line in text.splitlines() if line.strip().startswith("curl")))
    pairs = list(itertools.pairwise(words))
    headers = dict(value.split(": ", 1) for option, value in pairs if option == "-H")
    (data,) = [value for option, value in pairs if option == "-d"]
    address = next(word for word in words if word.startswith("localhost:8000"))
    return client.post(address.removeprefix("localhost:8000"), headers=headers, content=data)


@pytest.mark.parametrize("example", COLUMNS.values())
def test_an_example_runs_as_it_says(example: str, tmp_path: Path, make_subject):
    """Its docstring's server command and curl: sent twice, it is carried out once."""
    family, words = server_command(example)
    if family not in names():
        pytest.skip(f"{family} is not among IDEMSTORE_SUBJECTS")
    pytest.importorskip(words[2])
    env = {"IDEMSTORE_URL": make_subject(family).url, "DATABASE": str(tmp_path / "business.db")}
    server = Server(words, tmp_path, env)
    try:
        first, again = curl(example, server.client), curl(example, server.client)
    finally:
        server.close()
    assert first.is_success, server.output()
    if example == "meeting_bots":
        assert (again.status_code, again.json()["bot_id"]) == (507, first.json()["bot_id"])
    else:
        assert (again.status_code, again.content) == (first.status_code, first.content)
