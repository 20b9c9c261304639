"""The sync driver: boto3's low-level client.

A client is made in a thread of its own, once, since looking for credentials may ask the network: callers wait for it no
longer than for anything else. botocore signs, retries and parses; ``Sender`` sees to it that all of that ends in time.
"""

import _thread
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.utils import get_environ_proxies  # type: ignore[import-untyped]

from idemstore.backends.dynamodb.calls import Call, SyncClient, asking_the_time, check_dated, config, target
from idemstore.backends.dynamodb.clock import ServerClock, local_clock
from idemstore.backends.dynamodb.errors import BotoCoreError, ClientError, body_of, timed_out, translate
from idemstore.backends.dynamodb.messages import Reply, Request
from idemstore.backends.dynamodb.profile import certificates, equipped
from idemstore.backends.dynamodb.sender import Sender
from idemstore.backends.dynamodb.settings import Settings
from idemstore.errors import IdemstoreError, StoreTimeout, StoreUnavailable
from idemstore.flows import SleepWatch
from idemstore.promise import Promise
from idemstore.turn import Taken, Turn

PARALLEL: Final = 16
"""Requests of one batch that are under way at once."""
FIRST_PAUSE: Final = 0.05
"""botocore pauses so long before its first retry of a DynamoDB call, and twice as long before each further one."""


class Link:
    """A client and its sender."""

    def __init__(self, settings: Settings) -> None:
        """Look for credentials and load what botocore knows of DynamoDB; connects only where the credentials do."""
        core = equipped(settings.profile)
        core.set_default_client_config(Config(**config(settings)))
        self.client: SyncClient = boto3.Session(botocore_session=core).client("dynamodb", **target(settings))
        endpoint = self.client.meta.endpoint_url
        bundle = core.get_config_variable("ca_bundle")
        self.sender = Sender(endpoint, settings.connections, certificates(endpoint, bundle))
        events = self.client.meta.events
        if not get_environ_proxies(endpoint):
            events.register_first("before-send.dynamodb", self.sender.send)
        events.register_first("needs-retry.dynamodb", self._in_time)

    def _in_time(
        self,
        response: tuple[object, Mapping[str, object]] | None,
        operation: object,
        attempts: int,
        caught_exception: Exception | None,
        **_: object,
    ) -> None:
        """The hook ``needs-retry``: what cannot be tried again in time is over now."""
        if self.sender.left() > FIRST_PAUSE * 2 ** (attempts - 1):
            return
        if caught_exception is not None:
            raise caught_exception
        if response is not None and "Error" in response[1]:
            raise ClientError(response[1], getattr(operation, "name", "call"))

    def call(self, call: Call) -> Mapping[str, object]:
        """Make one call."""
        self.sender.begin(call.deadline)
        method: Callable[..., Mapping[str, object]] = getattr(self.client, call.operation)
        return method(**call.params)

    def close(self) -> None:
        """Close every connection."""
        self.sender.close()
        self.client.close()


class Boto3Driver:
    """Carries requests by boto3. Safe for many threads."""

    def __init__(self, settings: Settings, clock: ServerClock) -> None:
        self._settings = settings
        self._clock = clock
        self._link: Link | None = None
        self._making: Promise[Link] | None = None
        self._lock = threading.Lock()
        self._asking = Turn()
        self._workers: ThreadPoolExecutor | None = None

    def execute(self, request: Request, timeout: float) -> Reply:
        """Carry one request and bring its reply."""
        deadline = time.monotonic() + timeout
        try:
            link = self._link or self._connect(deadline, timeout)
            if request.delay:
                time.sleep(max(0.0, min(request.delay, deadline - time.monotonic())))
            if request.clocked and not self._clock.fresh(local_clock()):
                self._ask_the_time(link, deadline, timeout)
            return self._carry(link, request, deadline)
        except (ClientError, BotoCoreError) as error:
            raise translate(error, self._settings.table, timeout) from error

    def _carry(self, link: Link, request: Request, deadline: float) -> Reply:
        """Send a request."""
        call = Call(request, self._clock, deadline)
        try:
            body = link.call(call)
        except ClientError as error:
            return call.refused(error)
        return call.answered(body)

    def _ask_the_time(self, link: Link, deadline: float, timeout: float) -> None:
        """Learn the clock; the first caller asks, the others wait."""
        try:
            self._asking.run(partial(self._hear_the_time, link, deadline), deadline - time.monotonic())
        except Taken:
            raise timed_out(timeout) from None
        check_dated(self._clock)

    def _hear_the_time(self, link: Link, deadline: float) -> None:
        """Ask, unless another caller just did."""
        if self._clock.fresh(local_clock()):
            return
        call = asking_the_time(self._settings.table, self._clock, deadline)
        try:
            body = link.call(call)
        except ClientError as error:
            body = body_of(error)
        call.heard(body)

    def _connect(self, deadline: float, timeout: float) -> Link:
        """Wait for the client; the first caller has it made."""
        with self._lock:
            if self._making is None:
                making: Promise[Link] = Promise()
                try:  # not by ``Thread.start``: it waits, and a signal handler that raises in there leaves half a start
                    _thread.start_new_thread(_make, (making, self._settings))
                except RuntimeError as error:  # no more threads, or the interpreter is on its way out
                    raise StoreUnavailable(f"no thread to connect in: {error}; repeating the call is safe") from error
                self._making = making
            making = self._making
        try:
            link = making.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise StoreTimeout(f"AWS credentials were not found within {timeout:.3g} s: repeat the call") from None
        except (ClientError, BotoCoreError, IdemstoreError, ValueError):
            with self._lock:
                self._making = None
            raise
        self._link = link
        return link

    def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many, some at once; one reply or error for each."""
        if len(requests) == 1:
            return [self._each(time.monotonic() + timeout, requests[0])]
        with self._lock:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(PARALLEL, thread_name_prefix="idemstore-dynamodb")
        return list(self._workers.map(partial(self._each, time.monotonic() + timeout), requests))

    def _each(self, deadline: float, request: Request) -> Reply | IdemstoreError:
        """One request of a batch; its error stays its own."""
        left = deadline - time.monotonic()
        if left <= 0:
            return timed_out(self._settings.timeout)
        try:
            return self.execute(request, left)
        except IdemstoreError as error:
            return error

    def watch(self, key: str) -> SleepWatch:
        """DynamoDB tells nobody of a change: waiters ask again."""
        return SleepWatch()

    def close(self) -> None:
        """Close every connection."""
        if self._workers is not None:
            self._workers.shutdown(wait=False)
        if self._link is not None:
            self._link.close()


def _make(making: "Promise[Link]", settings: Settings) -> None:
    """Make a client, in a thread of its own; whatever goes wrong belongs to those who wait for it."""
    try:
        making.set_result(Link(settings))
    except BaseException as error:  # noqa: BLE001 - handed to the callers' threads
        making.set_exception(error)
