"""The report as one page: nothing in it is fetched from anywhere."""

from html import escape
from typing import Final

from idemstore.bench import plots
from idemstore.bench.conductor import Run
from idemstore.bench.figures import Row
from idemstore.bench.plan import ABOUT, TITLES, Plan, Scenario, callers
from idemstore.bench.results import Start, load
from idemstore.bench.table import milliseconds, number, rate

CSS: Final = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #24292f;
  background: #fff; max-width: 72rem; margin: 2rem auto 4rem; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.75rem 0 .25rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; } p { margin: .25rem 0 .75rem; max-width: 52rem; }
.dim { color: #57606a; } .good { color: #116329; font-weight: 600; }
.bad, tr.bad td { color: #a40e26; font-weight: 600; } .warn { color: #7d4e00; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.25rem; margin: 1rem 0; }
dt { color: #57606a; } dd { margin: 0; } figure { margin: 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 34rem; height: auto; } figure.one svg { max-width: 44rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; white-space: nowrap; }
th { text-align: right; font-weight: 600; color: #57606a; border-bottom: 1px solid #d0d7de; padding: .25rem .6rem; }
td { text-align: right; padding: .15rem .6rem; border-bottom: 1px solid #f0f2f4; font-variant-numeric: tabular-nums; }
th.t, td.t { text-align: left; } nav a { margin-right: 1rem; } a { color: #0550ae; }
"""

COLUMNS: Final = (
    ("target", True),
    ("mode", True),
    ("callers", False),
    ("op/s", False),
    ("× floor", False),
    ("p50 ms", False),
    ("p95 ms", False),
    ("p99 ms", False),
    ("trips/op", False),
    ("CPU µs/op", False),
    ("errors", False),
    ("one Claimed per key", True),
)


def facts(start: Start, plan: Plan, seconds: float, run: Run) -> str:
    """What one must know to read the figures."""
    machine = start.machine
    per_sample = f"{plan.operations:,} operations" if plan.operations is not None else f"{seconds:g} s"
    rounds = "one round" if plan.rounds == 1 else f"medians of {plan.rounds} rounds"
    loads = " → ".join(f"{values[0]:g}" for values in (machine.load_start, load()) if values)
    told = {
        "run": f"{run.run}, {start.began}",
        "software": f"idemstore {machine.idemstore}, {machine.implementation} {machine.python}",
        "machine": f"{machine.system}, {machine.cores} cores, load average {loads or 'unknown'}",
        "samples": f"{per_sample} each, store and floor in turns, {rounds}; "
        f"callers in {plan.processes} process{'es' if plan.processes > 1 else ''}",
    }
    if plan.latency:
        told["added latency"] = f"{plan.latency:g} ms for each round trip, for store and floor alike"
    for subject in run.subjects:
        clients = ", ".join(f"{name} {version}" for name, version in subject.clients.items())
        emulation = "an emulation, not the real server" if subject.emulation else ""
        told[subject.name] = "; ".join(part for part in (subject.server, emulation, clients) if part) or "in process"
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in told.items()) + "</dl>"


def verdict(run: Run) -> str:
    """What counts."""
    lines = []
    if run.violated:
        lines.append('<p class="bad">Exactly one Claimed per key: NO. These figures are worth nothing.</p>')
        for row in run.rows:
            where = f"{row.target} {row.cell.mode}, {TITLES[row.cell.scenario]}, {callers(row.cell.callers)}"
            lines += [f'<p class="bad">{escape(f"{text} ({where})")}</p>' for text in row.violations]
    elif run.rows:
        lines.append('<p class="good">Exactly one Claimed per key, in every sample.</p>')
    if run.interrupted:
        lines.append('<p class="warn">The run was interrupted: these results are partial.</p>')
    lines += [f'<p class="warn">{escape(name)} was left out: {escape(why)}</p>' for name, why in run.left_out]
    lines += [f'<p class="bad">{escape(name)} broke off: {escape(why)}</p>' for name, why in run.broken]
    return "".join(lines)


def table(rows: list[Row]) -> str:
    """The rows of one scenario."""
    head = "".join(f"<th{' class=t' if left else ''}>{name}</th>" for name, left in COLUMNS)
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(map(line, rows))}</tbody></table></div>"
    )


def line(row: Row) -> str:
    """One row."""
    cells = (
        row.target,
        row.cell.mode,
        str(row.cell.callers),
        rate(row.throughput),
        number(row.ratio, 2),
        milliseconds(row.median(lambda one: one.store.p50_ms)),
        milliseconds(row.median(lambda one: one.store.p95_ms)),
        milliseconds(row.median(lambda one: one.store.p99_ms)),
        number(row.median(lambda one: one.store.round_trips_per_op), 2),
        number(row.median(lambda one: one.store.cpu_us_per_op)),
        str(sum(row.errors.values())),
        "NO" if row.violations else "yes",
    )
    tds = "".join(
        f"<td{' class=t' if left else ''}>{escape(cell)}</td>" for cell, (_, left) in zip(cells, COLUMNS, strict=True)
    )
    return f"<tr{' class=bad' if row.violations else ''}>{tds}</tr>"


def section(scenario: Scenario, run: Run) -> str:
    """One scenario: what it is, its plots, its rows."""
    rows = [row for row in run.rows if row.cell.scenario == scenario]
    figures = plots.of_scenario(scenario, run.rows)
    one = " class=one" if len(plots.modes_of(rows)) == 1 else ""
    drawn = "".join(
        f"<h3>{heading}</h3><figure{one}>{plots.svg(figure, f'{TITLES[scenario]}: {heading}')}</figure>"
        for heading, figure in figures
    )
    notes = "".join(
        f'<p class="dim">{escape(note)}</p>' for note in dict.fromkeys(n for row in rows for n in row.notes)
    )
    about, name = escape(ABOUT[scenario]), TITLES[scenario]
    return (
        f'<section id="{scenario}"><h2>{name[0].upper()}{name[1:]}</h2><p class="dim">{about}</p>{notes}{drawn}'
        f"<h3>Figures</h3>{table(rows)}</section>"
    )


def page(start: Start, plan: Plan, seconds: float, run: Run) -> str:
    """The whole page."""
    there = [scenario for scenario in plan.scenarios if any(row.cell.scenario == scenario for row in run.rows)]
    links = "".join(f'<a href="#{scenario}">{TITLES[scenario]}</a>' for scenario in there)
    sections = "".join(section(scenario, run) for scenario in there)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>idemstore bench {escape(run.run)}</title><style>{CSS}</style></head><body>"
        f"<h1>idemstore bench</h1>{verdict(run)}{facts(start, plan, seconds, run)}<nav>{links}</nav>{sections}"
        '<p class="dim">Throughput is wall clock. Everything, round by round, is in results.json beside this page.'
        "</p></body></html>\n"
    )
