"""The demo from end to end: prepare the store, run the workers, judge, clean up, print."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

import idemstore
from idemstore.demo.conductor import Conductor, End
from idemstore.demo.journal import Entry, What
from idemstore.demo.ledger import charges
from idemstore.demo.plan import Fault, Settings, names
from idemstore.demo.screen import screen, struck, told
from idemstore.demo.tally import Tally
from idemstore.demo.verdict import Verdict, judge
from idemstore.demo.worker import ledger_path
from idemstore.errors import IdemstoreError, InvalidUrl, StoreTimeout
from idemstore.url import parse_url

T = TypeVar("T")

CLEAN_UP: Final = 2.0
"""Seconds that cleaning up may take even where the time is up."""


def run(settings: Settings, console: Console) -> int:
    """Run the demo; 0 where every key was executed once, else 1."""
    began = time.monotonic()
    deadline = began + settings.timeout
    refuse_private(settings.url)
    with idemstore.open(settings.url) as store, tempfile.TemporaryDirectory(prefix="idemstore-demo-") as directory:
        within(settings.timeout, store.migrate)
        introduce(settings, console)
        place = Path(directory)
        with screen(console) as view:

            def see(entry: Entry) -> None:
                line = told(entry)
                if line is not None:
                    view.note(*line)

            def strike(worker: int, fault: Fault, key: str) -> None:
                view.note(*struck(worker, fault, key))

            conductor = Conductor(settings, place, see, strike, lambda: view.tick(conductor.tally))
            end = conductor.run(deadline)
        verdict = judge(names(settings), settings.attempts, charges(ledger_path(place)), conductor.entries)
        left = clean_up(settings, store, max(deadline - time.monotonic(), CLEAN_UP))
    report(console, conductor.tally, verdict, time.monotonic() - began)
    if end is End.TIMED_OUT:
        console.print(f"The run was cut off after {settings.timeout:g} s (--timeout).", style="red")
    if left:
        console.print(left, style="yellow")
    return 0 if verdict.once else 1


def refuse_private(url: str) -> None:
    """A store that lives in one process cannot be shared by several."""
    if parse_url(url).family == "memory":
        raise InvalidUrl(
            "memory:// lives inside one process and the demo runs several: leave the URL out (a temporary SQLite "
            "file), or give one that processes can share, such as sqlite:///demo.db or redis://localhost:6379/0"
        )


def within(seconds: float, call: Callable[[], T]) -> T:
    """The answer of ``call``, or ``StoreTimeout``: the demo ends in time even where a store does not."""
    answers: list[T | IdemstoreError] = []

    def work() -> None:
        try:
            answers.append(call())
        except IdemstoreError as error:
            answers.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise StoreTimeout(f"the store gave no answer within {seconds:g} s: look whether its server is alive")
    answer = answers[0]
    if isinstance(answer, IdemstoreError):
        raise answer
    return answer


def clean_up(settings: Settings, store: idemstore.Store, seconds: float) -> str:
    """Delete the records of this run; what to tell the reader where that failed."""
    until = time.monotonic() + seconds

    def forget() -> None:
        for name in names(settings):
            if time.monotonic() > until:
                raise StoreTimeout("the store answers slowly")
            store.forget(settings.key(name))

    try:
        within(seconds, forget)
    except IdemstoreError as error:
        return f"The demo's records were not all deleted ({error}); they expire in ten minutes."
    return ""


def introduce(settings: Settings, console: Console) -> None:
    """What is about to happen."""
    console.print()
    console.print(Text(f"idemstore demo on {parse_url(settings.url)}", style="bold"), soft_wrap=True)
    console.print(
        f"{settings.workers} processes, {settings.keys} keys, {settings.attempts} callers each; "
        f"{settings.kills} kills, {settings.stalls} stalls; lease {settings.lease:g} s; seed {settings.seed}",
        style="dim",
        highlight=False,
    )
    console.print()


def report(console: Console, tally: Tally, verdict: Verdict, seconds: float) -> None:
    """The table and the verdict."""
    counts, faults = tally.counts, tally.faults
    kills = ", ".join(
        f"{faults[kind]} {kind.value.removeprefix('killed ')}" for kind in Fault if kind is not Fault.STALL
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(style="dim")
    for name, number, meaning in (
        ("keys", verdict.keys, f"{verdict.callers} callers, {tally.settings.attempts} for each"),
        ("attempts", counts[What.TRIED], "claims sent, retries included"),
        ("executions", verdict.charges, "charges in the ledger"),
        ("replays", counts[What.REPLAYED], "callers that got the stored receipt"),
        ("takeovers", tally.takeovers, f"charges found made, so not repeated: {counts[What.FOUND]}"),
        ("kills", tally.kills, kills),
        ("stalls", faults[Fault.STALL], f"late charges refused by their fence: {counts[What.REFUSED]}"),
    ):
        table.add_row(name, str(number), meaning)
    console.print()
    console.print(table)
    console.print()
    console.print(Text(verdict.headline(), style="bold green" if verdict.once else "bold red"), soft_wrap=True)
    for line in verdict.lines():
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{seconds:.1f} s", style="dim", highlight=False)
