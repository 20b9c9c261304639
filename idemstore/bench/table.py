"""The table at the end, and what there is to say besides."""

from itertools import groupby
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from idemstore.bench.conductor import Run, Subject
from idemstore.bench.figures import Row
from idemstore.bench.plan import TITLES, callers

COLUMNS: Final = {
    "scenario": 11,
    "callers": 7,
    "op/s": 8,
    "×floor": 6,
    "p50 ms": 6,
    "p95 ms": 6,
    "p99 ms": 6,
    "trips": 5,
    "CPU µs": 6,
    "err": 3,
    "check": 5,
}
"""And how wide each is at least, so that the tables of several targets stand in line."""
KEY: Final = (
    "×floor: throughput in units of bare calls of the same client; trips and CPU µs: round trips, and time of the "
    "client's processors, per operation; check: exactly one Claimed per key."
)
SHOWN_WRONG: Final = 3
"""Violations of one row that are shown; the report has more."""
NARROWEST: Final = 90
SPARED: Final = ("p95 ms", "CPU µs")
"""What a narrow terminal is not shown."""
GOOD, POOR = 1.0, 0.5


def milliseconds(value: float | None) -> str:
    """A latency with three digits that count."""
    if value is None:
        return "-"
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def number(value: float | None, digits: int = 0) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """Operations a second."""
    return number(value, 0 if value is None or value >= 100 else 1)


def ratio_text(value: float | None) -> Text:
    """Green where the floor is beaten."""
    if value is None:
        return Text("-", style="dim")
    style = "green" if value >= GOOD else "" if value >= POOR else "yellow"
    return Text(f"{value:.2f}", style=style)


def line(row: Row) -> list[Text]:
    """The cells of one row."""
    bad = bool(row.violations)
    errors = sum(row.errors.values())
    cells = [
        Text(TITLES[row.cell.scenario].partition(" (")[0]),
        Text(str(row.cell.callers)),
        Text(rate(row.throughput)),
        ratio_text(row.ratio),
        *(
            Text(milliseconds(row.median(of)))
            for of in (lambda one: one.store.p50_ms, lambda one: one.store.p95_ms, lambda one: one.store.p99_ms)
        ),
        Text(number(row.median(lambda one: one.store.round_trips_per_op), 2)),
        Text(number(row.median(lambda one: one.store.cpu_us_per_op))),
        Text(str(errors), style="bold yellow" if errors else "dim"),
        Text("VIOLATED", style="bold red") if bad else Text("ok", style="green"),
    ]
    for cell in cells if bad else ():
        cell.stylize("bold red")
    return cells


def tables(console: Console, run: Run) -> None:
    """A table for each target and mode."""
    subjects = {subject.name: subject for subject in run.subjects}
    for (name, mode), group in groupby(run.rows, key=lambda row: (row.target, row.cell.mode)):
        rows = list(group)
        console.print()
        console.print(title(name, mode, subjects.get(name)), soft_wrap=True)
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        shown = [column for column in COLUMNS if console.width >= NARROWEST or column not in SPARED]
        for column in shown:
            left = column in ("scenario", "check")
            table.add_column(column, justify="left" if left else "right", no_wrap=True, min_width=COLUMNS[column])
        for row in rows:
            table.add_row(*(cell for cell, column in zip(line(row), COLUMNS, strict=True) if column in shown))
        console.print(table)
        for note in dict.fromkeys(f"{TITLES[row.cell.scenario]}: {note}" for row in rows for note in row.notes):
            console.print(Text(note, style="dim"), soft_wrap=True)
        for row in rows:
            _troubles(console, row)


def title(name: str, mode: str, subject: Subject | None) -> Text:
    """Above a table."""
    told = [mode]
    if subject is not None:
        told += [subject.server] if subject.server else []
        told += ["an emulation, not the real server"] if subject.emulation else []
        told += [] if subject.floor else ["no floor is known for this family"]
    return Text.assemble((name, "bold"), "  ", (", ".join(told), "dim"))


def _troubles(console: Console, row: Row) -> None:
    """Errors by class, for the store and for its floor."""
    where = f"{TITLES[row.cell.scenario]}, {callers(row.cell.callers)}"
    for whose, errors in (("", row.errors), (" of the floor", row.floor_errors)):
        if errors:
            told = ", ".join(f"{count} {name}" for name, count in errors.most_common())
            console.print(Text(f"{where}: errors{whose}: {told}", style="yellow"), soft_wrap=True)


def verdict(console: Console, run: Run) -> None:
    """What counts in the end."""
    console.print()
    for text, style in told(run):
        console.print(Text(text, style=style), soft_wrap=True)
    for row in run.rows:
        _violations(console, row)
    if run.violated:
        console.print(Text("Exactly one Claimed per key: NO. These figures are worth nothing.", style="bold red"))
    elif run.rows:
        console.print(Text("Exactly one Claimed per key, in every sample.", style="bold green"))
        console.print(Text(KEY, style="dim"), soft_wrap=True)
    if run.interrupted:
        console.print(Text("Interrupted: these results are partial.", style="bold yellow"))


def told(run: Run) -> list[tuple[str, str]]:
    """What did not come to its end, and in which style to say so."""
    lines = [(f"{name} was left out: {reason}", "yellow") for name, reason in run.left_out]
    lines += [(f"{name} broke off: {reason}", "bold red") for name, reason in run.broken]
    lines += [
        (f"{name}: up to {count:,} records of this run were not deleted; they expire in 10 minutes", "yellow")
        for name, count in run.leftovers.items()
    ]
    lines += [
        (f"{name}: the records of this run were not deleted; they expire in 10 minutes", "yellow")
        for name in run.uncleaned
    ]
    return lines


def _violations(console: Console, row: Row) -> None:
    """The first of one row, each with its key."""
    where = f"{row.target} {row.cell.mode}, {TITLES[row.cell.scenario]}, {callers(row.cell.callers)}"
    for violation in row.violations[:SHOWN_WRONG]:
        console.print(Text(f"VIOLATED: {violation} ({where})", style="bold red"), soft_wrap=True)
    more = len(row.violations) - SHOWN_WRONG
    if more > 0:
        console.print(Text(f"... and {more} more there", style="bold red"))
