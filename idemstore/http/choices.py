"""What a policy chooses from: who asks, what a payload is, what becomes of a response."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Collection
from enum import StrEnum
from typing import Final

from idemstore.errors import InvalidPayload
from idemstore.http.facts import Request, Response
from idemstore.keys import fingerprint


class OnMismatch(StrEnum):
    """What becomes of a known key with another payload."""

    REFUSE = "refuse"
    """A problem document with ``HttpPolicy.mismatch_status``."""
    SEPARATE = "separate"
    """The payload is part of the identity: it is another key."""
    IGNORE = "ignore"
    """The payload is not looked at: the first response is replayed."""


class Fate(StrEnum):
    """What becomes of the key after a response."""

    COMPLETE = "complete"
    """Kept and replayed, as a success."""
    FAIL = "fail"
    """Kept and replayed, as a failure (``HttpPolicy.failure_retention``)."""
    RELEASE = "release"
    """Not kept: the same key may be tried again."""


COMPLETE: Final = Fate.COMPLETE
RELEASE: Final = Fate.RELEASE
"""Names for what every request looks up: on CPython 3.11 that is slow on an enum."""


class LargeRequest(StrEnum):
    """What becomes of a request whose body is larger than ``HttpPolicy.max_request``."""

    REFUSE = "refuse"
    """413; nothing runs."""
    PREFIX = "prefix"
    """It runs. Payloads are compared by their beginning and their declared length alone."""


ScopeParts = str | tuple[str, ...]
Scope = Callable[[Request], ScopeParts | None]
"""Who asks, as the parts that isolate callers. None: nobody known, so the application answers and no key is bound."""
FingerprintOf = Callable[[Request], bytes]
Rewrite = Callable[[Response, Request], Response | Awaitable[Response]]
Reshape = Callable[[Response, Request], Response]
FateOf = Callable[[int], Fate]
OperationOf = Callable[[Request], str]


class SingleTenant:
    """The scope of a service whose callers share one namespace. Made by ``single_tenant()``."""

    __slots__ = ()

    def __call__(self, request: Request) -> tuple[str, ...]:
        """No part."""
        return ()


def single_tenant() -> Scope:
    """Said out loud: every caller of this service shares one namespace of keys."""
    return SingleTenant()


def method_and_path(request: Request) -> str:
    """What a record is bound to, by default."""
    return f"{request.method} {request.path}"


def body_fingerprint(request: Request) -> bytes:
    """Method, path, query and body: the default. Two bodies are the same if their bytes are."""
    method, path, _, query, _, body, truncated, _ = request
    front = f"{method} {path}?{query}".encode("utf-8", "surrogatepass")
    size = (request.header("content-length") or "?").encode() if truncated else b""
    head = b"idemstore http 1\n%d %d %d\n%b%b" % (len(front), len(size), len(body), front, size)
    if len(body) <= COPIED:
        return hashlib.sha256(head + body).digest()  # in one call
    digest = hashlib.sha256(head)
    digest.update(body)
    return digest.digest()  # SHA-256, each part with its length before it


def json_fingerprint(request: Request) -> bytes:
    """Method, path, query and body; JSON bodies are the same if their values are, whatever order and white space."""
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if request.truncated or not (kind == "application/json" or kind.endswith("+json")):
        return body_fingerprint(request)
    try:
        value = fingerprint(json.loads(request.body))
    except (ValueError, RecursionError, InvalidPayload):
        return body_fingerprint(request)  # no JSON: the application will say so
    return body_fingerprint(request._replace(body=b"json" + value))


COPIED: Final = 4096
"""Bytes of a body that are cheaper to copy than to hash in a call of its own."""

TRY_AGAIN: Final = frozenset({408, 409, 423, 425, 429})
"""Client errors that say "not now" rather than "no"."""


def keep_everything(status: int) -> Fate:
    """Every response is kept, errors included."""
    return Fate.COMPLETE if status < 400 else Fate.FAIL


def keep_client_errors(status: int) -> Fate:
    """The default: successes and 4xx are kept, but for those that say "not now"; 5xx may be tried again."""
    if status >= 500 or status in TRY_AGAIN:
        return RELEASE
    return COMPLETE if status < 400 else Fate.FAIL


def keep_success(status: int) -> Fate:
    """Only successes are kept."""
    return Fate.COMPLETE if status < 400 else Fate.RELEASE


def keep_but(released: Collection[int]) -> FateOf:
    """Every response is kept, but for these statuses."""
    free = frozenset(released)
    return lambda status: Fate.RELEASE if status in free else keep_everything(status)
