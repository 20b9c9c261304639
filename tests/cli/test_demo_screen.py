"""What the demo draws, at the widths that terminals have."""

import io

import pytest
from rich.console import Console

from idemstore.demo.journal import Entry, What
from idemstore.demo.plan import Fault, Settings
from idemstore.demo.screen import LiveScreen, PlainScreen, picture, screen, struck, told
from idemstore.demo.show import introduce, report
from idemstore.demo.tally import Tally
from idemstore.demo.verdict import judge

STORY = [
    Entry(What.STARTED, 1),
    Entry(What.CLAIMED, 1, "key-01", 2, "99"),
    Entry(What.FOUND, 1, "key-01", 2, "r"),
    Entry(What.ANSWERED, 1, "key-01", 0, "r"),
    Entry(What.REPLAYED, 2, "key-01", 1, "r"),
    Entry(What.REFUSED, 2, "key-02", 1),
    Entry(What.LOST, 2, "key-02", 1),
    Entry(What.TROUBLE, 2, "key-02", 1, "StoreTimeout: no answer"),
]


def played(workers: int = 2) -> Tally:
    """A tally in which everything happened once."""
    tally = Tally(Settings("sqlite:///demo.db", workers=workers, keys=40))
    for fault in Fault:
        tally.strike(1, fault)
    for entry in STORY:
        tally.add(entry)
    return tally


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_wider_than_the_terminal_or_cut(columns: int):
    """The picture, the story, the heading, the table and the verdict fit, and no worker's line loses its numbers."""
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None, record=True)
    tally = played()
    introduce(tally.settings, console)
    with LiveScreen(console) as view:
        for entry in STORY:
            line = told(entry)
            if line is not None:
                view.note(*line)
        for fault in Fault:
            view.note(*struck(12, fault, "key-0001"))
    console.print(picture(tally))
    report(console, tally, judge([], 0, [], []), 1.0)
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert not any("…" in line for line in lines)
    assert any(line.split() == ["1", "completed", "key-01", "1", "0", "3"] for line in lines), lines


def test_a_crowd_of_workers_does_not_fill_the_screen():
    """The first eight are shown, the others counted."""
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(picture(played(workers=20)))
    assert "and 12 more" in console.export_text()


def test_a_killed_worker_is_shown_so_until_it_is_back():
    """What it had written before it died does not bring it back to life."""
    tally = Tally(Settings("x://"))
    tally.strike(1, Fault.KILL_AFTER)
    tally.add(Entry(What.TRIED, 1, "key-01"))
    assert (tally.rows[1].doing, tally.rows[1].key) == ("killed", "")
    tally.add(Entry(What.STARTED, 1))
    assert tally.rows[1].doing == "started"


def test_without_a_terminal_there_are_plain_lines():
    """A pipe gets no control characters; neither does a terminal that understands none."""
    assert isinstance(screen(Console(file=io.StringIO())), PlainScreen)
    assert isinstance(screen(Console(force_terminal=True, _environ={"TERM": "dumb"})), PlainScreen)
    assert isinstance(screen(Console(force_terminal=True, _environ={"TERM": "xterm"})), LiveScreen)
