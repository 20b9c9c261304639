"""What a reader sees meanwhile: one line that moves, and a bar. Plain lines without a terminal."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from idemstore.bench.figures import Row
from idemstore.bench.plan import TITLES, callers

PLAIN_EVERY: Final = 2.0


class LiveScreen:
    """For a terminal."""

    def __init__(self, console: Console, pairs: int) -> None:
        self._console = console
        self._progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", table_column=None),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._last = ""
        self._task = self._progress.add_task("", total=pairs)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the bar."""
        self._progress.stop()

    def doing(self, text: str) -> None:
        """Beside the bar, behind what came out last."""
        self._progress.update(self._task, description=f"{self._last}{text}")

    def took(self, row: Row, round_number: int) -> None:
        """The bar moves on."""
        last = row.rounds[-1]
        beside = "" if last.ratio is None else f" ×{last.ratio:.2f}"
        self._last = f"{last.store.throughput:,.0f} op/s{beside}; now "
        self._progress.advance(self._task)

    def skip(self, pairs: int) -> None:
        """The bar is shorter."""
        total = self._progress.tasks[0].total or 0
        self._progress.update(self._task, total=total - pairs)

    def note(self, style: str, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(text, style=style), soft_wrap=True)


class PlainScreen:
    """For a pipe, a file, a CI log."""

    def __init__(self, console: Console, pairs: int) -> None:
        self._console, self._pairs, self._done = console, pairs, 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to restore."""

    def doing(self, text: str) -> None:
        """Lines come with results."""

    def took(self, row: Row, round_number: int) -> None:
        """A line every few seconds."""
        self._done += 1
        now = time.monotonic()
        if now - self._told < PLAIN_EVERY and self._done < self._pairs:
            return
        self._told = now
        cell, store = row.cell, row.rounds[-1].store
        self.note(
            "dim",
            f"{self._done} of {self._pairs}: {row.target} {cell.mode}, {TITLES[cell.scenario]}, "
            f"{callers(cell.callers)}, round {round_number}: {store.throughput:,.0f} op/s",
        )

    def skip(self, pairs: int) -> None:
        """Fewer are to come."""
        self._pairs -= pairs

    def note(self, style: str, text: str) -> None:
        """A line with its time."""
        seconds = f"{time.monotonic() - self._began:6.1f} s  "
        self._console.print(Text.assemble((seconds, "dim"), (text, style)), soft_wrap=True)


def screen(console: Console, pairs: int) -> LiveScreen | PlainScreen:
    """The screen that suits the console."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveScreen(console, pairs) if live else PlainScreen(console, pairs)
