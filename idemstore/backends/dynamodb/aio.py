"""The async driver: aiobotocore's low-level client. ``asyncio.timeout`` bounds a call as a whole, with its retries."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore.utils import get_environ_proxies  # type: ignore[import-untyped]

from idemstore.backends.dynamodb.async_sender import AsyncSender
from idemstore.backends.dynamodb.calls import Call, Client, asking_the_time, check_dated, config, target
from idemstore.backends.dynamodb.clock import ServerClock, local_clock
from idemstore.backends.dynamodb.errors import BotoCoreError, ClientError, body_of, timed_out, translate
from idemstore.backends.dynamodb.messages import Reply, Request
from idemstore.backends.dynamodb.profile import certificates, equip
from idemstore.backends.dynamodb.settings import Settings
from idemstore.errors import IdemstoreError
from idemstore.flows import AsyncSleepWatch

PARALLEL: Final = 32
"""Requests of one batch that are under way at once."""


class Context(Protocol):
    """What makes a client, and closes it."""

    async def __aenter__(self) -> Client:
        """The client."""
        ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> object:
        """Close it."""
        ...


class AiobotocoreDriver:
    """Carries requests by aiobotocore, on the event loop that it was made on."""

    def __init__(self, settings: Settings, clock: ServerClock) -> None:
        self._settings = settings
        self._clock = clock
        self._client: object | None = None
        self._context: Context | None = None
        self._sender: AsyncSender | None = None
        self._lock = asyncio.Lock()
        self._places = asyncio.Semaphore(PARALLEL)

    async def execute(self, request: Request, timeout: float) -> Reply:
        """Carry one request and bring its reply."""
        deadline = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                client = self._client or await self._connect()
                if request.delay:
                    await asyncio.sleep(request.delay)
                if request.clocked and not self._clock.fresh(local_clock()):
                    await self._ask_the_time(client, deadline)
                return await self._carry(client, request, deadline)
        except TimeoutError:
            raise timed_out(timeout) from None
        except (ClientError, BotoCoreError) as error:
            raise translate(error, self._settings.table, timeout) from error

    async def _carry(self, client: object, request: Request, deadline: float) -> Reply:
        """As ``Boto3Driver._carry``."""
        call = Call(request, self._clock, deadline)
        try:
            body = await _send(client, call)
        except ClientError as error:
            return call.refused(error)
        return call.answered(body)

    async def _ask_the_time(self, client: object, deadline: float) -> None:
        """As ``Boto3Driver._ask_the_time``."""
        async with self._lock:
            if self._clock.fresh(local_clock()):
                return
            call = asking_the_time(self._settings.table, self._clock, deadline)
            try:
                body = await _send(client, call)
            except ClientError as error:
                body = body_of(error)
            call.heard(body)
        check_dated(self._clock)

    async def _connect(self) -> object:
        """Make the client; the first caller does, the others wait."""
        async with self._lock:
            if self._client is None:
                settings = self._settings
                session = AioSession(profile=settings.profile)
                equip(session)
                session.set_default_client_config(AioConfig(**config(settings)))
                context: Context = session.create_client("dynamodb", **target(settings))
                client = await context.__aenter__()
                try:
                    await self._take_over(client, session.get_config_variable("ca_bundle"))
                except BaseException:
                    await context.__aexit__(None, None, None)
                    raise
                self._context, self._client = context, client
            return self._client

    async def _take_over(self, client: Client, bundle: str | None) -> None:
        """Send by ``AsyncSender``, unless there is a proxy on the way."""
        endpoint = client.meta.endpoint_url
        if get_environ_proxies(endpoint):
            return
        tls = await asyncio.to_thread(certificates, endpoint, bundle) if endpoint.startswith("https") else None
        self._sender = AsyncSender(endpoint, self._settings.connections, self._settings.timeout / 2, tls)
        client.meta.events.register_first("before-send.dynamodb", self._sender.send)

    async def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many, some at once; one reply or error for each."""
        deadline = time.monotonic() + timeout
        return await asyncio.gather(*(self._each(request, deadline) for request in requests))

    async def _each(self, request: Request, deadline: float) -> Reply | IdemstoreError:
        """One request of a batch; its error stays its own."""
        async with self._places:
            left = deadline - time.monotonic()
            if left <= 0:
                return timed_out(self._settings.timeout)
            try:
                return await self.execute(request, left)
            except IdemstoreError as error:
                return error

    def watch(self, key: str) -> AsyncSleepWatch:
        """As ``Boto3Driver.watch``."""
        return AsyncSleepWatch()

    async def close(self) -> None:
        """Close every connection."""
        context, self._context, self._client = self._context, None, None
        if self._sender is not None:
            self._sender.close()
        if context is not None:
            await context.__aexit__(None, None, None)


async def _send(client: object, call: Call) -> Mapping[str, object]:
    """Make one call."""
    method: Callable[..., Awaitable[Mapping[str, object]]] = getattr(client, call.operation)
    return await method(**call.params)
