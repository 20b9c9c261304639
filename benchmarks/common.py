"""What the programs here repeat: a report, printed and written as JSON (``--json FILE``); percentiles; turns.

A report is one file: what was measured (``rows``: flat, one scalar per column), and all that one needs to judge it
(versions, machine, load, date, command). A column's name ends in its unit: ``p99_us``, ``ours_ms``, ``rate_per_s``.
"""

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

Scalar = str | int | float | bool | None
Row = dict[str, Scalar]

DIGITS: Final = 5
"""Significant digits that are recorded of a measurement."""
YARDSTICK_TURNS: Final = 20_000
EMULATION: Final = " (emulation)"


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser with the option that all programs have."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0..1) of all do not exceed; the nearest rank, nothing interpolated."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def turns(contenders: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Every contender once in each round, another one first each time: what else happens hits all of them alike."""
    for turn in range(rounds):
        start = turn % len(contenders)
        for contender in (*contenders[start:], *contenders[:start]):
            yield turn, contender


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios within the rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def rounded(value: Scalar) -> Scalar:
    """A measurement, without digits that mean nothing."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    return value


def cpu() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def load() -> float | None:
    """The load of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def machine() -> Row:
    """Where this runs."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def interpreter() -> Row:
    """Which Python; and how fast it is here and now, since builds and moments differ."""
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "compiler": platform.python_compiler(),
        "built": platform.python_build()[1],
        "yardstick_ms": rounded(yardstick() * 1000),
    }


def yardstick() -> float:
    """Seconds that this interpreter takes for a fixed piece of plain work, at best."""
    return min(_yardstick() for _ in range(7))


def _yardstick() -> float:
    """Calls, tuples, a dict."""

    def double(number: int) -> int:
        return number + number

    start = time.perf_counter()
    found: dict[str, tuple[int, int]] = {}
    for number in range(YARDSTICK_TURNS):
        found[f"key-{number & 255}"] = (number, double(number))
    return time.perf_counter() - start


def version(package: str) -> str | None:
    """Of an installed package; None where it is not here."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(*packages: str) -> Row:
    """Of those that are here."""
    found = {name: version(name) for name in ("idemstore", *packages)}
    return {name: text for name, text in found.items() if text is not None}


class Report:
    """What one program has measured."""

    def __init__(self, part: str, title: str, *packages: str) -> None:
        self.part, self.title = part, title
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.text: list[str] = []
        """What a program that writes no rows has printed."""
        self.command = ["python", "-m", f"benchmarks.{part}", *sys.argv[1:]]
        self.versions = versions(*packages)
        self.started = time.time()
        self.load = load()

    def row(self, **columns: Scalar) -> Row:
        """Record one row."""
        self.rows.append({name: rounded(value) for name, value in columns.items()})
        return self.rows[-1]

    def server(self, name: str, version: str, *, emulation: bool) -> None:
        """Record which server it was."""
        self.versions[f"{name} server{EMULATION if emulation else ''}"] = version

    def note(self, text: str) -> None:
        """Record, and print, what a reader must know."""
        self.notes.append(text)
        print(text)

    def as_json(self) -> Mapping[str, object]:
        """All of it."""
        return {
            "part": self.part,
            "title": self.title,
            "command": shlex.join(_without_paths(self.command)),
            "date": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 1),
            "load": {"before": self.load, "after": load()},
            "machine": machine(),
            "python": interpreter(),
            "versions": self.versions,
            "notes": self.notes,
            "text": self.text,
            "rows": self.rows,
        }

    def write(self, path: Path | None) -> None:
        """Write it where ``--json`` says."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.as_json(), indent=1) + "\n")


def _without_paths(command: Sequence[str]) -> Iterable[str]:
    """The command as anybody could give it: not where the results went, nor at which port a server was."""
    skip = False
    for word in command:
        if skip or word.startswith("--json="):
            skip = False
        elif word == "--json":
            skip = True
        else:
            yield f"{word.partition(':')[0]}:URL" if "://" in word and "127.0.0.1" in word else word


def table(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    """Rows as text, for a terminal: the columns in the order in which they appear."""
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    cells = [[name.replace("_", " ") for name in names], *([shown(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    left = [all(isinstance(row.get(name), str | None) for row in rows) for name in names]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    )


def shown(value: Scalar) -> str:
    """A cell."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            if value and abs(value) < 1:
                return f"{value:.3g}"
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        case _:
            return value
