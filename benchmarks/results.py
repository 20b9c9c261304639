"""From the JSON of the parts to pages: one table for each part, in ``docs/benchmarks/README.md``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NotRequired, TypedDict

from benchmarks.common import Row, Scalar, shown

HEAD: Final = """# Benchmarks

Measured by `python -m benchmarks`, which wrote this page and the plots; `--quick` takes ten minutes, `--list` says what
there is, `--only NAME,...` takes some, `--full` goes to ten million records. The other libraries come by
`python -m pip install --group peers` (pip 25.1 or newer), micro-benchmarks and plots by `--group bench`. All of it is
in the repository, not in the package.

Ratios are taken between things that were measured in turns within one run, so that whatever else the machine does hits
both alike; absolute figures are worth what the machine was worth at that moment (see *load*: programs that were
running or wanted to, the last minute before and after).
"""


CLI: Final = """## The command line's own benchmark

`idemstore bench --all`: every store beside the floor of its own client library, by scenario and number of callers:
[the page](bench/index.html), [the figures](bench/results.json).
"""


class Recorded(TypedDict):
    """A report as it was written."""

    part: str
    title: str
    command: str
    date: str
    seconds: float
    load: Mapping[str, float | None]
    machine: Mapping[str, Scalar]
    python: Mapping[str, Scalar]
    versions: Mapping[str, str]
    notes: Sequence[str]
    rows: Sequence[Row]
    text: NotRequired[Sequence[str]]


def read(directory: Path) -> list[Recorded]:
    """All reports of a directory."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]


def columns(rows: Sequence[Row]) -> list[str]:
    """Those that any row fills, in the order in which they appear."""
    return list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of the same kind (``measured``, or whether one key was asked for at once) share a table."""
    found: dict[object, list[Row]] = {}
    for row in rows:
        kind = row.get("measured") or (row.get("operation") == "one key at once")
        found.setdefault(kind, []).append(row)
    return list(found.values())


def markdown(rows: Sequence[Row]) -> str:
    """A table: text to the left, numbers to the right."""
    names = [name for name in columns(rows) if name != "measured"]
    text = [all(isinstance(row.get(name), str | None) for row in rows) for name in names]
    lines = [
        "| " + " | ".join(heading(name) for name in names) + " |",
        "|" + "|".join("---" if left else "---:" for left in text) + "|",
        *("| " + " | ".join(shown(row.get(name)).replace("|", "\\|") for name in names) + " |" for row in rows),
    ]
    return "\n".join(lines)


UNITS: Final = {"us": "µs", "ms": "ms", "mb": "MB", "percent": "%", "s": "s"}


def heading(name: str) -> str:
    """``claim_p99_us`` reads ``claim p99, µs``."""
    what, _, unit = name.rpartition("_")
    if name.endswith("_per_s"):
        return f"{name.removesuffix('_per_s').replace('_', ' ')} /s"
    return f"{what.replace('_', ' ')}, {UNITS[unit]}" if what and unit in UNITS else name.replace("_", " ")


def circumstances(report: Recorded) -> str:
    """When, where and how."""
    machine, python, load = report["machine"], report["python"], report["load"]
    versions = ", ".join(f"{name} {text}" for name, text in report["versions"].items())
    return (
        f"`{report['command']}`, {report['date']}, {report['seconds']:.0f} s; {machine['cores']} cores of "
        f"{machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}; load {load['before']} before, "
        f"{load['after']} after; {python['implementation']} {python['version']} ({python['compiler']}, "
        f"built {python['built']}, yardstick {python['yardstick_ms']} ms); {versions}."
    )


def section(report: Recorded, plots: Sequence[str]) -> str:
    """One part."""
    pieces = [f"## {report['title']}", circumstances(report)]
    pieces += [f"![{name.removesuffix('.svg').replace('-', ' ')}]({name})" for name in plots]
    pieces += [markdown(rows) for rows in groups(report["rows"])]
    if text := report.get("text"):
        pieces.append("\n".join(["```", *text, "```"]))
    if report["notes"]:
        pieces.append("\n".join(f"- {note}" for note in report["notes"]))
    return "\n\n".join(pieces)


def page(reports: Sequence[Recorded], plots: Mapping[str, Sequence[str]]) -> str:
    """The whole page."""
    return "\n\n".join([HEAD.rstrip(), *(section(report, plots.get(report["part"], ())) for report in reports)]) + "\n"
