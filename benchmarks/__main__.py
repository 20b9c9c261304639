"""Rerun everything: ``python -m benchmarks [--quick | --full] [--only NAME,...] [--list] [--output DIR]``.

Each part runs in a process of its own, with a time limit, on servers that the test harness starts for it, and leaves
one JSON file; then plots and the page of tables are made of all the JSON that is there. ``--page`` does that alone.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks import plots, results
from benchmarks.common import EMULATION, Report
from benchmarks.parts import PARTS, Part
from idemstore.testing.servers import Server, ServerUnavailable, start

ROOT: Final = Path(__file__).parent.parent
OUTPUT: Final = ROOT / "docs" / "benchmarks"
CLI: Final = "bench"
CLI_LIMIT: Final = {"quick": 90.0, "usual": 600.0, "full": 900.0}
CLI_QUICK: Final = ("--seconds", "0.1", "--rounds", "1", "--concurrency", "1,16", "--scenario", "unique,replay")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=_Formatter)
    found.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    found.add_argument("--full", action="store_true", help="up to ten million records")
    found.add_argument("--only", metavar="NAME,...", help="these parts alone")
    found.add_argument("--list", action="store_true", help="say what there is")
    found.add_argument("--page", action="store_true", help="run nothing: plots and page of what is recorded")
    found.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="docs/benchmarks unless given")
    return found.parse_args(given)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs."""


def run(command: Sequence[str], limit: float, text: list[str] | None = None) -> str | None:
    """Run a program within a limit, and whatever it has started; why it failed, None if it did not. ``text``: where
    its lines go, beside the terminal.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pipe = None if text is None else subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=pipe, text=True)
    reader = threading.Thread(target=_collect, args=(process.stdout, text), daemon=True)
    if process.stdout is not None:
        reader.start()
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)  # so that it stops its servers
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return f"stopped after {limit:.0f} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.stdout is not None:
        reader.join(5)
    return f"exit status {code}" if code else None


def _collect(lines: Iterable[str], text: list[str]) -> None:
    """Show what a program prints, and keep it."""
    for line in lines:
        print(line, end="", flush=True)
        text.append(line.rstrip())


def measure(part: Part, output: Path, speed: str) -> str | None:
    """One part; why it failed, None if it did not."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start(part.server)) if part.server else None
        except ServerUnavailable as error:
            return str(error)
        url = server.url if server else ""
        limit = part.seconds(speed)
        target = output / f"{part.name}.json"
        command = part.command(str(target), url, speed)
        if not part.plain:
            why = run(command, limit)
            if server is not None and why is None:
                add_version(target, server)
            return why
        report = Report(part.name, part.what.capitalize())
        why = run(command, limit, report.text)
        report.command = ["python", *command[1:]]
        if why is None:
            report.write(target)
        return why


def add_version(target: Path, server: Server) -> None:
    """Say which server it was, which the program does not know."""
    found = json.loads(target.read_text())
    found["versions"][f"{server.name} server{EMULATION if server.emulation else ''}"] = server.version
    target.write_text(json.dumps(found, indent=1) + "\n")


def measure_cli(output: Path, speed: str) -> str | None:
    """``idemstore bench``, which writes its own report."""
    bench = [sys.executable, "-m", "idemstore", CLI]
    known = subprocess.run([*bench, "--help"], cwd=ROOT, capture_output=True, check=False)
    if known.returncode:
        return "this version has no `idemstore bench`"
    target = output / CLI
    shutil.rmtree(target, ignore_errors=True)
    options = CLI_QUICK if speed == "quick" else ("--all",)
    return run([*bench, *options, "--report", str(target)], CLI_LIMIT[speed])


def names() -> list[str]:
    """Of all parts."""
    return [*(part.name for part in PARTS), CLI]


def listing() -> str:
    """What there is."""
    rows = [(part.name, f"not here: {part.module}" if part.missing() else part.what) for part in PARTS]
    rows.append((CLI, "`idemstore bench --report`, if this version has it"))
    return "\n".join(f"{name:18}{what}" for name, what in rows)


def write_page(output: Path) -> None:
    """Plots and tables of all that is recorded."""
    reports = results.read(output)
    page = results.page(reports, plots.draw(reports, output))
    if (output / CLI / "index.html").exists():
        page += f"\n{results.CLI}"
    (output / "README.md").write_text(page)


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for; the number of parts that failed."""
    options = arguments(given)
    if options.list:
        print(listing())
        return 0
    chosen = names() if options.only is None else options.only.split(",")
    if unknown := set(chosen) - set(names()):
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    speed = "quick" if options.quick else "full" if options.full else "usual"
    failures = {} if options.page else measure_all(chosen, output, speed)
    write_page(output)
    for name, why in failures.items():
        print(f"{name}: {why}")
    return len(failures)


def measure_all(chosen: Sequence[str], output: Path, speed: str) -> dict[str, str]:
    """Every part that was chosen and is there; what failed, and why."""
    failures = {}
    for name in names():
        part = next((part for part in PARTS if part.name == name), None)
        if name not in chosen or (part is not None and part.missing()):
            continue
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        why = measure_cli(output, speed) if part is None else measure(part, output, speed)
        print(f"-- {name}: {why or 'done'}, {time.monotonic() - began:.0f} s", flush=True)
        if why:
            failures[name] = why
    return failures


if __name__ == "__main__":
    sys.exit(main())
