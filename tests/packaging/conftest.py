"""The wheel under test, built once, and environments to install it in."""

import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packhelp import ROOT, run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    place = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, ROOT)
    (made,) = place.glob("*.whl")
    return made


@pytest.fixture
def bare(wheel: Path, tmp_path: Path) -> Path:
    """The Python of a fresh environment that has the wheel and nothing else, not even pip."""
    home = tmp_path / "bare"
    run(sys.executable, "-m", "venv", "--without-pip", home)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(sysconfig.get_path("purelib", vars={"base": str(home)}))
    return home / "bin" / "python"
