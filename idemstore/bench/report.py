"""Writes the report: ``results.json`` and ``index.html``, each whole or not at all."""

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from idemstore.bench.conductor import Run
from idemstore.bench.plan import Plan
from idemstore.bench.results import Start, document
from idemstore.errors import ConfigurationError, InvalidInput, MissingPackage


def check(directory: Path) -> None:
    """Refuse, before anything is measured, what could not be written in the end."""
    if find_spec("matplotlib") is None:
        raise MissingPackage("--report needs the package 'matplotlib' for its plots: pip install 'idemstore[bench]'")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InvalidInput(
            f"--report {directory}: it cannot be written ({error.strerror}); name a directory that can"
        ) from error


def write(directory: Path, start: Start, plan: Plan, seconds: float, run: Run) -> None:
    """Both files."""
    from idemstore.bench.page import page  # it needs matplotlib

    try:
        replace(directory / "results.json", json.dumps(document(start, plan, seconds, run), indent=1) + "\n")
        replace(directory / "index.html", page(start, plan, seconds, run))
    except OSError as error:
        raise ConfigurationError(f"the report could not be written to {directory}: {error.strerror}") from error


def replace(path: Path, text: str) -> None:
    """Write a file beside the one that is to be, then put it in its place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
