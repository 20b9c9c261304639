"""Where a command goes, and whether a failed one is sent again. Pure: what both drivers decide alike.

Every operation may be repeated, so a command whose connection broke is simply sent again. How often is bounded twice:
by the deadline of the call, always, and for a lone server by a few attempts, because nobody will replace it.
"""

import random
import time
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from idemstore.backends.redis.dialect import Reply, Request, wrote
from idemstore.backends.redis.faults import Fault
from idemstore.backends.redis.options import Address, Topology
from idemstore.errors import IdemstoreError, StoreMisbehaved, StoreTimeout

SLOTS: Final = 16384
FEW: Final = 3
"""How often a lone server is tried again: at once, then after some 20 and 40 milliseconds."""
FIRST_PAUSE: Final = 0.02
LAST_PAUSE: Final = 0.25


class Attempts:
    """The attempts of one call: its deadline, and how long to pause before the next one."""

    __slots__ = ("_left", "_passing", "_pause", "_since", "_timeout", "deadline")

    def __init__(self, timeout: float, topology: Topology) -> None:
        self.deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._left = FEW if topology is Topology.ONE else None
        self._pause = 0.0
        self._since = self.deadline - timeout
        self._passing: IdemstoreError | None = None

    def after(self, failure: Fault) -> float | None:
        """Seconds to pause after a failure before the next attempt; None: give up."""
        if not failure.again:
            return None
        self._passing = failure.error
        return self.next()

    def verdict(self, error: IdemstoreError) -> IdemstoreError:
        """The error of the call: that of its last attempt; but where the time-out cut that one short, the error of the
        attempt before says more.
        """
        return self._passing if self._passing is not None and self.cut(error) else error

    def cut(self, error: IdemstoreError) -> bool:
        """Whether an error only says that the time-out cut an attempt short, which had hardly begun."""
        return isinstance(error, StoreTimeout) and not self.silent(self._since)

    def next(self) -> float | None:
        """Seconds to pause before the next attempt: none at all before the second, since a pooled connection that the
        server closed long ago is the usual cause. None: give up.
        """
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                return None
        pause = self._pause * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LAST_PAUSE)
        self._since = time.monotonic() + pause
        return pause if self._since < self.deadline else None

    def silent(self, since: float) -> bool:
        """Whether a server that was asked at ``since`` had enough time to answer: it hangs, the caller was not late."""
        return time.monotonic() - since >= self._timeout / 2


class Batch:
    """What has been answered of a batch, and what is still due: all of it at first, then what may be tried again.
    ``cut``: that of its ``Attempts``.
    """

    __slots__ = ("_answers", "_cut", "_passing", "requests")

    def __init__(self, requests: Sequence[Request], cut: Callable[[IdemstoreError], bool]) -> None:
        self.requests = requests
        self._cut = cut
        self._answers: dict[int, Reply | IdemstoreError] = {}
        self._passing: dict[int, IdemstoreError] = {}

    def due(self) -> list[int]:
        """The requests without an answer, by their place."""
        answers, places = self._answers, range(len(self.requests))
        return [index for index in places if index not in answers] if answers else list(places)

    def answer(self, index: int, reply: Reply | IdemstoreError) -> None:
        """One is done."""
        self._answers[index] = reply

    def fail(self, indices: Iterable[int], failure: Fault) -> None:
        """These have failed, those that were answered before excepted: for good, or for this attempt. Where the
        time-out cut this one short, the error of the attempt before says more, as it does of a single call.
        """
        error, before = failure.error, self._passing
        due = [index for index in indices if index not in self._answers]
        if failure.again:
            before.update(dict.fromkeys(due, error))
        elif self._cut(error):
            self._answers.update((index, before.get(index, error)) for index in due)
        else:
            self._answers.update(dict.fromkeys(due, error))

    def wrote(self, index: int) -> bool:
        """Whether the answer of one says that it changed its record."""
        answer = self._answers.get(index)
        return not isinstance(answer, IdemstoreError) and wrote(answer)

    def revoke(self, indices: Iterable[int], error: IdemstoreError) -> None:
        """These were answered, but something that belongs to their answers failed."""
        self._answers.update(dict.fromkeys(indices, error))

    def results(self) -> list[Reply | IdemstoreError]:
        """All answers, in order. What is still due gets the last error that it met."""
        answers, places = self._answers, range(len(self.requests))
        if len(answers) == len(places):
            return [answers[index] for index in places]
        return [answers.get(index, self._passing.get(index)) for index in places]


def wait_milliseconds(left: float) -> int:
    """How long a server may wait for its replicas, so that its answer still arrives in time: it looks at its clock only
    every tenth of a second.
    """
    return max(1, int(min(left * 0.9, left - 0.2) * 1000))


def slot_of(key: bytes) -> int:
    """The slot of a key in a cluster: of what stands between the first ``{`` and the next ``}``, if anything does."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Slots(NamedTuple):
    """Which node serves which slot. Patched in place by redirections, replaced as a whole by a refresh."""

    owners: dict[int, Address]

    def owner(self, key: bytes) -> Address | None:
        """The node of a key, as far as known."""
        return self.owners.get(slot_of(key))

    def nodes(self) -> list[Address]:
        """Every node known, each once."""
        return list(dict.fromkeys(self.owners.values()))


def read_slots(reply: Reply, asked: Address) -> Slots:
    """What CLUSTER SLOTS answers. A node that does not know its own address leaves it out: it is the one we asked."""
    owners: dict[int, Address] = {}
    for entry in reply if isinstance(reply, list) else []:
        match entry:
            case [int(first), int(last), [host, int(port), *_], *_]:
                owners.update(dict.fromkeys(range(first, last + 1), _address(host, port, asked)))
            case _:
                raise StoreMisbehaved(f"the node {asked} answered CLUSTER SLOTS in a form that Redis does not have")
    return Slots(owners)


def _address(host: Reply, port: int, asked: Address) -> Address:
    """The address of a node, which may leave its host to be guessed."""
    name = host.decode() if isinstance(host, bytes) else ""
    return Address(name if name not in ("", "?") else asked.host, port)


def redirected(host: str, port: int, asked: Address) -> Address:
    """Where MOVED or ASK points to; without a host: another port of the node that we asked."""
    return Address(host or asked.host, port)


def read_master(reply: Reply) -> Address | None:
    """What SENTINEL GET-MASTER-ADDR-BY-NAME answers; None: that sentinel does not know the service."""
    match reply:
        case [bytes(host), bytes(port)] if port.isdigit():
            return Address(host.decode(), int(port))
        case _:
            return None


def is_master(reply: Reply) -> bool:
    """What ROLE answers."""
    return isinstance(reply, list) and bool(reply) and reply[0] == b"master"


def seeds(known: Sequence[Address], given: Sequence[Address], failed: Mapping[Address, float]) -> list[Address]:
    """Whom to ask for the slots: nodes that answered last, then those of the URL; those that failed of late at last."""
    candidates = list(dict.fromkeys((*known, *given)))
    random.shuffle(candidates)
    return sorted(candidates, key=lambda address: failed.get(address, 0.0))
