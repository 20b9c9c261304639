"""Which server an async call talks to: that of the URL, the master that sentinels name, or the node of the slot."""

import asyncio
import time
from typing import Protocol

from redis.exceptions import AskError

from idemstore.backends.redis import routing
from idemstore.backends.redis.aio_pool import AsyncLine, AsyncPool, ask, open_line
from idemstore.backends.redis.errors import CLIENT_ERRORS, fault
from idemstore.backends.redis.faults import (
    Failed,
    Fault,
    final,
    no_master,
    no_owner,
    timed_out,
    unavailable,
    unknown_service,
)
from idemstore.backends.redis.options import Address, Target, Topology
from idemstore.backends.redis.routing import Slots


def half(deadline: float) -> float:
    """Half of the time until a deadline."""
    return max(deadline - time.monotonic(), 0) / 2


class AsyncNodes(Protocol):
    """The servers of a URL; as ``sync_nodes.Nodes``."""

    async def pool(self, key: bytes, deadline: float) -> AsyncPool:
        """Where the record of a key is."""
        ...

    def moved(self, error: AskError, asked: AsyncPool) -> bool:
        """Learn from a MOVED; False where there is no cluster."""
        ...

    def asking(self, error: AskError, asked: AsyncPool) -> AsyncPool | None:
        """Where an ASK points to; None where there is no cluster."""
        ...

    async def failed(self, pool: AsyncPool, generation: int) -> None:
        """A connection of that generation could not be made, broke, or was silent for long: ask anew who is who."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class AsyncSingle:
    """One pool: to the server of the URL, or to the master of the moment."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sentinels = list(target.addresses)
        sentinel = target.topology is Topology.SENTINEL
        connect = self._connect_master if sentinel else self._connect
        self._pool = AsyncPool(target.addresses[0], target.options.max_connections, connect)

    async def pool(self, key: bytes, deadline: float) -> AsyncPool:
        """The pool."""
        return self._pool

    def moved(self, error: AskError, asked: AsyncPool) -> bool:
        """No cluster."""
        return False

    def asking(self, error: AskError, asked: AsyncPool) -> AsyncPool | None:
        """No cluster."""
        return None

    async def failed(self, pool: AsyncPool, generation: int) -> None:
        """Connect anew, to whoever is the master by then."""
        await pool.renew(generation)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    async def _connect(self, deadline: float) -> AsyncLine:
        """To the server of the URL."""
        return await open_line(self._target, self._target.addresses[0])

    async def _connect_master(self, deadline: float) -> AsyncLine:
        """To the master, and see that it is one: sentinels may not have heard of the latest failover."""
        master = await self._find_master(deadline)
        self._pool.address = master
        line = await open_line(self._target, master)
        try:
            role = await ask(line, b"ROLE")
        except CLIENT_ERRORS as error:
            await line.disconnect(nowait=True)
            raise Failed(fault(error, master)) from error
        except BaseException:
            await line.disconnect(nowait=True)
            raise
        if not routing.is_master(role):
            await line.disconnect(nowait=True)
            raise unavailable(no_master(self._service, f"{master} is not one yet"))
        return line

    @property
    def _service(self) -> str:
        return self._target.options.service or ""

    async def _find_master(self, deadline: float) -> Address:
        """Ask one sentinel after the other; a silent one gets half of the time that is left, no more."""
        last: Fault | None = None
        for sentinel in tuple(self._sentinels):
            try:
                async with asyncio.timeout(half(deadline)):
                    master = await self._ask_sentinel(sentinel)
            except TimeoutError:
                last = Fault(timed_out(sentinel), again=True)
            except Failed as failed:
                last = failed.fault
            else:
                if master is not None:
                    self._sentinels = sorted(self._sentinels, key=lambda known: known != sentinel)
                    return master
        raise Failed(last) if last else final(unknown_service(self._service))

    async def _ask_sentinel(self, sentinel: Address) -> Address | None:
        """What one sentinel knows."""
        line = await open_line(self._target, sentinel, sentinel=True)
        try:
            reply = await ask(line, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service.encode())
            return routing.read_master(reply)
        except CLIENT_ERRORS as error:
            raise Failed(fault(error, sentinel)) from error
        finally:
            await line.disconnect(nowait=True)


class AsyncCluster:
    """A pool for every node, and which node serves which slot."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pools: dict[Address, AsyncPool] = {}
        self._slots = Slots({})
        self._stale = True
        self._failed: dict[Address, float] = {}
        self._refreshing = asyncio.Lock()

    async def pool(self, key: bytes, deadline: float) -> AsyncPool:
        """The pool of the node that serves the key."""
        if self._stale:
            await self._refresh(deadline)
        owner = self._slots.owner(key)
        if owner is None:
            self._stale = True
            raise unavailable(no_owner("its slot is served by none"))
        return self._pool(owner)

    def _pool(self, address: Address) -> AsyncPool:
        """The pool of a node, made at first use."""
        pool = self._pools.get(address)
        if pool is None:

            async def connect(deadline: float) -> AsyncLine:
                return await open_line(self._target, address)

            pool = self._pools[address] = AsyncPool(address, self._target.options.max_connections, connect)
        return pool

    def moved(self, error: AskError, asked: AsyncPool) -> bool:
        """The slot has a new owner; others may have moved with it, and will say so themselves."""
        self._slots.owners[error.slot_id] = routing.redirected(error.host, error.port, asked.address)
        return True

    def asking(self, error: AskError, asked: AsyncPool) -> AsyncPool | None:
        """The key is on its way to another node, and may be there already."""
        return self._pool(routing.redirected(error.host, error.port, asked.address))

    async def failed(self, pool: AsyncPool, generation: int) -> None:
        """Ask the other nodes who serves its slots now."""
        self._failed[pool.address] = time.monotonic()
        self._stale = True
        await pool.renew(generation)

    async def close(self) -> None:
        """Close every pool."""
        for pool in tuple(self._pools.values()):
            await pool.close()

    async def _refresh(self, deadline: float) -> None:
        """Ask for the slots, in one task while the others wait for its answer."""
        async with self._refreshing:
            if not self._stale:
                return
            try:
                self._slots = await self._ask_for_slots(deadline)
            except Failed:
                if not self._slots.owners:  # else what was known before is still worth a try
                    raise
            else:
                self._stale = False

    async def _ask_for_slots(self, deadline: float) -> Slots:
        """Ask one node after the other; a silent one gets half of the time that is left, no more."""
        last = Fault(no_owner("none answers"), again=True)
        for address in routing.seeds(self._slots.nodes(), self._target.addresses, self._failed):
            try:
                async with asyncio.timeout(half(deadline)):
                    slots = await self._ask_node(address)
            except TimeoutError:
                self._failed[address] = time.monotonic()
                last = Fault(timed_out(address), again=True)
            except Failed as failed:
                self._failed[address] = time.monotonic()
                last = failed.fault
            else:
                if slots.owners:
                    return slots
        raise Failed(last)

    async def _ask_node(self, address: Address) -> Slots:
        """What one node knows."""
        line = await open_line(self._target, address)
        try:
            return routing.read_slots(await ask(line, b"CLUSTER", b"SLOTS"), address)
        except CLIENT_ERRORS as error:
            raise Failed(fault(error, address)) from error
        finally:
            await line.disconnect(nowait=True)
