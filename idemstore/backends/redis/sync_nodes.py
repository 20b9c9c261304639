"""Which server a sync call talks to: that of the URL, the master that sentinels name, or the node of the slot."""

import time
from functools import partial
from typing import Protocol

from redis.exceptions import AskError

from idemstore.backends.redis import routing
from idemstore.backends.redis.dialect import Reply
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
from idemstore.backends.redis.resp import pack
from idemstore.backends.redis.routing import Slots
from idemstore.backends.redis.sync_pool import Line, Pool, open_line
from idemstore.turn import Taken, Turn


def ask(line: Line, *words: bytes) -> Reply:
    """One small command and its reply."""
    line.send_packed_command((pack(*words),), False)
    return line.read_response()


class Nodes(Protocol):
    """The servers of a URL."""

    def pool(self, key: bytes, deadline: float) -> Pool:
        """Where the record of a key is."""
        ...

    def moved(self, error: AskError, asked: Pool) -> bool:
        """Learn from a MOVED; False where there is no cluster."""
        ...

    def asking(self, error: AskError, asked: Pool) -> Pool | None:
        """Where an ASK points to; None where there is no cluster."""
        ...

    def failed(self, pool: Pool, generation: int) -> None:
        """A connection of that generation could not be made, broke, or was silent for long: ask anew who is who."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class Single:
    """One pool: to the server of the URL, or to the master of the moment."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sentinels = list(target.addresses)
        sentinel = target.topology is Topology.SENTINEL
        connect = self._connect_master if sentinel else self._connect
        self._pool = Pool(target.addresses[0], target.options.max_connections, connect)

    def pool(self, key: bytes, deadline: float) -> Pool:
        """The pool."""
        return self._pool

    def moved(self, error: AskError, asked: Pool) -> bool:
        """No cluster."""
        return False

    def asking(self, error: AskError, asked: Pool) -> Pool | None:
        """No cluster."""
        return None

    def failed(self, pool: Pool, generation: int) -> None:
        """Connect anew, to whoever is the master by then."""
        pool.renew(generation)

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()

    def _connect(self, deadline: float) -> Line:
        """To the server of the URL."""
        return open_line(self._target, self._target.addresses[0], deadline)

    def _connect_master(self, deadline: float) -> Line:
        """To the master, and see that it is one: sentinels may not have heard of the latest failover."""
        master = self._find_master(deadline)
        self._pool.address = master
        line = open_line(self._target, master, deadline)
        try:
            role = ask(line, b"ROLE")
        except CLIENT_ERRORS as error:
            line.disconnect()
            raise Failed(fault(error, master)) from error
        except BaseException:
            line.disconnect()
            raise
        if not routing.is_master(role):
            line.disconnect()
            raise unavailable(no_master(self._service, f"{master} is not one yet"))
        return line

    @property
    def _service(self) -> str:
        return self._target.options.service or ""

    def _find_master(self, deadline: float) -> Address:
        """Ask one sentinel after the other; a silent one gets half of the time that is left, no more."""
        last: Fault | None = None
        for sentinel in tuple(self._sentinels):
            now = time.monotonic()
            if now >= deadline:
                break
            try:
                master = self._ask_sentinel(sentinel, now + (deadline - now) / 2)
            except Failed as failed:
                last = failed.fault
                continue
            if master is not None:
                # A new list: one that is being sorted in place looks empty to other threads.
                self._sentinels = sorted(self._sentinels, key=lambda known: known != sentinel)
                return master
        raise Failed(last) if last else final(unknown_service(self._service))

    def _ask_sentinel(self, sentinel: Address, deadline: float) -> Address | None:
        """What one sentinel knows."""
        line = open_line(self._target, sentinel, deadline, sentinel=True)
        try:
            return routing.read_master(ask(line, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service.encode()))
        except CLIENT_ERRORS as error:
            raise Failed(fault(error, sentinel)) from error
        finally:
            line.disconnect()


class Cluster:
    """A pool for every node, and which node serves which slot."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pools: dict[Address, Pool] = {}
        self._slots = Slots({})
        self._stale = True
        self._failed: dict[Address, float] = {}
        self._refreshing = Turn()

    def pool(self, key: bytes, deadline: float) -> Pool:
        """The pool of the node that serves the key."""
        if self._stale:
            self._refresh(deadline)
        owner = self._slots.owner(key)
        if owner is None:
            self._stale = True
            raise unavailable(no_owner("its slot is served by none"))
        return self._pool(owner)

    def _pool(self, address: Address) -> Pool:
        """The pool of a node, made at first use."""
        pool = self._pools.get(address)
        if pool is None:
            size = self._target.options.max_connections
            made = Pool(address, size, lambda deadline: open_line(self._target, address, deadline))
            pool = self._pools.setdefault(address, made)
        return pool

    def moved(self, error: AskError, asked: Pool) -> bool:
        """The slot has a new owner; others may have moved with it, and will say so themselves."""
        self._slots.owners[error.slot_id] = routing.redirected(error.host, error.port, asked.address)
        return True

    def asking(self, error: AskError, asked: Pool) -> Pool | None:
        """The key is on its way to another node, and may be there already."""
        return self._pool(routing.redirected(error.host, error.port, asked.address))

    def failed(self, pool: Pool, generation: int) -> None:
        """Ask the other nodes who serves its slots now."""
        self._failed[pool.address] = time.monotonic()
        self._stale = True
        pool.renew(generation)

    def close(self) -> None:
        """Close every pool."""
        for pool in tuple(self._pools.values()):
            pool.close()

    def _refresh(self, deadline: float) -> None:
        """Ask for the slots, in one thread while the others wait for its answer."""
        try:
            self._refreshing.run(partial(self._refresh_alone, deadline), deadline - time.monotonic())
        except Taken:
            raise final(timed_out(self._target.addresses[0])) from None
        except Failed:
            if not self._slots.owners:  # else what was known before is still worth a try
                raise

    def _refresh_alone(self, deadline: float) -> None:
        """Ask, unless another thread just did."""
        if self._stale:
            self._slots = self._ask_for_slots(deadline)
            self._stale = False

    def _ask_for_slots(self, deadline: float) -> Slots:
        """Ask one node after the other; a silent one gets half of the time that is left, no more."""
        last = Fault(no_owner("none answers"), again=True)
        for address in routing.seeds(self._slots.nodes(), self._target.addresses, self._failed):
            now = time.monotonic()
            if now >= deadline:
                break
            try:
                slots = self._ask_node(address, now + (deadline - now) / 2)
            except Failed as failed:
                self._failed[address] = time.monotonic()
                last = failed.fault
                continue
            if slots.owners:
                return slots
        raise Failed(last)

    def _ask_node(self, address: Address, deadline: float) -> Slots:
        """What one node knows."""
        line = open_line(self._target, address, deadline)
        try:
            return routing.read_slots(ask(line, b"CLUSTER", b"SLOTS"), address)
        except CLIENT_ERRORS as error:
            raise Failed(fault(error, address)) from error
        finally:
            line.disconnect()
