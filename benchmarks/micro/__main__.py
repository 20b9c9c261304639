"""Run the micro-benchmarks and compare: ``python -m benchmarks.micro [--json FILE] [--against FILE]``.

*bytecodes*: how many instructions of the interpreter one call executes; the same on every machine, so any change is the
program's, as long as the version of Python is the same. (What C functions do inside is not in it; counts of the
processor's instructions would have it, but virtual machines rarely have the counters.) *least*: the least time, since
whatever else a machine does only adds to it; and in *units*: how long the same interpreter takes, just before or after,
for one turn of a fixed loop (a call, a tuple, a dict entry), by which machines and moments are compared, roughly.
What is recorded in docs/benchmarks/micro.json is compared with. It never fails.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.common import YARDSTICK_TURNS, Report, Row, Scalar, parser, table, version

HERE: Final = Path(__file__).parent
RECORDED: Final = HERE.parent.parent / "docs" / "benchmarks" / "micro.json"
SECONDS: Final = 0.15
"""For each benchmark."""


def run(target: Path) -> None:
    """In a process of its own, with none of the project's other settings of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:xdist", "-p", "no:asyncio"]
    limits = [f"--benchmark-max-time={SECONDS}", "--benchmark-min-time=0.00005", "--benchmark-disable-gc"]
    subprocess.run([*command, *limits, f"--benchmark-json={target}", str(HERE)], check=True, stdout=subprocess.DEVNULL)


def recorded(path: Path) -> tuple[str, Mapping[str, Mapping[str, Scalar]]]:
    """Version of Python, and rows by name; none where nothing was recorded."""
    if not path.exists():
        return "", {}
    found = json.loads(path.read_text())
    return minor(found["python"]["version"]), {row["benchmark"]: row for row in found["rows"]}


def minor(python: str) -> str:
    """Of 3.11.2, 3.11."""
    return ".".join(python.split(".")[:2])


def change(row: Row, before: Mapping[str, Scalar], column: str) -> int | None:
    """In percent."""
    old, new = before.get(column), row[column]
    return round((new / old - 1) * 100) if isinstance(old, int | float) and isinstance(new, int | float) else None


def name_of(node: str) -> str:
    """``test_dialect[claim-redis]`` reads ``dialect claim redis``."""
    test, _, parameters = node.removeprefix("test_").rstrip("]").partition("[")
    return f"{test} {parameters.replace('-', ' ')}".strip()


def main() -> None:
    """Run, print, compare."""
    found = parser(__doc__)
    found.add_argument("--against", type=Path, default=RECORDED, help="an earlier report")
    options = found.parse_args()
    if version("pytest-benchmark") is None:
        print("pytest-benchmark is not installed: python -m pip install --group bench-micro")
        return
    report, (python, before) = (
        Report("micro", "The pure parts, each by itself", "pytest-benchmark"),
        recorded(options.against),
    )
    with tempfile.TemporaryDirectory(prefix="idemstore-micro-") as directory:
        target = Path(directory) / "micro.json"
        run(target)
        measured = json.loads(target.read_text())["benchmarks"]
    printed = []
    for benchmark in measured:
        name, least, extra = name_of(benchmark["name"]), float(benchmark["stats"]["min"]), benchmark["extra_info"]
        units = least / (extra["yardstick"] / YARDSTICK_TURNS)
        row = report.row(benchmark=name, bytecodes=extra["bytecodes"], least_us=least * 1e6, units=units)
        old = before.get(name, {})
        same = python == minor(platform.python_version())
        changed: Row = {"bytecodes_change_percent": change(row, old, "bytecodes") if same else None}
        printed.append({**row, **changed, "units_change_percent": change(row, old, "units")})
    print(table(printed))
    if not before:
        print("nothing recorded to compare with")
    report.write(options.json)


if __name__ == "__main__":
    main()
