"""The plots, as SVG to stand inside a page. matplotlib alone; nothing is fetched, no file is written."""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import matplotlib as mpl
from matplotlib import RcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from idemstore.bench.figures import Row
from idemstore.bench.plan import Mode, Scenario

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F6A00")
"""Okabe and Ito's, which people tell apart whatever colours they see; the yellow is darker, to be seen on white."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")
INK, FAINT, GRID = "#24292f", "#6e7781", "#e4e7eb"
FONTS: Final = "'DejaVu Sans', Verdana, sans-serif"
"""Verdana is as wide: what was laid out for the one fits the other."""
GAP: Final = "\u00a0" * 4
"""SVG would make one of several plain spaces."""
MOST_TICKS: Final = 8
PANEL: Final = 4.6
"""Inches."""
STYLE: Final[RcParams] = RcParams(
    {
        "svg.fonttype": "none",
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
    }
)


class Look(NamedTuple):
    """How a target is drawn, in every plot."""

    colour: str
    marker: str


def looks(targets: Sequence[str]) -> dict[str, Look]:
    """Colour and marker for each; both change, so that neither has to be seen."""
    return {
        name: Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]) for place, name in enumerate(targets)
    }


def short(value: float, _: int = 0) -> str:
    """A number for an axis."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def ladder(values: Iterable[float]) -> list[float]:
    """Round numbers around the values, for the ticks of a log scale: at least two, not too many."""
    found = [value for value in values if value > 0]
    if not found:
        return [1.0, 10.0]
    low, high = min(found) / 1.15, max(found) * 1.15
    for steps, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 4)):
        ticks = [step * 10.0**power for power in range(-8, 13, stride) for step in steps]
        around = [tick for tick in ticks if tick < low][-1:]
        around += [tick for tick in ticks if low <= tick <= high]
        around += [tick for tick in ticks if tick > high][:1]
        if len(around) <= MOST_TICKS:
            break
    return around


def scale(axes: Axes, which: str, values: Iterable[float], unit: Callable[[float, int], str] = short) -> None:
    """A log axis with round numbers at its ticks and at its ends."""
    ticks = ladder(values)
    if which == "x":
        axes.set_xscale("log")
        axis: Axis = axes.xaxis
        axes.set_xlim(ticks[0], ticks[-1])
    else:
        axes.set_yscale("log")
        axis = axes.yaxis
        axes.set_ylim(ticks[0], ticks[-1])
    axis.set_ticks(ticks)
    axis.set_major_formatter(FuncFormatter(unit))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def callers_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """The number of callers, at the numbers that were measured."""
    found = sorted({row.cell.callers for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(found, [str(count) for count in found])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(found[0] / 1.4, found[-1] * 1.4)
    axes.set_xlabel("concurrent callers")
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def modes_of(rows: Sequence[Row]) -> list[Mode]:
    """The modes that there are figures of."""
    return [mode for mode in ("sync", "async") if any(row.cell.mode == mode for row in rows)]


def panels(rows: Sequence[Row], height: float) -> tuple[Figure, list[tuple[Axes, Mode, list[Row]]]]:
    """A figure with one panel for each mode, with the same scales."""
    modes = modes_of(rows)
    figure = Figure(figsize=(PANEL * len(modes) + 2.2, height), layout="constrained")
    grid = figure.subplots(1, len(modes), sharey=True, squeeze=False)
    return figure, [
        (grid[0][place], mode, [row for row in rows if row.cell.mode == mode]) for place, mode in enumerate(modes)
    ]


def legend(figure: Figure, rows: Sequence[Row], look: dict[str, Look], extra: Sequence[Line2D] = ()) -> None:
    """Beside the panels, so that it hides nothing."""
    there = [name for name in look if any(row.target == name for row in rows)]
    handles = [Line2D([], [], color=look[name].colour, marker=look[name].marker, label=_brief(name)) for name in there]
    figure.legend(handles=[*handles, *extra], loc="outside right upper", handlelength=2.6)


def _brief(name: str) -> str:
    """A label that leaves room for the plot."""
    return name if len(name) <= 34 else f"{name[:16]}…{name[-17:]}"


def svg(figure: Figure, title: str) -> str:
    """The figure as an element of a page, with a name for those who cannot see it. Its ids are its own in the page."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for size in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    stem = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{stem}-", text)
    text = text.replace("'DejaVu Sans'", FONTS)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def drawn(
    make: Callable[[Sequence[Row], dict[str, Look]], Figure], rows: Sequence[Row], look: dict[str, Look]
) -> Figure:
    """A figure in our style."""
    with mpl.rc_context(STYLE):
        return make(rows, look)


def throughput(rows: Sequence[Row], look: dict[str, Look]) -> Figure:
    """Operations a second against callers; the floor dashed."""
    figure, parts = panels(rows, 4.3)
    values = [value for row in rows for value in (row.throughput, row.floor_throughput) if value]
    for axes, mode, mine in parts:
        for name, (colour, marker) in look.items():
            line = [row for row in mine if row.target == name]
            here = [row.cell.callers for row in line]
            axes.plot(here, [row.throughput or 0 for row in line], color=colour, marker=marker, linewidth=1.8)
            bare = [(row.cell.callers, row.floor_throughput) for row in line if row.floor_throughput]
            axes.plot(
                [callers for callers, _ in bare],
                [value for _, value in bare],
                color=colour,
                linewidth=1.2,
                linestyle=(0, (4, 2.5)),
                marker=marker,
                markerfacecolor="white",
                markersize=4.5,
            )
        callers_axis(axes, rows)
        axes.set_title(mode)
    scale(parts[0][0], "y", values)
    parts[0][0].set_ylabel("operations per second (log)")
    solid = Line2D([], [], color=FAINT, linewidth=1.8, label="the store")
    dashed = Line2D([], [], color=FAINT, linewidth=1.2, linestyle=(0, (4, 2.5)), label="its floor")
    legend(figure, rows, look, (solid, dashed))
    return figure


def ratios(rows: Sequence[Row], look: dict[str, Look]) -> Figure:
    """Throughput in units of the floor's, each round's besides the median."""
    figure, parts = panels(rows, 3.4)
    values = [one.ratio for row in rows for one in row.rounds if one.ratio]
    for axes, mode, mine in parts:
        for name, (colour, marker) in look.items():
            line = [row for row in mine if row.target == name and row.ratio]
            axes.plot(
                [row.cell.callers for row in line],
                [row.ratio or 0 for row in line],
                color=colour,
                marker=marker,
                linewidth=1.8,
            )
            dots = [(row.cell.callers, one.ratio) for row in line for one in row.rounds if one.ratio]
            axes.scatter([x for x, _ in dots], [y for _, y in dots], s=7, color=colour, alpha=0.45, linewidths=0)
        axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (1, 1.5)))
        callers_axis(axes, rows)
        axes.set_title(mode)
    scale(parts[0][0], "y", [*values, 1.0], lambda value, _: f"{value:g}×")
    parts[0][0].set_ylabel("times the floor's throughput (log)")
    floor = Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 1.5)), label="the floor")
    single = Line2D([], [], color=FAINT, linestyle="", marker=".", markersize=5, label="single rounds")
    legend(figure, [row for row in rows if row.ratio], look, (floor, single))
    return figure


def latencies(rows: Sequence[Row], look: dict[str, Look]) -> Figure:
    """From the median to the 99th percentile, a line for each target and number of callers."""
    groups = [
        (name, callers)
        for name in look
        for callers in sorted({row.cell.callers for row in rows})
        if any((row.target, row.cell.callers) == (name, callers) for row in rows)
    ]
    figure, parts = panels(rows, 1.15 + 0.235 * len(groups) + 0.1 * len(look))
    names = list(dict.fromkeys(name for name, _ in groups))
    heights = {group: -(place + 0.6 * names.index(group[0])) for place, group in enumerate(groups)}
    values = [value for row in rows for value in _spread(row)]
    for axes, mode, mine in parts:
        for row in mine:
            spread = _spread(row)
            if spread:
                colour, height = look[row.target].colour, heights[row.target, row.cell.callers]
                axes.plot(spread, [height] * len(spread), color=colour, linewidth=1.6, alpha=0.6)
                for value, marker, size in zip(spread, ("o", "|", ">"), (5.5, 9, 5.5), strict=True):
                    axes.plot([value], [height], color=colour, marker=marker, markersize=size, linestyle="")
        scale(axes, "x", values)
        axes.set_xlabel("latency of one operation, ms (log)")
        axes.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title(mode)
    first = parts[0][0]
    several = len({callers for _, callers in groups}) > 1 or len(names) == 1
    first.set_yticks(
        [heights[group] for group in groups],
        [_place(name, callers, groups, several) for name, callers in groups],
    )
    if several:
        first.set_ylabel("concurrent callers")
    first.set_ylim(min(heights.values()) - 0.7, 0.7)
    marks = [
        Line2D([], [], color=FAINT, linestyle="", marker=marker, markersize=size, label=label)
        for marker, size, label in (("o", 5.5, "p50"), ("|", 9, "p95"), (">", 5.5, "p99"))
    ]
    figure.legend(handles=marks, loc="outside right upper")
    return figure


def _place(name: str, callers: int, groups: Sequence[tuple[str, int]], several: bool) -> str:
    """The name of a line: the target at its first, the callers at each."""
    first = next(group for group in groups if group[0] == name) == (name, callers)
    return f"{_brief(name) + GAP if first else ''}{callers}" if several else _brief(name)


def _spread(row: Row) -> list[float]:
    """p50, p95, p99; nothing where there is none."""
    found = [
        row.median(of)
        for of in (lambda one: one.store.p50_ms, lambda one: one.store.p95_ms, lambda one: one.store.p99_ms)
    ]
    return [value for value in found if value]


def of_scenario(scenario: Scenario, rows: Sequence[Row]) -> list[tuple[str, Figure]]:
    """The figures of one scenario, with their titles."""
    look = looks(list(dict.fromkeys(row.target for row in rows)))
    mine = [row for row in rows if row.cell.scenario == scenario and row.throughput]
    if not mine:
        return []
    found = [
        ("Throughput", drawn(throughput, mine, look)),
        ("Latency", drawn(latencies, mine, look)),
    ]
    if any(row.ratio for row in mine):
        found.insert(1, ("Beside the floor", drawn(ratios, mine, look)))
    return found
