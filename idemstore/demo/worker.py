"""One worker process: asks for every key on its list until it has the result, and charges where the store says so.

The parent sends the settings on standard input, and holds that pipe open for as long as it lives: when it ends, this
process ends, so no worker outlives its parent however that dies. Everything the worker does goes to its journal.
"""

import importlib
import os
import queue
import random
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

import idemstore
from idemstore.cli import report_bug
from idemstore.demo.journal import Journal, Tail, What
from idemstore.demo.ledger import Ledger, StaleFence
from idemstore.demo.plan import STRIKES, Point, Request, Settings, faults, requests
from idemstore.errors import IdemstoreError

RETENTION: Final = 600.0
WAIT: Final = 0.25
ORPHANED, BROKEN, GO = 4, 3, "go"


class Worker:
    """The work of one process."""

    def __init__(self, settings: Settings, number: int, directory: Path, orders: "queue.Queue[str]") -> None:
        self._settings, self._number, self._orders = settings, number, orders
        path = journal_path(directory, number)
        self._todo = deque(unanswered(settings, number, path))
        self._journal = Journal(path, number)
        self._ledger = Ledger(ledger_path(directory))
        self._stops = {(key, STRIKES[fault]) for key, some in faults(settings).items() for fault in some}
        self._random = random.Random()  # noqa: S311 - how long work takes
        self._store = idemstore.open(settings.url)

    def run(self) -> None:
        """Ask for one key after the other; what is in flight elsewhere goes to the end of the list."""
        self._journal.write(What.STARTED)
        while self._todo:
            request = self._todo.popleft()
            try:
                answered = self._ask(request)
            except IdemstoreError as error:
                if not error.retryable:
                    raise
                self._journal.write(What.TROUBLE, request.key, request.caller, f"{type(error).__name__}: {error}")
                time.sleep(self._random.uniform(0.1, 0.3))
                answered = False
            if not answered:
                self._todo.append(request)
        self._store.close()
        self._journal.write(What.FINISHED)

    def _ask(self, request: Request) -> bool:
        """One attempt of one caller; whether it has its result now."""
        key = request.key
        self._journal.write(What.TRIED, key, request.caller)
        outcome = self._store.claim(
            self._settings.key(key),
            lease=self._settings.lease,
            retention=RETENTION,
            fingerprint=idemstore.fingerprint({"charge": key}),
            wait=WAIT,
        )
        match outcome:
            case idemstore.Completed(result):
                self._journal.write(What.REPLAYED, key, request.caller, result.decode())
                return True
            case idemstore.Claimed():
                return self._execute(request, outcome)
            case _:
                self._journal.write(What.BUSY, key, request.caller)
                return False

    def _execute(self, request: Request, claim: idemstore.Claimed) -> bool:
        """The execution that the claim asks for; whether the caller has its result now."""
        key = request.key
        self._journal.write(What.CLAIMED, key, claim.attempt, str(claim.fence))
        try:
            receipt = self._charge_once(key, claim)
        except StaleFence:
            self._journal.write(What.REFUSED, key, claim.attempt)
            return False
        if receipt is None:
            self._journal.write(What.LOST, key, claim.attempt)
            return False
        settled = self._store.complete(self._settings.key(key), claim.token, receipt.encode(), retention=RETENTION)
        if settled != idemstore.Done():
            self._journal.write(What.LOST, key, claim.attempt)
            return False
        self._journal.write(What.ANSWERED, key, request.caller, receipt)
        return True

    def _charge_once(self, key: str, claim: idemstore.Claimed) -> str | None:
        """The recipe of ``idemstore.demo``: the receipt of the one charge, or None where the claim was lost."""
        if claim.checkpoint is not None:
            receipt = self._ledger.find(key, claim.fence, self._number)
            if receipt is not None:
                self._journal.write(What.FOUND, key, claim.attempt, receipt)
                return receipt
        saved = self._store.renew(
            self._settings.key(key), claim.token, lease=self._settings.lease, checkpoint=b"about to charge"
        )
        if saved != idemstore.Done():
            return None
        time.sleep(self._random.uniform(0.005, 0.03))
        self._stop(Point.BEFORE, key)
        receipt = self._ledger.charge(key, claim.fence, self._number)
        self._stop(Point.AFTER, key)
        self._journal.write(What.CHARGED, key, claim.attempt, receipt)
        return receipt

    def _stop(self, point: Point, key: str) -> None:
        """Where a fault is planned: tell the parent, and wait for what it decides (SIGKILL needs no reading)."""
        if (key, point) not in self._stops:
            return
        self._journal.write(What.REACHED, key, 0, point)
        order = self._orders.get()
        if order != GO:
            time.sleep(float(order))


def journal_path(directory: Path, number: int) -> Path:
    """The journal of one worker and its successors."""
    return directory / f"worker-{number}.journal"


def ledger_path(directory: Path) -> Path:
    """The ledger."""
    return directory / "ledger"


def unanswered(settings: Settings, number: int, path: Path) -> list[Request]:
    """What a worker still has to ask for; its journal knows what a killed predecessor got."""
    entries = Tail(path).entries()
    have = {(entry.key, entry.number) for entry in entries if entry.what in (What.ANSWERED, What.REPLAYED)}
    return [request for request in requests(settings, number) if request not in have]


def _listen(orders: "queue.Queue[str]") -> None:
    """Pass the parent's words on; its end is ours."""
    for line in sys.stdin:
        orders.put(line.strip())
    os._exit(ORPHANED)


def main(number: int, directory: Path) -> int:
    """Work; exit code 0, or ``BROKEN`` where the store made it impossible (the journal says why)."""
    sys.excepthook = report_bug
    line = sys.stdin.readline()
    if not line:
        return ORPHANED
    settings = Settings.from_json(line)
    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    for plugin in settings.plugins:
        importlib.import_module(plugin)
    try:
        Worker(settings, number, directory, orders).run()
    except IdemstoreError as error:
        Journal(journal_path(directory, number), number).write(What.BROKE, detail=f"{type(error).__name__}: {error}")
        return BROKEN
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
