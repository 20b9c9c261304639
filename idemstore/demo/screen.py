"""What a reader sees meanwhile: a story that scrolls, above a picture that stays. Plain lines without a terminal."""

import time
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from idemstore.demo.journal import Entry, What
from idemstore.demo.plan import Fault
from idemstore.demo.tally import Row, Tally

FRAMES: Final = 10
PLAIN_EVERY: Final = 1.0

_STRUCK: Final = {
    Fault.KILL_BEFORE: ("red", "worker {worker} killed before the charge of {key}"),
    Fault.KILL_AFTER: ("red", "worker {worker} killed after the charge of {key}, before it could say so"),
    Fault.KILL_ANY: ("red", "worker {worker} killed, wherever it was"),
    Fault.STALL: ("yellow", "worker {worker} put to sleep before the charge of {key}, past its lease"),
}
_TOLD: Final = {
    What.FOUND: ("green", "worker {worker} found the charge of {key} in the ledger: not charged again"),
    What.REFUSED: ("yellow", "worker {worker} came too late for {key}: the ledger refused its old fence"),
    What.LOST: ("yellow", "worker {worker} came too late for {key}: its claim was taken over"),
    What.TROUBLE: ("yellow", "worker {worker} tries again: {detail}"),
}


class Screen(Protocol):
    """Where the run is shown."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the terminal as it was."""
        ...

    def note(self, style: str, text: str) -> None:
        """A line of the story."""
        ...

    def tick(self, tally: Tally) -> None:
        """Where things stand."""
        ...


def told(entry: Entry) -> tuple[str, str] | None:
    """The line of the story that a journal entry is worth, with its style."""
    if entry.what is What.CLAIMED and entry.number > 1:
        return "cyan", f"worker {entry.worker} took {entry.key} over (attempt {entry.number})"
    if entry.what not in _TOLD:
        return None
    style, text = _TOLD[entry.what]
    return style, text.format(worker=entry.worker, key=entry.key, detail=entry.detail)


def struck(worker: int, fault: Fault, key: str) -> tuple[str, str]:
    """The line of the story that a fault is worth."""
    style, text = _STRUCK[fault]
    return style, text.format(worker=worker, key=key)


class LiveScreen:
    """For a terminal."""

    def __init__(self, console: Console) -> None:
        self._console, self._began = console, time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the picture; the story stays."""
        self._live.stop()

    def note(self, style: str, text: str) -> None:
        """Scroll a line past, above the picture."""
        self._console.print(_stamped(self._began, style, text))

    def tick(self, tally: Tally) -> None:
        """Draw, not too often."""
        now = time.monotonic()
        if now - self._drawn >= 1 / FRAMES:
            self._drawn = now
            self._live.update(picture(tally), refresh=True)


class PlainScreen:
    """For a pipe, a file, a CI log."""

    def __init__(self, console: Console) -> None:
        self._console, self._began = console, time.monotonic()
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to restore."""

    def note(self, style: str, text: str) -> None:
        """A line."""
        self._console.print(_stamped(self._began, style, text), soft_wrap=True)

    def tick(self, tally: Tally) -> None:
        """A line every second."""
        if time.monotonic() - self._told >= PLAIN_EVERY:
            self._told = time.monotonic()
            settings = tally.settings
            self.note(
                "dim",
                f"{len(tally.settled)} of {settings.keys} keys settled, "
                f"{len(tally.answered)} of {tally.callers} callers answered",
            )


def screen(console: Console) -> Screen:
    """The screen that suits the console."""
    return LiveScreen(console) if console.is_terminal and not console.is_dumb_terminal else PlainScreen(console)


def _stamped(began: float, style: str, text: str) -> Text:
    """A line with its time."""
    return Text.assemble((f"{time.monotonic() - began:6.1f} s  ", "dim"), (text, style))


def picture(tally: Tally) -> RenderableType:
    """The bars and the workers."""
    settings = tally.settings
    bars = Table.grid(padding=(0, 2), expand=True)
    bars.add_column(no_wrap=True)
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True, justify="right")
    for name, done, total in (
        ("keys settled", len(tally.settled), settings.keys),
        ("callers answered", len(tally.answered), tally.callers),
        ("workers killed", tally.kills, settings.kills),
    ):
        bars.add_row(name, ProgressBar(total=max(total, 1), completed=done), f"{done}/{total}")
    return Group(Text(), bars, Text(), _workers(list(tally.rows.values())))


def _workers(rows: list[Row]) -> Table:
    """A line for each of the first workers."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    table.add_column("worker", justify="right")
    table.add_column("doing", width=32, no_wrap=True)
    for name in ("completed", "replayed", "killed"):
        table.add_column(name, justify="right")
    for row in rows[:SHOWN_WORKERS]:
        style = "red" if row.down else ""
        table.add_row(
            str(row.number),
            f"{row.doing} {row.key}",
            str(row.completed),
            str(row.replayed),
            str(row.kills),
            style=style,
        )
    if len(rows) > SHOWN_WORKERS:
        table.add_row("", f"and {len(rows) - SHOWN_WORKERS} more", "", "", "", style="dim")
    return table


SHOWN_WORKERS: Final = 8
