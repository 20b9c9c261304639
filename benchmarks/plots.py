"""Plots of what was recorded, as SVG: matplotlib draws them, and nothing is drawn where it is not installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.common import EMULATION, Row
from benchmarks.results import Recorded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = {
    "theirs": "#8a8f98",
    "idemstore guard": "#1f77b4",
    "idemstore claim+complete": "#7fb3d9",
    "idemstore async guard": "#2ca089",
}
LABELS: Final = {"aws-lambda-powertools": "AWS Lambda\nPowertools", "idempotency-kit": "idempotency\n-kit"}
FAMILIES: Final = ("memory", "sqlite", "redis", "postgresql", "mongodb", "dynamodb")
PALETTE: Final = ("#8a8f98", "#d17a22", "#c0392b", "#1f77b4", "#2ca089", "#7d5ba6")


def number(row: Row, name: str) -> float:
    """A column as a number; 0 where there is none."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def draw(reports: Sequence[Recorded], directory: Path) -> Mapping[str, list[str]]:
    """Every plot that the reports give; their names by part."""
    if find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed (python -m pip install --group bench)")
        return {report["part"]: names_of(report["part"], directory) for report in reports}
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "idemstore", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "svg.fonttype": "path"})
    found: dict[str, list[str]] = {}
    for report in reports:
        painter = {"peers": peers, "scale": scale, "micro": micro}.get(report["part"])
        if painter is not None and report["rows"]:
            found[report["part"]] = painter(report["rows"], directory)
    measured = [report for report in reports if report["part"].endswith("_floor")]
    if measured:
        found[measured[0]["part"]] = [floors(measured, directory)]
    return found


def floors(reports: Sequence[Recorded], directory: Path) -> str:
    """One caller, in units of the bare calls of the same client, measured in turns; 1 is as fast as those."""
    from matplotlib.figure import Figure

    found = {
        f"{name_of(report)}: {floor_of(row)}": ratio_of(row)
        for report in reports
        for row in report["rows"]
        if ratio_of(row)
    }
    figure = Figure(figsize=(7, 0.6 + 0.2 * len(found)))
    axes = figure.subplots()
    held = axes.barh(list(found)[::-1], list(found.values())[::-1], color="#7fb3d9")
    axes.bar_label(held, [f" {value:.2f}" for value in list(found.values())[::-1]], fontsize=7)
    axes.axvline(1, color="#444", linewidth=0.6)
    axes.set_title("time of one caller's call, in units of the bare calls of the same client", fontsize=9)
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.1, y=0.01)
    return save(figure, directory, "floors.svg")


def ratio_of(row: Row) -> float:
    """Of one caller; SQLite's is in units of one write, and a claim and its completion are two."""
    if row.get("operation") == "claim + complete" and "bare_writes" in row:
        return number(row, "bare_writes") / 2
    return number(row, "ratio")


def name_of(report: Recorded) -> str:
    """The family; said where its server is an emulation."""
    family = report["part"].removesuffix("_floor")
    return family + (EMULATION if f"{family} server{EMULATION}" in report["versions"] else "")


def floor_of(row: Row) -> str:
    """What a row of a floor program is about."""
    names = [row.get(name) for name in ("placement", "server", "driver", "mode", "operation")]
    floor = f"/ {row['floor']}" if row.get("floor") else ""
    return " ".join(str(name) for name in (*names, floor) if name)


def names_of(part: str, directory: Path) -> list[str]:
    """Plots that were drawn earlier."""
    return sorted(path.name for path in directory.glob(f"{part}-*.svg"))


def save(figure: Figure, directory: Path, name: str) -> str:
    """Write a plot; the same data give the same file."""
    figure.savefig(directory / name, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    return name


def peers(rows: Sequence[Row], directory: Path) -> list[str]:
    """Throughput of new keys and of replays: a panel for each number of callers."""
    from matplotlib.figure import Figure

    names = []
    for operation, name in (("new key", "peers-new-keys.svg"), ("replay", "peers-replays.svg")):
        chosen = [row for row in rows if row["operation"] == operation]
        callers = sorted({int(number(row, "callers")) for row in chosen})
        figure = Figure(figsize=(13, 4.4))
        for position, axes in enumerate(figure.subplots(1, len(callers), squeeze=False)[0]):
            bars(axes, [row for row in chosen if row["callers"] == callers[position]])
            axes.set_title(f"{operation}, {callers[position]} caller{'s' * (callers[position] > 1)}")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, bbox_to_anchor=(0.5, -0.05))
        figure.tight_layout()
        names.append(save(figure, directory, name))
    return names


def label_of(library: str, server: str) -> str:
    """In short lines."""
    return f"{LABELS.get(library, library)}\n{server}".replace(" (", "\n(")


def bars(axes: Axes, rows: Sequence[Row]) -> None:
    """Relative to the other library, which is 1; above each bar how many operations a second it was."""
    pairs = list(dict.fromkeys((str(row["library"]), str(row["server"])) for row in rows))
    for place, pair in enumerate(pairs):
        mine = [row for row in rows if (row["library"], row["server"]) == pair]
        for offset, row in enumerate(mine):
            theirs = row["contender"] == row["library"]
            height = 1.0 if theirs else number(row, "ratio")
            kind = "theirs" if theirs else str(row["contender"])
            across = place + (offset - (len(mine) - 1) / 2) * 0.8 / len(mine)
            axes.bar(across, height, 0.76 / len(mine), color=COLOURS[kind], label=None)
            rate = number(row, "rate_per_s")
            axes.text(across, height, f" {rate:,.0f}/s", ha="center", va="bottom", fontsize=6, rotation=90)
    for kind, colour in COLOURS.items():
        axes.bar(0, 0, color=colour, label="the other library" if kind == "theirs" else kind)
    axes.axhline(1, color="#444", linewidth=0.6)
    axes.set_xticks(range(len(pairs)), [label_of(*pair) for pair in pairs])
    axes.tick_params(axis="x", labelsize=6.5)
    axes.set_ylabel("times as fast")
    axes.margins(y=0.22)


def scale(rows: Sequence[Row], directory: Path) -> list[str]:
    """Claim latency against the number of records, and what purge does to claims."""
    from matplotlib.figure import Figure

    claims = [row for row in rows if row["measured"] == "claims"]
    names = []
    if claims:
        figure = Figure(figsize=(10, 4))
        left, right = figure.subplots(1, 2)
        lines(left, claims, "claim_p50_us", "a claim of a new key, median, µs", log=True)
        lines(right, claims, "claim_p50_ratio", "against a store of 1,000 records, in turns", log=False)
        right.axhline(1.3, color="#c0392b", linestyle=":", linewidth=1)
        right.text(10**6.99, 1.32, "goal: at most 1.3", va="bottom", ha="right", fontsize=7, color="#c0392b")
        right.set_ylim(0, 2)
        left.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        names.append(save(figure, directory, "scale-claims.svg"))
        names.append(storage(claims, directory))
    purged = [row for row in rows if row["measured"] == "purge"]
    return [*names, purge(purged, directory)] if purged else names


def lines(axes: Axes, rows: Sequence[Row], column: str, title: str, *, log: bool) -> None:
    """A line for each family."""
    for family, colour in zip(FAMILIES, PALETTE, strict=True):
        mine = [row for row in rows if str(row["family"]).startswith(family)]
        if mine:
            xs, ys = [number(row, "records") for row in mine], [number(row, column) for row in mine]
            axes.plot(xs, ys, marker="o", markersize=3, color=colour, label=str(mine[0]["family"]))
    axes.set_xscale("log")
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("records present")
    axes.set_title(title, fontsize=9)
    axes.grid(axis="y", linewidth=0.3)


def storage(rows: Sequence[Row], directory: Path) -> str:
    """Bytes per record of the largest size of each family."""
    from matplotlib.figure import Figure

    largest = {str(row["family"]): row for row in rows if row.get("bytes_per_record")}
    figure = Figure(figsize=(5, 0.5 + 0.4 * len(largest)))
    axes = figure.subplots()
    names = list(largest)[::-1]
    sizes = [number(largest[name], "bytes_per_record") for name in names]
    held = axes.barh(names, sizes, color="#7fb3d9")
    axes.bar_label(held, [f" {size:,.0f}" for size in sizes], fontsize=8)
    axes.set_title("bytes per record: key, token, fingerprint, result of 185 bytes, indexes", fontsize=8)
    axes.margins(x=0.15)
    return save(figure, directory, "scale-storage.svg")


def purge(rows: Sequence[Row], directory: Path) -> str:
    """The p50 and p99 of claims before and during a purge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    kinds = [("p50", "before"), ("p50", "during"), ("p99", "before"), ("p99", "during")]
    for offset, (share, when) in enumerate(kinds):
        heights = [number(row, f"claim_{share}_{when}_us") / 1000 for row in rows]
        places = [place + (offset - 1.5) * 0.2 for place in range(len(rows))]
        colour = {"before": "#8a8f98", "during": "#d17a22"}[when]
        held = axes.bar(places, heights, 0.18, color=colour, alpha=0.55 if share == "p50" else 1.0)
        axes.bar_label(held, [f"{share}\n{height:.3g}" for height in heights], fontsize=7)
    for when, colour in (("before", "#8a8f98"), ("during", "#d17a22")):
        axes.bar(0, 0, color=colour, label=f"{when} the purge")
    labels = [f"{row['family']}\n{number(row, 'purged_per_s'):,.0f} rows/s purged" for row in rows]
    axes.set_xticks(range(len(rows)), labels)
    axes.set_yscale("log")
    axes.set_ylabel("a claim, ms")
    axes.margins(y=0.25)
    axes.legend(frameon=False, fontsize=8)
    return save(figure, directory, "scale-purge.svg")


def micro(rows: Sequence[Row], directory: Path) -> list[str]:
    """The least time of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.2 * len(rows)))
    axes = figure.subplots()
    names = [str(row["benchmark"]) for row in rows][::-1]
    times = [number(row, "least_us") for row in rows][::-1]
    held = axes.barh(names, times, color="#7fb3d9")
    axes.bar_label(held, [f" {time:.3g}" for time in times], fontsize=7)
    axes.set_title("least time, µs", fontsize=9)
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.1, y=0.01)
    return [save(figure, directory, "micro-times.svg")]
