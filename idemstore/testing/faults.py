"""Faults between a store and its driver, where a test wants them: stop, re-send, lose a reply, refuse; and a count.

A test holds one ``Faults``; ``inject`` gives a store whose driver consults it. Each order is for one round trip: the
next that is not spoken for. The same ``Faults`` serves both modes: an async driver waits at a stop in a helper thread.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from idemstore.errors import IdemstoreError, StoreTimeout, StoreUnavailable
from idemstore.exchange import Alone, AsyncDriver, AsyncWatch, Driver, Together, Watch
from idemstore.testing.blocking import PATIENCE, BlockingStore, Client


class Stop:
    """A point at which a driver stands still until the test lets it go on."""

    def __init__(self) -> None:
        self._known = threading.Event()
        self._go = threading.Event()
        self._stands = False

    def reached(self) -> bool:
        """Wait until the driver stands here; False if it is known that it never will."""
        assert self._known.wait(PATIENCE), "the driver never came to the point where it should stop"
        return self._stands

    def missed(self) -> None:
        """The call is over: whoever waits for the driver to stand here need not wait any more."""
        self._known.set()

    def go(self) -> None:
        """Let the driver go on."""
        self._go.set()

    def stand(self) -> None:
        """Called by the driver: say so, and wait."""
        self._stands = True
        self._known.set()
        self._go.wait(PATIENCE)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to become of one round trip."""

    before: Stop | None = None
    after: Stop | None = None
    deliveries: int = 1
    """How often the server gets the request; 0: it is lost on its way."""
    lost: bool = False
    """Whether the caller never sees the reply."""


_PLAIN = Order()


class Faults:
    """The orders for the round trips to come, and the number of those that were."""

    def __init__(self) -> None:
        self.round_trips = 0
        self._orders: deque[Order] = deque()
        self._stops: list[Stop] = []
        self._lock = threading.Lock()

    def passing(self, count: int = 1) -> None:
        """Leave the next ``count`` round trips alone."""
        self._orders.extend(_PLAIN for _ in range(count))

    def stop_before(self) -> Stop:
        """Stop the next round trip before the server gets its request."""
        stop = self._stop()
        self._orders.append(Order(before=stop))
        return stop

    def stop_after(self, *, lost: bool = False) -> Stop:
        """Stop the next round trip after the server applied its request; then deliver the reply, or lose it."""
        stop = self._stop()
        self._orders.append(Order(after=stop, lost=lost))
        return stop

    def resend(self, times: int = 2) -> None:
        """Drop the reply of the next request and send it again, as client libraries do; only the last reply counts."""
        self._orders.append(Order(deliveries=times))

    def lose_reply(self) -> None:
        """Apply the next request, but time out instead of delivering the reply."""
        self._orders.append(Order(lost=True))

    def lose_request(self) -> None:
        """Refuse the next request before the server gets it."""
        self._orders.append(Order(deliveries=0, lost=True))

    def release(self) -> None:
        """Drop all orders and let everything that stands go on."""
        self._orders.clear()
        for stop in self._stops:
            stop.go()

    def take(self) -> Order:
        """The order for the round trip that starts now."""
        with self._lock:
            self.round_trips += 1
            return self._orders.popleft() if self._orders else _PLAIN

    def _stop(self) -> Stop:
        """A stop that ``release`` knows."""
        stop = Stop()
        self._stops.append(stop)
        return stop


def _lost(order: Order) -> StoreUnavailable:
    """What the caller sees instead of a reply."""
    if order.deliveries:
        return StoreTimeout("the reply was lost (injected fault): repeat the call")
    return StoreUnavailable("the request was lost (injected fault): repeat the call")


class FaultyDriver:
    """A sync driver that follows orders."""

    def __init__(self, driver: Driver[object, object], faults: Faults) -> None:
        self._driver, self._faults = driver, faults

    def execute(self, request: object, timeout: float) -> object:
        """As ordered."""
        order, reply = self._faults.take(), None
        if order.before is not None:
            order.before.stand()
        for _ in range(order.deliveries):
            reply = self._driver.execute(request, timeout)
        self._reply(order)
        return reply

    def execute_many(self, requests: Sequence[object], timeout: float) -> Sequence[object | IdemstoreError]:
        """As ordered, for the whole batch."""
        order, replies = self._faults.take(), list[object | IdemstoreError]()
        if order.before is not None:
            order.before.stand()
        for _ in range(order.deliveries):
            replies = list(self._driver.execute_many(requests, timeout))
        self._reply(order)
        return replies

    def _reply(self, order: Order) -> None:
        """What happens between the server's reply and the caller."""
        if order.after is not None:
            order.after.stand()
        if order.lost:
            raise _lost(order)

    def watch(self, key: str) -> Watch:
        """The driver's own."""
        return self._driver.watch(key)

    def close(self) -> None:
        """Close the driver."""
        self._driver.close()


class AsyncFaultyDriver:
    """An async driver that follows orders."""

    def __init__(self, driver: AsyncDriver[object, object], faults: Faults) -> None:
        self._driver, self._faults = driver, faults

    async def execute(self, request: object, timeout: float) -> object:
        """As ``FaultyDriver.execute``."""
        order, reply = self._faults.take(), None
        if order.before is not None:
            await asyncio.to_thread(order.before.stand)
        for _ in range(order.deliveries):
            reply = await self._driver.execute(request, timeout)
        await self._reply(order)
        return reply

    async def execute_many(self, requests: Sequence[object], timeout: float) -> Sequence[object | IdemstoreError]:
        """As ``FaultyDriver.execute_many``."""
        order, replies = self._faults.take(), list[object | IdemstoreError]()
        if order.before is not None:
            await asyncio.to_thread(order.before.stand)
        for _ in range(order.deliveries):
            replies = list(await self._driver.execute_many(requests, timeout))
        await self._reply(order)
        return replies

    async def execute_together(
        self, requests: Sequence[object], timeout: float
    ) -> Sequence[object | IdemstoreError | Alone]:
        """The same for calls that coalesce."""
        order, replies = self._faults.take(), list[object | IdemstoreError | Alone]()
        carry = self._driver.execute_together if isinstance(self._driver, Together) else self._driver.execute_many
        if order.before is not None:
            await asyncio.to_thread(order.before.stand)
        for _ in range(order.deliveries):
            replies = list(await carry(requests, timeout))
        await self._reply(order)
        return replies

    async def _reply(self, order: Order) -> None:
        """As ``FaultyDriver._reply``."""
        if order.after is not None:
            await asyncio.to_thread(order.after.stand)
        if order.lost:
            raise _lost(order)

    def watch(self, key: str) -> AsyncWatch:
        """The driver's own."""
        return self._driver.watch(key)

    async def close(self) -> None:
        """Close the driver."""
        await self._driver.close()


def inject(store: Client, faults: Faults) -> Client:
    """A second store like ``store`` whose driver follows the orders of ``faults``."""
    if isinstance(store, BlockingStore):
        return store.wrapped(lambda driver: AsyncFaultyDriver(driver, faults))
    return store.wrapped(lambda driver: FaultyDriver(driver, faults))
