"""What both drivers do around a call: complete it by the clock, learn the clock from its response, tell answers from
errors. Does no I/O.
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypedDict

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from idemstore.backends.dynamodb.clock import UNKNOWN, ServerClock, local_clock
from idemstore.backends.dynamodb.dialect import probe
from idemstore.backends.dynamodb.errors import body_of, code_of, learn
from idemstore.backends.dynamodb.messages import OK, Reply, Request
from idemstore.backends.dynamodb.settings import RETRIES, USER_AGENT, Settings
from idemstore.errors import StoreMisbehaved


class Events(Protocol):
    """What we use of botocore's hooks."""

    def register_first(self, event_name: str, handler: Callable[..., object]) -> None:
        """Call the handler before all others."""
        ...


class Meta(Protocol):
    """What we use of a client's description."""

    @property
    def events(self) -> Events:
        """Its hooks."""
        ...

    @property
    def endpoint_url(self) -> str:
        """Where it sends."""
        ...


class Client(Protocol):
    """What we use of a low-level client, beside its operations."""

    @property
    def meta(self) -> Meta:
        """Its description."""
        ...


class SyncClient(Client, Protocol):
    """The sync one closes itself."""

    def close(self) -> None:
        """Close botocore's own connections."""
        ...


class Call:
    """One request, made complete at the last moment, and what its response says. It must end by ``deadline``."""

    __slots__ = ("_answers", "_clock", "_clocked", "_reading", "_sent", "deadline", "operation", "params")

    def __init__(self, request: Request, clock: ServerClock, deadline: float) -> None:
        self.operation, self.deadline = request.operation, deadline
        self._answers, self._clocked, self._clock = request.answers, request.clocked, clock
        self._sent = local_clock()
        self._reading = clock.read(self._sent) if request.clocked else UNKNOWN
        self.params = request.build(self._reading)

    def heard(self, body: Mapping[str, object]) -> None:
        """Learn the clock from a response."""
        learn(self._clock, body, self._sent)

    def answered(self, body: Mapping[str, object], code: str = OK) -> Reply:
        """The reply in a response."""
        self.heard(body)
        reading = self._reading if self._clocked else self._clock.read(local_clock())
        return Reply(code, body, reading, self.deadline - time.monotonic())

    def refused(self, error: ClientError) -> Reply:
        """The reply in an error response, if the request counts it among its answers; raises the error if not."""
        body, code = body_of(error), code_of(error)
        if code in self._answers:
            return self.answered(body, code)
        self.heard(body)
        raise error


def asking_the_time(table: str, clock: ServerClock, deadline: float) -> Call:
    """A cheap read before the first request that needs the clock; its answer does not matter, its date does."""
    return Call(probe(table), clock, deadline)


def check_dated(clock: ServerClock) -> None:
    """Raise where not even that has told the time."""
    if not clock.fresh(local_clock()):
        raise StoreMisbehaved("the endpoint dates no response, so the server's clock is unknown: is it DynamoDB?")


def config(settings: Settings) -> dict[str, object]:
    """How botocore is configured. An attempt takes half of the time at most, so that a lost reply can be asked for
    again. Legacy retries pause as DynamoDB's own table says, which ``Link`` relies on.
    """
    return {
        "connect_timeout": settings.timeout / 2,
        "read_timeout": settings.timeout / 2,
        "max_pool_connections": settings.connections,
        "retries": {"mode": "legacy", "total_max_attempts": RETRIES + 1},
        "parameter_validation": False,
        "user_agent": USER_AGENT,
    }


class Target(TypedDict):
    """What a client is made for, and whose credentials it has; None: as AWS's configuration says."""

    region_name: str | None
    endpoint_url: str | None
    aws_access_key_id: str | None
    aws_secret_access_key: str | None


def target(settings: Settings) -> Target:
    """As the settings say."""
    return {
        "region_name": settings.region,
        "endpoint_url": settings.endpoint,
        "aws_access_key_id": settings.access_key,
        "aws_secret_access_key": settings.secret_key,
    }
