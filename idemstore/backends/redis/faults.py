"""How a call can fail, apart from what redis-py raises. Pure: both drivers share it, and so does the routing."""

from typing import NamedTuple

from idemstore.backends.redis.options import Address
from idemstore.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable


class Fault(NamedTuple):
    """An error in our words, and whether the same command may succeed on another attempt within the same call."""

    error: StoreError | ConfigurationError
    again: bool


class Failed(Exception):
    """One attempt of a call failed. Never leaves the drivers: they try again, or raise what ``fault`` has."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault.error))
        self.fault = fault


def unavailable(error: StoreUnavailable) -> Failed:
    """A failure that may pass."""
    return Failed(Fault(error, again=True))


def final(error: StoreError | ConfigurationError) -> Failed:
    """A failure that will not pass within the call."""
    return Failed(Fault(error, again=False))


def timed_out(where: Address) -> StoreTimeout:
    """The deadline of the call has passed."""
    return StoreTimeout(
        f"Redis at {where} did not answer within the time-out: whether the call was applied is not known, "
        "repeating it is safe"
    )


def exhausted(where: Address, size: int) -> StoreTimeout:
    """The deadline has passed while every connection was in use."""
    return StoreTimeout(
        f"all {size} connections to Redis at {where} were in use for the whole time-out: nothing was sent; "
        "raise max_connections, or lower the number of concurrent calls"
    )


def not_replicated(where: Address, reached: object, wanted: int) -> StoreUnavailable:
    """WAIT came back with too few."""
    return StoreUnavailable(
        f"Redis at {where} stored it, but {reached} of {wanted} replicas confirmed it within the time-out: "
        "a failover now could lose it; repeating the call is safe and waits again"
    )


def no_master(service: str, why: str) -> StoreUnavailable:
    """No sentinel can tell the master."""
    return StoreUnavailable(f"no sentinel names a master for the service {service!r}: {why}")


def unknown_service(service: str) -> ConfigurationError:
    """The sentinels answer, and watch something else."""
    return ConfigurationError(
        f"the sentinels do not know the service {service!r}: check ?service= (sentinel monitor NAME)"
    )


def no_owner(why: str) -> StoreUnavailable:
    """No node can tell who serves a slot."""
    return StoreUnavailable(f"no node of the Redis Cluster tells which node serves the key: {why}")


def disagreed(where: Address) -> Fault:
    """A node of a cluster says that another one serves the key: for the next attempt, which asks that one."""
    error = StoreUnavailable(
        f"the node of the Redis Cluster at {where} says that another node serves the key, and that one says so of it: "
        "nothing was done; repeating the call is safe, and works once the nodes agree (redis-cli --cluster check)"
    )
    return Fault(error, again=True)
