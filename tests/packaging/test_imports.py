"""Who may import whom; what ``import idemstore`` loads."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packhelp import ROOT

PACKAGE = ROOT / "idemstore"
CORE = {
    "outcomes": set(),
    "errors": set(),
    "machine": {"outcomes", "errors"},
    "exchange": {"machine", "outcomes", "errors"},
    "keys": {"errors"},
    "flows": {"exchange", "keys", "machine", "outcomes", "errors"},
}
"""Which of each other the modules of the core may import."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_the_standard_library_and_itself(module: str):
    """The machine, outcomes, exchanges and flows could be lifted out of the package."""
    allowed = {f"idemstore.{name}" for name in CORE[module]}
    for name in imports(PACKAGE / f"{module}.py"):
        assert name in allowed or name.partition(".")[0] in sys.stdlib_module_names, name


def test_importing_loads_nothing_that_is_not_asked_for():
    """No client library, no SQLite, no asyncio, no command line, no test tool."""
    code = "import idemstore, sys, json; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before = subprocess.run(
        [sys.executable, "-c", "import sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = {name.partition(".")[0] for name in set(json.loads(printed)) - set(json.loads(before))}
    unwanted = {"redis", "sqlite3", "asyncio", "rich", "typer", "pytest", "hypothesis", "ssl", "multiprocessing"}
    assert not loaded & unwanted, loaded & unwanted
    assert loaded - sys.stdlib_module_names == {"idemstore"}


def test_a_family_is_loaded_when_its_url_is_opened():
    """And not its neighbours."""
    code = (
        "import idemstore, sys\n"
        "idemstore.open('sqlite:///x.db')\n"
        "print(sorted(name for name in sys.modules if name.startswith('idemstore.backends.')))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"backends\.(\w+)", printed)) == {"sqlite"}


def test_the_import_contracts_hold():
    """What ``lint-imports`` checks, where it is installed: layers, families apart, clients and tools in their place."""
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_no_line_names_a_machine_or_a_registry():
    """No path of somebody's machine and no host of a package registry stands in any file of the repository."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=ROOT)
    if listed.returncode:
        pytest.skip("no git checkout")
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org"]
    paths = ["/" + "root/", "/" + "home/", "/" + "work/"]
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        text = path.read_text(errors="replace") if path.is_file() else ""
        found += [f"{name}: {word}" for word in (*hosts, *paths) if word in text]
    assert found == []
