"""The benchmark from end to end: check, measure, print, report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

import idemstore
from idemstore.bench import report
from idemstore.bench.conductor import Conductor, unsupported
from idemstore.bench.network import check_urls, label
from idemstore.bench.plan import Plan
from idemstore.bench.results import Start
from idemstore.bench.screen import screen
from idemstore.bench.table import tables, verdict
from idemstore.bench.targets import candidates
from idemstore.errors import InvalidInput
from idemstore.url import parse_url

WIDE: Final = 110
"""Columns of a file or a pipe."""
PROXIED: Final = 500
"""Callers that a proxy serves."""
OK, VIOLATED, BROKEN, INTERRUPTED = 0, 1, 3, 130


def check(plan: Plan, urls: Sequence[str], everything: bool, yes: bool) -> None:
    """Refuse at the door what would fail in the middle."""
    check_urls(list(urls), latency=plan.latency, yes=yes)
    if plan.latency and not urls and not everything:
        raise InvalidInput("--added-latency needs a server: name its URL, or --all; memory and SQLite have no network")
    if plan.latency and plan.concurrency[-1] > PROXIED:
        raise InvalidInput(f"--added-latency goes with {PROXIED} callers at most: the proxy takes no more connections")
    for url in urls:
        reasons = [unsupported(url, mode) for mode in plan.modes]  # raises whatever else is wrong with it
        if all(reasons):
            raise InvalidInput(f"{label(url)}: {reasons[0]}")
        if plan.processes > 1 and parse_url(url).family == "memory":
            raise InvalidInput("--processes: memory:// lives inside one process, so several cannot share it")
    for url in urls:
        migrate(url, asynchronous=unsupported(url, "sync") is not None)


def migrate(url: str, *, asynchronous: bool) -> None:
    """The first word with a server: it must answer, and have what the store needs."""
    if not asynchronous:
        with idemstore.open(url) as store:
            store.ping()
            store.migrate()
        return
    import asyncio

    async def one() -> None:
        async with idemstore.open_async(url) as store:
            await store.ping()
            await store.migrate()

    asyncio.run(one())


def run(
    plan: Plan,
    urls: Sequence[str],
    console: Console,
    *,
    everything: bool = False,
    yes: bool = False,
    directory: Path | None = None,
    plugins: tuple[str, ...] = (),
) -> int:
    """Run the benchmark; 0, or 1 where a store broke its promise, or 3 where one could not be asked to the end."""
    check(plan, urls, everything, yes)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    if directory is not None:
        report.check(directory)
    start = Start()
    chosen = candidates(urls, everything)
    seconds = plan.seconds_of_sample(len(chosen))
    introduce(plan, [one.name for one in chosen], seconds, console)
    busy = start.machine.busy
    if busy is not None:
        console.print(Text(busy, style="yellow"), soft_wrap=True)
    with screen(console, len(plan.cells) * plan.rounds * len(chosen)) as view:
        conductor = Conductor(plan, chosen, plugins, view)
        conductor.measure()
    found = conductor.run
    tables(console, found)
    verdict(console, found)
    if directory is not None:
        report.write(directory, start, plan, seconds, found)
        console.print(Text(f"Report: {directory / 'index.html'}"), soft_wrap=True)
    if found.violated:
        return VIOLATED
    if found.interrupted:
        return INTERRUPTED
    return BROKEN if found.broken else OK


def introduce(plan: Plan, names: Sequence[str], seconds: float, console: Console) -> None:
    """What is about to happen."""
    per = f"{plan.operations:,} operations" if plan.operations is not None else f"{seconds:.2g} s"
    samples = len(plan.cells) * plan.rounds * len(names) * 2
    console.print(Text(f"idemstore bench: {', '.join(names)}", style="bold"), soft_wrap=True)
    rounds = "1 round" if plan.rounds == 1 else f"{plan.rounds} rounds"
    latency = f"; {plan.latency:g} ms added to each round trip" if plan.latency else ""
    processes = f", in {plan.processes} processes" if plan.processes > 1 else ""
    told = f"{samples} samples of {per}, store and floor in turns, {rounds}{processes}{latency}"
    console.print(Text(told, "dim"), soft_wrap=True)
