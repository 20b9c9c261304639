"""A run from its first target to its last: starts workers, takes store and floor in turns, gathers rows.

Whatever happens (an error, Ctrl-C) the workers and servers are gone when it is left, and the rows so far stay.
"""

import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Final, Protocol

import idemstore
from idemstore.bench.crew import Crew
from idemstore.bench.figures import Figures, Round, Row, merged, ratio, violations
from idemstore.bench.floors import Floor
from idemstore.bench.orders import Forgotten, Hello, Order, Sample
from idemstore.bench.plan import TITLES, Cell, Mode, Plan, Who, callers
from idemstore.bench.targets import Candidate, LeftOut, Target, reached
from idemstore.errors import IdemstoreError, UnsupportedMode

CLEANING: Final = 5.0
"""Seconds that deleting the records of one target and mode may take."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a target was, for the report."""

    name: str
    family: str
    server: str
    emulation: bool
    clients: dict[str, str]
    floor: bool


@dataclass(slots=True)
class Run:
    """What a run has found so far."""

    run: str = field(default_factory=lambda: secrets.token_hex(4))
    subjects: list[Subject] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Targets, modes or cells that could not be had, and why."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Targets that broke off in the middle, and why."""
    leftovers: dict[str, int] = field(default_factory=dict)
    """How many records of a target that is not the harness's stay until they expire, at most."""
    uncleaned: list[str] = field(default_factory=list)
    """Where nothing was deleted, since the run broke off."""
    interrupted: bool = False

    @property
    def violated(self) -> bool:
        """Whether any store broke its promise."""
        return any(row.violations for row in self.rows)


class View(Protocol):
    """Where the run is shown meanwhile."""

    def doing(self, text: str) -> None:
        """What happens now."""
        ...

    def took(self, row: Row, round_number: int) -> None:
        """A store and its floor have been sampled once."""
        ...

    def skip(self, pairs: int) -> None:
        """So many pairs of samples will not be taken."""
        ...

    def note(self, style: str, text: str) -> None:
        """Something to know."""
        ...


class Conductor:
    """One run."""

    def __init__(self, plan: Plan, candidates: Sequence[Candidate], plugins: tuple[str, ...], view: View) -> None:
        self.plan, self.run = plan, Run()
        self._candidates, self._plugins, self._view = candidates, plugins, view
        self._seconds = plan.seconds_of_sample(len(candidates))
        self._number = 0

    def measure(self) -> None:
        """Everything; a first Ctrl-C ends it cleanly."""
        with interruptible():
            try:
                for candidate in self._candidates:
                    self._candidate(candidate)
            except KeyboardInterrupt:
                self.run.interrupted = True

    def _candidate(self, candidate: Candidate) -> None:
        """One target, if it can be had."""
        pairs = len(self.plan.cells) * self.plan.rounds
        self._view.doing(f"{candidate.name}: getting ready")
        try:
            with reached(candidate, self.plan.latency, self.plan.processes) as target:
                self._target(target, own=candidate.url is None)
        except LeftOut as error:
            self.run.left_out.append((candidate.name, str(error)))
            self._view.note("yellow", f"{candidate.name} is left out: {error}")
            self._view.skip(pairs)
        except IdemstoreError as error:
            self.run.broken.append((candidate.name, str(error)))
            self._view.note("red", f"{candidate.name} could not be measured: {error}")
            self._view.skip(pairs)

    def _target(self, target: Target, own: bool) -> None:
        """One target."""
        floor, server = target.floor, target.server
        if floor is not None:
            try:
                version = floor.prepare(target.direct_url, self.run.run)
                server = server if target.emulation or not version else version
            except floor.failures as error:
                self._without_floor(target, error)
                target = replace(target, floor=None)
        told = Subject(
            target.name, target.family, server, target.emulation, target.clients(), floor=target.floor is not None
        )
        self.run.subjects.append(told)
        try:
            for mode in self.plan.modes:
                self._mode(target, mode, own)
        finally:
            if target.floor is not None:
                self._drop(target, target.floor)

    def _without_floor(self, target: Target, error: Exception) -> None:
        """The floor's rows have no place on this server: the store is measured all the same."""
        reason = f"its client was refused a place for its rows ({type(error).__name__})"
        self.run.left_out.append((f"the floor of {target.name}", reason))
        self._view.note("yellow", f"the floor of {target.name} is left out: {reason}")

    def _drop(self, target: Target, floor: Floor) -> None:
        """Remove the floor's rows; a server that is gone has none."""
        try:
            floor.drop(target.direct_url, self.run.run)
        except floor.failures as error:
            self._view.note("yellow", f"{target.name}: rows of its floor are left ({type(error).__name__})")

    def _mode(self, target: Target, mode: Mode, own: bool) -> None:
        """All cells of one mode."""
        cells = self.plan.cells_of(mode)
        reason = unsupported(target.url, mode)
        if reason is not None:
            self.run.left_out.append((f"{target.name} {mode}", reason))
            self._view.note("yellow", f"{target.name}, {mode}, is left out: {reason}")
            self._view.skip(len(cells) * self.plan.rounds)
            return
        rows = [Row(target.name, cell) for cell in cells]
        taken, cleaned = 0, own
        try:
            with Crew(self._hellos(target, mode)) as crew:
                for number in range(1, self.plan.rounds + 1):
                    for row in rows:
                        self._round(target, crew, row, number)
                        taken += 1
                if not own:
                    self._clean(target, crew)
                    cleaned = True
        except IdemstoreError as error:
            self.run.broken.append((f"{target.name} {mode}", str(error)))
            self._view.note("red", f"{target.name}, {mode}, broke off: {error}")
            self._view.skip(len(cells) * self.plan.rounds - taken)
        finally:
            self.run.rows += [row for row in rows if row.rounds]
            if not cleaned:
                self.run.uncleaned.append(f"{target.name} {mode}")

    def _hellos(self, target: Target, mode: Mode) -> list[Hello]:
        """The first words to the workers."""
        return [
            Hello(target.url, target.floor_url, mode, self.run.run, process, target.floor is not None, self._plugins)
            for process in range(self.plan.processes)
        ]

    def _round(self, target: Target, crew: Crew, row: Row, number: int) -> None:
        """Store and floor, one after the other; who is first changes from round to round."""
        self._view.doing(f"{target.name} {row.cell.mode}, {TITLES[row.cell.scenario]}, {callers(row.cell.callers)}")
        both: tuple[Who, ...] = ("store", "floor") if number % 2 else ("floor", "store")
        sides = both if target.floor is not None else ("store",)
        found: dict[Who, Figures] = {}
        for who in sides:
            samples, found[who] = self._sample(target, crew, row.cell, who)
            if who == "store":
                row.violations += violations(samples)
                row.notes += [note for sample in samples for note in sample.notes if note not in row.notes]
        floor = found.get("floor")
        row.rounds.append(Round(number, sides[0], found["store"], floor, ratio(found["store"], floor)))
        self._view.took(row, number)

    def _sample(self, target: Target, crew: Crew, cell: Cell, who: Who) -> tuple[list[Sample], Figures]:
        """One sample of one side."""
        self._number += 1
        processes = min(self.plan.processes, cell.callers)
        orders = [
            Order(
                self._number,
                who,
                cell.scenario,
                _share(cell.callers, processes, process),
                self._seconds,
                None if self.plan.operations is None else _share(self.plan.operations, processes, process),
            )
            for process in range(processes)
        ]
        proxy = target.proxies[0 if who == "store" else 1] if target.proxies else None
        samples, wire = crew.sample(orders, lambda: 0 if proxy is None else proxy.round_trips)
        return samples, merged(samples, None if proxy is None else wire)

    def _clean(self, target: Target, crew: Crew) -> None:
        """Delete the records of this run from a store that is somebody's."""
        self._view.doing(f"{target.name}: deleting the records of this run")
        gone: Forgotten = crew.forget(CLEANING)
        if gone.left:
            self.run.leftovers[target.name] = self.run.leftovers.get(target.name, 0) + gone.left


def _share(total: int, parts: int, part: int) -> int:
    """A part of a whole number, the first ones one more where it does not come out even."""
    return total // parts + (part < total % parts)


def unsupported(url: str, mode: Mode) -> str | None:
    """Why a URL has no such mode; None where it has."""
    try:
        if mode == "sync":
            idemstore.open(url).close()
        else:
            idemstore.open_async(url)
    except UnsupportedMode as error:
        return str(error)
    return None


@contextmanager
def interruptible() -> Iterator[None]:
    """A polite SIGTERM is as good as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
