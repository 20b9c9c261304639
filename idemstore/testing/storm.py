"""Many clients on one key at once: threads for a sync store, tasks for an async one, processes for a shared backend.

What clients do is said in the machine's own events, so the same script drives a store, the model and the
linearizability checker. Every operation is recorded with its start and end in one common order.
"""

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import NamedTuple, assert_never, overload

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.keys import KeyLike
from idemstore.machine import Claim, Complete, Event, Fail, Release, Renew
from idemstore.outcomes import Claimed, ClaimOutcome, SettleOutcome
from idemstore.testing.blocking import PATIENCE, BlockingStore, Client, LoopThread

Outcome = ClaimOutcome | SettleOutcome
Script = Sequence[Event]
"""What one client does, one after the other."""


class Operation(NamedTuple):
    """One operation of one client: it began and ended at these points of a common order."""

    client: int
    event: Event
    outcome: Outcome
    start: int
    end: int


def span(micros: int | None) -> timedelta | None:
    """A duration of the machine, as the stores take it."""
    return None if micros is None else timedelta(microseconds=micros)


@overload
def perform(store: Client, key: KeyLike, event: Event) -> Outcome: ...
@overload
def perform(store: AsyncStore, key: KeyLike, event: Event) -> Coroutine[object, object, Outcome]: ...
def perform(store: Client | AsyncStore, key: KeyLike, event: Event) -> Outcome | Coroutine[object, object, Outcome]:
    """Carry out an event of the machine as a call of a store."""
    match event:
        case Claim(fingerprint, token, lease, retention, takeover):
            return store.claim(
                key,
                lease=timedelta(microseconds=lease),
                retention=span(retention),
                fingerprint=fingerprint,
                token=token,
                takeover=takeover,
            )
        case Complete(token, result, retention):
            return store.complete(key, token, result, retention=span(retention))
        case Fail(token, result, retention, retry_after):
            return store.fail(key, token, result, retention=span(retention), retry_after=span(retry_after))
        case Renew(token, lease, checkpoint):
            return store.renew(key, token, lease=timedelta(microseconds=lease), checkpoint=checkpoint)
        case Release(token):
            return store.release(key, token)
        case _:
            assert_never(event)


def together(store: Client, key: KeyLike, scripts: Sequence[Script]) -> list[Operation]:
    """Let one client per script loose on the key, all at the same moment; what each operation answered."""
    if isinstance(store, BlockingStore):
        return store.thread.call(_tasks(store.inner, key, scripts))
    return _threads(store, key, scripts)


def _threads(store: Client, key: KeyLike, scripts: Sequence[Script]) -> list[Operation]:
    """A thread per client. What a client raises is raised here."""
    order, gate = itertools.count(), threading.Barrier(len(scripts))
    history: list[Operation] = []
    errors: list[BaseException] = []

    def client(number: int, script: Script) -> None:
        try:
            gate.wait(PATIENCE)
            for event in script:
                start = next(order)
                outcome = perform(store, key, event)
                history.append(Operation(number, event, outcome, start, next(order)))
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [
        threading.Thread(target=client, args=item, name="idemstore-client", daemon=True) for item in enumerate(scripts)
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # many more points at which threads of one process may meet
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
    return history


async def _tasks(store: AsyncStore, key: KeyLike, scripts: Sequence[Script]) -> list[Operation]:
    """A task per client."""
    order, gate = itertools.count(), asyncio.Event()
    history: list[Operation] = []

    async def client(number: int, script: Script) -> None:
        await gate.wait()
        for event in script:
            start = next(order)
            outcome = await perform(store, key, event)
            history.append(Operation(number, event, outcome, start, next(order)))

    async with asyncio.timeout(PATIENCE):
        clients = [asyncio.create_task(client(number, script)) for number, script in enumerate(scripts)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*clients)
    return history


def processes(url: str, mode: str, keys: Sequence[str], clients: int) -> dict[str, int]:
    """Let ``clients`` processes, each with a store of its own, claim all keys at once; how many were granted each."""
    command = [sys.executable, "-m", "idemstore.testing.storm", url, mode, str(clients), *keys]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if run.returncode:
        raise AssertionError(f"a client process failed:\n{run.stderr}")
    counts: Counter[str] = Counter(dict.fromkeys(keys, 0))
    counts.update(run.stdout.split("\n")[:-1])
    return dict(counts)


def _claim_all(url: str, mode: str, keys: Sequence[str], ready: int, gate: int) -> list[str]:
    """One client process: connect, say so, wait for the others, claim; the keys that were granted."""
    with LoopThread() if mode == "async" else nullcontext() as thread:
        store: Client = idemstore.open(url) if thread is None else BlockingStore(idemstore.open_async(url), thread)
        with store:
            store.ping()
            os.write(ready, b".")
            os.read(gate, 1)
            return [key for key in keys if isinstance(store.claim(key), Claimed)]


def _fork(url: str, mode: str, clients: int, keys: Sequence[str]) -> int:
    """Fork the clients, open the gate, wait for all of them; how many failed."""
    gate, opener = os.pipe()
    readers, ready = os.pipe()
    children = []
    for _ in range(clients):
        child = os.fork()
        if child == 0:
            os.close(opener)
            granted = _claim_all(url, mode, keys, ready, gate)
            os.write(1, "".join(f"{key}\n" for key in granted).encode())
            os._exit(0)
        children.append(child)
    os.close(ready)
    up = 0
    while up < clients and (dots := os.read(readers, clients)):
        up += len(dots)
    os.close(opener)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(_fork(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
