"""What redis-py raises, in our words: the one place that translates it.

A server says what is wrong by the first word of its error. redis-py has classes for some of these words; the others
stand at the start of the text. An error from inside a script has it there, too, except on Redis 6, which wraps it.
"""

import re
import ssl
from typing import Final

from redis import exceptions as redis_errors

from idemstore.backends.redis.faults import Failed, Fault, timed_out
from idemstore.backends.redis.options import Address
from idemstore.errors import (
    AccessDenied,
    ConfigurationError,
    StoreError,
    StoreFull,
    StoreMisbehaved,
    StoreUnavailable,
)

PERMISSIONS: Final = (
    "+evalsha +eval +time +hmget +hget +exists +hset +hdel +del +pexpireat +persist, and, where they are used, "
    "+wait (replicas=), +cluster|slots and +asking (cluster), +role (sentinel), on keys ~PREFIX*"
)

_WRAPPED: Final = re.compile(r"@user_script: ?\d+: -?([A-Z]{2,}) ")
_NO_PERMISSION: Final = re.compile("The user executing the script can't|ACL failure in script")
_FIRST_WORD: Final = re.compile(r"-?([A-Z]{2,})\b")

_ARGUMENTS: Final = ", with args"
"""From here on a server that does not know a command repeats what came with it: key, token and result."""

_PASSING: Final = {
    "LOADING": "is still loading its data",
    "READONLY": "is a replica and takes no writes",
    "MASTERDOWN": "is a replica that has lost its master",
    "CLUSTERDOWN": "says that the cluster is down",
    "TRYAGAIN": "is moving the key to another node",
    "BUSY": "is busy with another program's script",
    "NOREPLICAS": "takes no writes while too few replicas are connected (min-replicas-to-write)",
    "UNBLOCKED": "changed its role meanwhile",
}
_LASTING: Final = {"MISCONF": "takes no writes because it cannot save them (see its log)"}
_CLASSES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.MasterDownError, "MASTERDOWN"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.TryAgainError, "TRYAGAIN"),
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.AuthenticationError, "NOAUTH"),
    (redis_errors.AuthorizationError, "NOAUTH"),
    (redis_errors.AuthenticationWrongNumberOfArgsError, "NOAUTH"),
    (redis_errors.MovedError, "MOVED"),
    (redis_errors.AskError, "MOVED"),
    (redis_errors.ConnectionError, "CONNECTION"),
    (redis_errors.TimeoutError, "TIMEOUT"),
    (redis_errors.InvalidResponse, "PROTOCOL"),
    (RecursionError, "PROTOCOL"),
)

CLIENT_ERRORS: Final = (redis_errors.RedisError, OSError, ValueError, RecursionError)
"""What redis-py lets out of a connection: its own errors, those of sockets and TLS, and what a parser chokes on (arrays
of arrays, thousands deep, too).
"""


def fault(error: Exception, where: Address) -> Fault:
    """Translate an error of redis-py."""
    code, text = _code(error), str(error)
    if code in _PASSING:
        return Fault(StoreUnavailable(f"Redis at {where} {_PASSING[code]}: repeating the call is safe"), again=True)
    if code in _LASTING:
        return Fault(StoreUnavailable(f"Redis at {where} {_LASTING[code]}"), again=False)
    if code == "CONNECTION":
        return _connection(error, text, where)
    return Fault(_refusal(code, text, where), again=False)


def cause(failed: Failed) -> BaseException | None:
    """What to show as the cause of an error: nothing that repeats the arguments of a call, tracebacks get logged."""
    found = failed.__cause__
    return None if _ARGUMENTS in str(found) else found


def _code(error: Exception) -> str:
    """What kind of error it is: the server's word for it, where it has one."""
    for kind, code in _CLASSES:
        if isinstance(error, kind):
            return code
    if isinstance(error, TimeoutError):
        return "TIMEOUT"
    if isinstance(error, OSError):
        return "CONNECTION"
    text = str(error)
    if _NO_PERMISSION.search(text):
        return "NOPERM"
    found = _WRAPPED.search(text) or _FIRST_WORD.match(text)
    return found[1] if found else "ERR"


def _connection(error: Exception, text: str, where: Address) -> Fault:
    """No connection, or one that broke. A certificate that is not trusted will not be trusted next time either."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            message = f"the certificate of Redis at {where} is not trusted ({cause.verify_message}): check ca_certs"
            return Fault(ConfigurationError(message), again=False)
        cause = cause.__cause__ or cause.__context__
    message = f"Redis at {where} cannot be reached: {text.rstrip('.')}; check host and port; repeating the call is safe"
    return Fault(StoreUnavailable(message), again=True)


def _refusal(code: str, text: str, where: Address) -> StoreError | ConfigurationError:
    """An error that another attempt would meet again."""
    match code:
        case "TIMEOUT":
            return timed_out(where)
        case "OOM":
            return StoreFull(
                f"Redis at {where} has reached its maxmemory and stores nothing new: "
                "give it more, or shorten retentions"
            )
        case "NOAUTH" | "WRONGPASS" | "DENIED":
            return AccessDenied(f"Redis at {where} refuses the user name or password of the URL: {text}")
        case "NOPERM":
            return AccessDenied(f"Redis at {where} does not let this user do it ({text}); needed: {PERMISSIONS}")
        case "MOVED":
            return ConfigurationError(
                f"Redis at {where} is a node of a cluster: use redis+cluster:// (rediss+cluster://)"
            )
        case "PROTOCOL":
            return StoreMisbehaved(f"what listens at {where} does not speak the protocol of Redis: check host and port")
        case _ if "cluster support disabled" in text:
            return ConfigurationError(f"Redis at {where} is no node of a cluster: use redis:// (rediss://)")
        case _ if "DB index" in text or "invalid DB" in text or "SELECT is not allowed" in text:
            return ConfigurationError(f"Redis at {where} does not have the database that the URL names ({text})")
        case _:
            return StoreMisbehaved(f"Redis at {where} refused a command of ours: {text.partition(_ARGUMENTS)[0]}")
