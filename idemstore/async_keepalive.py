"""The heartbeat of an async store: what ``keepalive`` says, with a task on the store's loop instead of a thread."""

import asyncio
import contextlib
import os
import weakref
from collections.abc import Sequence

from idemstore.aside import aside
from idemstore.async_store import AsyncStore
from idemstore.errors import IdemstoreError, StoreClosed
from idemstore.keepalive import CLOSED, IDLE_LOOKS, Beat, Beats, broken, parcels


class AsyncKeepalive:
    """A task that runs while there are leases to keep; it dies with its loop."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = weakref.ref(store)
        self.start_over()

    def start_over(self) -> None:
        """No leases, no task: at first, and in a child of ``fork()``."""
        self._beats = beats = Beats()
        self.drop = beats.drop
        """Keep a lease no longer; may be repeated."""
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, beat: Beat) -> None:
        """Keep a lease."""
        if self._beats.add(beat):
            self._woken.set()
        if self._task is None or self._task.done():
            self._woken = asyncio.Event()
            self._task = aside(asyncio.get_running_loop(), self._run(self._woken), "idemstore-keepalive")

    async def _run(self, woken: asyncio.Event) -> None:
        """Look, renew, sleep; end when idle, or when the store is gone or closed."""
        idle = 0
        while idle <= IDLE_LOOKS:
            due, pause = self._beats.look()
            if due and not await self._renew(due):
                self._beats.abandon(CLOSED)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await woken.wait()
            woken.clear()
            idle = 0 if self._beats else idle + 1 if self._store() is not None else IDLE_LOOKS + 1
        self._task = None  # no await between this and the last look at the leases: none is missed

    async def _renew(self, due: Sequence[Beat]) -> bool:
        """Renew what is due; False where there is no store to ask any more."""
        store = self._store()
        if store is None:
            return False
        for parcel in parcels(due, store.timeout):
            try:
                parcel.took(await store.renew_many(parcel.renewals, timeout=parcel.timeout))
            except StoreClosed:
                return False
            except IdemstoreError as error:
                parcel.took(error)
            except Exception as error:  # noqa: BLE001 - see ``broken``
                parcel.took(broken(error))
        return True


_of: "weakref.WeakKeyDictionary[AsyncStore, AsyncKeepalive]" = weakref.WeakKeyDictionary()


def async_keepalive(store: AsyncStore) -> AsyncKeepalive:
    """The heartbeat of an async store; one for all guards on it."""
    found = _of.get(store)
    if found is None:
        found = _of[store] = AsyncKeepalive(store)
    return found


def _after_fork() -> None:
    """In a child process: every heartbeat starts over."""
    for heartbeat in list(_of.values()):
        heartbeat.start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
