"""Run the micro-benchmarks and compare: ``python -m benchmarks.micro [--json FILE] [--against FILE]``.

The least time of each counts: whatever else a machine does only adds to it. (Counts of instructions would be steadier,
but virtual machines rarely have the counters.) To compare machines, and Pythons, a time is
also given in *units*: how long the same interpreter takes, at the same moment, for one turn of a fixed loop (a call, a
tuple, a dict entry). What is recorded in docs/benchmarks/micro.json is compared in units. It never fails.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.common import YARDSTICK_TURNS, Report, Scalar, parser, table, version, yardstick

HERE: Final = Path(__file__).parent
RECORDED: Final = HERE.parent.parent / "docs" / "benchmarks" / "micro.json"
SECONDS: Final = 0.15
"""For each benchmark."""


def run(target: Path) -> None:
    """In a process of its own, with none of the project's other settings of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:xdist", "-p", "no:asyncio"]
    limits = [f"--benchmark-max-time={SECONDS}", "--benchmark-min-time=0.00005", "--benchmark-disable-gc"]
    subprocess.run([*command, *limits, f"--benchmark-json={target}", str(HERE)], check=True, stdout=subprocess.DEVNULL)


def recorded(path: Path) -> Mapping[str, float]:
    """Units by name; empty where nothing was recorded."""
    if not path.exists():
        return {}
    rows: list[dict[str, Scalar]] = json.loads(path.read_text())["rows"]
    return {str(row["benchmark"]): float(str(row["units"])) for row in rows}


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
    report, before = Report("micro", "The pure parts, each by itself", "pytest-benchmark"), recorded(options.against)
    with tempfile.TemporaryDirectory(prefix="idemstore-micro-") as directory:
        target = Path(directory) / "micro.json"
        first = yardstick()
        run(target)
        unit = min(first, yardstick()) / YARDSTICK_TURNS
        measured = json.loads(target.read_text())["benchmarks"]
    for benchmark in measured:
        name, least = name_of(benchmark["name"]), float(benchmark["stats"]["min"])
        units = least / unit
        change = round((units / before[name] - 1) * 100) if name in before else None
        report.row(benchmark=name, least_us=least * 1e6, units=units, change_percent=change)
    print(table(report.rows))
    if not before:
        report.note("nothing recorded to compare with")
    report.write(options.json)


if __name__ == "__main__":
    main()
