"""A run as JSON. The format is described in docs/benchmarks.md, and a change that breaks a reader changes its name."""

import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Final

import idemstore
from idemstore.bench.conductor import Run
from idemstore.bench.figures import Row
from idemstore.bench.plan import Plan

FORMAT: Final = "idemstore-bench/1"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def load() -> list[float]:
    """The machine's load averages over 1, 5 and 15 minutes; empty where it has none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


def now() -> str:
    """UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it ran."""

    python: str = field(default_factory=platform.python_version)
    implementation: str = field(default_factory=platform.python_implementation)
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.release()} {platform.machine()}")
    cores: int = field(default_factory=lambda: os.cpu_count() or 0)
    idemstore: str = idemstore.__version__
    load_start: list[float] = field(default_factory=load)

    @property
    def busy(self) -> str | None:
        """What to say where other programs keep the machine busy."""
        if not self.load_start or self.load_start[0] < self.cores / 2:
            return None
        return (
            f"The machine is busy: load average {self.load_start[0]:g} on {self.cores} cores. Trust the ratios rather "
            "than the rates, and on a network --added-latency most."
        )


@dataclass(frozen=True, slots=True)
class Start:
    """What is known when a run begins."""

    machine: Machine = field(default_factory=Machine)
    began: str = field(default_factory=now)


def row_json(row: Row, plan: Plan) -> dict[str, Json]:
    """One row with its rounds."""
    medians: dict[str, Json] = {
        "throughput": row.throughput,
        "floor_throughput": row.floor_throughput,
        "ratio": row.ratio,
        "p50_ms": row.median(lambda one: one.store.p50_ms),
        "p95_ms": row.median(lambda one: one.store.p95_ms),
        "p99_ms": row.median(lambda one: one.store.p99_ms),
        "floor_p50_ms": row.median(lambda one: one.floor.p50_ms if one.floor else None),
        "floor_p95_ms": row.median(lambda one: one.floor.p95_ms if one.floor else None),
        "floor_p99_ms": row.median(lambda one: one.floor.p99_ms if one.floor else None),
        "round_trips_per_op": row.median(lambda one: one.store.round_trips_per_op),
        "wire_round_trips_per_op": row.median(lambda one: one.store.wire_round_trips_per_op),
        "cpu_us_per_op": row.median(lambda one: one.store.cpu_us_per_op),
        "floor_cpu_us_per_op": row.median(lambda one: one.floor.cpu_us_per_op if one.floor else None),
    }
    return {
        "target": row.target,
        "mode": row.cell.mode,
        "scenario": str(row.cell.scenario),
        "callers": row.cell.callers,
        "processes": min(plan.processes, row.cell.callers),
        **medians,
        "errors": dict(row.errors),
        "floor_errors": dict(row.floor_errors),
        "exactly_one_claimed": not row.violations,
        "violations": list(row.violations),
        "notes": list(row.notes),
        "rounds": [asdict(one) for one in row.rounds],
    }


def document(start: Start, plan: Plan, seconds: float, run: Run) -> dict[str, Json]:
    """Everything. ``seconds``: how long a sample took."""
    return {
        "format": FORMAT,
        "run": run.run,
        "began": start.began,
        "ended": now(),
        "interrupted": run.interrupted,
        "violated": run.violated,
        "machine": {**asdict(start.machine), "load_end": list[Json](load())},
        "plan": {
            "scenarios": [str(scenario) for scenario in plan.scenarios],
            "concurrency": list(plan.concurrency),
            "modes": list(plan.modes),
            "processes": plan.processes,
            "rounds": plan.rounds,
            "seconds": seconds if plan.operations is None else None,
            "operations": plan.operations,
            "added_latency_ms": plan.latency,
        },
        "targets": [asdict(subject) for subject in run.subjects],
        "left_out": [{"name": name, "reason": reason} for name, reason in run.left_out],
        "broken": [{"name": name, "reason": reason} for name, reason in run.broken],
        "rows": [row_json(row, plan) for row in run.rows],
    }
