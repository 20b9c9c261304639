"""What is in the wheel, and that it works alone and with others."""

import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packhelp import ROOT, run

pytestmark = pytest.mark.timeout(400)


def test_the_wheel_holds_what_it_needs_and_no_tests(wheel: Path):
    """Every module, Lua and SQL file of the package, and the marker for type checkers; nothing of the repository."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "idemstore").rglob("*") if path.is_file()}
    kept = {name for name in kept if "__pycache__" not in name}
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == kept
    assert "idemstore/py.typed" in inside
    assert any(name.endswith(".lua") for name in inside)
    assert any(name.endswith(".sql") for name in inside)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_metadata_says_what_is_needed(wheel: Path):
    """Without an extra nothing is required; each extra has its packages; the description is the README."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []
    assert all("extra ==" in line for line in required), required
    assert set(metadata.get_all("Provides-Extra") or []) >= {"cli", "redis", "testing"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert str(metadata.get_payload()).startswith("# idemstore\n")


def test_the_wheel_alone_works(bare: Path):
    """Memory and SQLite in both modes; what is missing for the rest is told with the exact command."""
    printed = run(bare, "-I", ROOT / "tests" / "packaging" / "no_extras.py")
    assert "the wheel alone works" in printed


def test_another_distribution_can_bring_a_backend(bare: Path, tmp_path: Path):
    """A package that is built and installed like any other serves its scheme, and cannot replace a built-in one."""
    project = tmp_path / "third-party"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "third-party-store"\nversion = "1.0"\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["third_party_store.py"]\n'
        '[project.entry-points."idemstore.drivers"]\n'
        'Third = "third_party_store:backend"\nmemory = "third_party_store:no_such_thing"\n'
    )
    (project / "third_party_store.py").write_text(
        "from idemstore.backends.memory import MemoryBackend\nbackend = MemoryBackend()\n"
    )
    run(sys.executable, "-m", "pip", "--python", bare, "install", "--quiet", "--no-deps", project)
    used = (
        "import sys, idemstore\n"
        "assert 'third' in idemstore.schemes()\n"
        "assert 'third_party_store' not in sys.modules\n"
        "store = idemstore.open('third://')\n"
        "assert isinstance(store.claim('key'), idemstore.Claimed)\n"
        "assert isinstance(idemstore.open('memory://').claim('key'), idemstore.Claimed)\n"
    )
    run(bare, "-I", "-c", used)
