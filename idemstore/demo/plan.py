"""What a run is going to do: who asks for which key, in which order, and who is killed where. Pure; the seed decides.

The seed repeats the plan, not the run: how processes interleave is up to the machine.
"""

import json
import random
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

SCOPE: Final = "idemstore-demo"


class Fault(StrEnum):
    """What happens to a worker."""

    KILL_BEFORE = "killed before the charge"
    KILL_AFTER = "killed after the charge"
    KILL_ANY = "killed at any moment"
    STALL = "asleep past the lease"


class Point(StrEnum):
    """Where a worker stops, on the keys that a fault is planned for, and asks what is to become of it."""

    BEFORE = "before the charge"
    AFTER = "after the charge"


STRIKES: Final = {Fault.KILL_BEFORE: Point.BEFORE, Fault.STALL: Point.BEFORE, Fault.KILL_AFTER: Point.AFTER}
"""The point at which a fault strikes; ``KILL_ANY`` has none."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of the command, and what names this run."""

    url: str = field(repr=False)
    keys: int = 40
    workers: int = 4
    attempts: int = 8
    kills: int = 9
    stalls: int = 2
    seed: int = 0
    lease: float = 1.0
    timeout: float = 60.0
    plugins: tuple[str, ...] = ()
    run: str = ""

    def key(self, name: str) -> tuple[str, ...]:
        """The stored key: a scope of its own for every run, so that runs never meet."""
        return (SCOPE, self.run, name)

    def to_json(self) -> str:
        """One line, for a worker's standard input: a password in the URL must not show in a list of processes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Settings":
        """What ``to_json`` wrote."""
        made = cls(**json.loads(line))
        return replace(made, plugins=tuple(made.plugins))


class Request(NamedTuple):
    """One caller that wants the result of one key, and sends until it has it."""

    key: str
    caller: int


def names(settings: Settings) -> list[str]:
    """The keys."""
    width = len(str(settings.keys))
    return [f"key-{number:0{width}}" for number in range(1, settings.keys + 1)]


def requests(settings: Settings, worker: int) -> list[Request]:
    """What one worker (1, 2, ...) asks for. All go through the keys in the same order, so they meet on each of them."""
    order = names(settings)
    random.Random(settings.seed).shuffle(order)  # noqa: S311 - no secret
    callers = range(worker - 1, settings.attempts, settings.workers)
    return [Request(key, caller) for key in order for caller in callers]


def faults(settings: Settings) -> dict[str, list[Fault]]:
    """The faults that strike at a point of an execution, by key: the stalls, and two thirds of the kills."""
    order = names(settings)
    random.Random(settings.seed + 1).shuffle(order)  # noqa: S311 - no secret
    kinds = [Fault.STALL] * settings.stalls
    for number in range(settings.kills - surprises(settings)):
        kinds.append(Fault.KILL_AFTER if number % 2 else Fault.KILL_BEFORE)
    planned: dict[str, list[Fault]] = {}
    for number, kind in enumerate(kinds):
        planned.setdefault(order[number % len(order)], []).append(kind)
    return planned


def surprises(settings: Settings) -> int:
    """How many kills come at any moment, wherever the worker happens to be: one third."""
    return settings.kills // 3


def moments(settings: Settings) -> list[int]:
    """At how many answered callers each surprise comes, spread over the run."""
    total, number = settings.keys * settings.attempts, surprises(settings)
    return [total * (index + 1) // (number + 1) for index in range(number)]
