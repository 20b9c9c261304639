"""Policies of real APIs, ready to use. Each takes what only the application knows (who asks) and returns an ``HttpPolicy``.

The letters are the columns of the table in ``docs/presets.md``, where every cell is tested end to end.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from idemstore.http.facts import Request, Response
from idemstore.http.keyformat import KeyFormat, Quoting
from idemstore.http.policy import (
    DAY,
    Fate,
    FateOf,
    HttpPolicy,
    OnMismatch,
    Rewrite,
    Scope,
    StoreDown,
    keep_client_errors,
    keep_everything,
    keep_success,
)

HOUR: Final = 3600.0

Who = Callable[[Request], str | None]
"""Who asks, such as the owner of the API key; None: no valid credentials, so the application refuses."""


def _within(who: Who, part: Callable[[Request], str]) -> Scope:
    """A scope of the caller and something of the request."""

    def scope(request: Request) -> tuple[str, ...] | None:
        caller = who(request)
        return None if caller is None else (caller, part(request))

    return scope


def _only(who: Who) -> Scope:
    """A scope of the caller alone."""

    def scope(request: Request) -> tuple[str, ...] | None:
        caller = who(request)
        return None if caller is None else (caller,)

    return scope


def _operation(request: Request) -> str:
    """Method and route: the operation, whatever its path parameters."""
    return f"{request.method} {request.route or request.path}"


def _path(request: Request) -> str:
    """The path as sent."""
    return request.path


def _on(paths: tuple[str, ...]) -> Callable[[Request], bool]:
    """Only these routes or paths."""
    return lambda request: (request.route or request.path) in paths or request.path in paths


def meeting_bots(who: Who, path: str, rewrite: Rewrite, *, wait: float = 10.0) -> HttpPolicy:
    """A: "create bot". A replay has status 507 and a body that ``rewrite`` builds from today's state of the resource.

    Kept for ever: when the resource is deleted, free the key with ``store.forget((user, key))``. Failures leave the key
    free; the payload is not looked at; where the store is down the request runs. Of two parallel requests one runs and
    the other waits, then gets 409 (the API itself does not detect it).
    """

    def replayed(response: Response, request: Request) -> Response:
        return replace(rewrite(response, request), status=507)

    return HttpPolicy(
        scope=_only(who),
        methods=frozenset({"POST"}),
        routes=_on((path,)),
        key_format=KeyFormat(max_length=None, absent_words=frozenset({"null"})),
        fingerprint=None,
        on_mismatch=OnMismatch.IGNORE,
        wait=wait,
        fate=keep_success,
        retention=None,
        rewrite=replayed,
        replay_header=None,
        store_down=StoreDown.PROCEED,
    )


def voice_agents(who: Who, *paths: str, retention: float = HOUR) -> HttpPolicy:
    """B: calls, agents, tools. The payload is part of the identity: another payload is another request. Every response
    is kept, for minutes to hours, and replayed byte for byte.
    """
    return HttpPolicy(
        scope=_within(who, _operation),
        headers=("x-idempotency-key",),
        methods=frozenset({"POST"}),
        routes=_on(paths),
        key_format=KeyFormat(max_length=None),
        on_mismatch=OnMismatch.SEPARATE,
        fate=keep_everything,
        retention=retention,
        failure_retention=retention,
        replay_header=None,
        keep_cookies=True,
    )


def transcriptions(who: Who, *paths: str) -> HttpPolicy:
    """C: recordings and transcriptions. Keys of 1 to 255 letters, digits, ``-`` and ``_``; another payload is a
    conflict; 4xx are replayed, 5xx may be tried again; kept for 24 hours.
    """

    def fate(status: int) -> Fate:
        return Fate.RELEASE if status >= 500 else keep_everything(status)

    return HttpPolicy(
        scope=_within(who, _operation),
        methods=frozenset({"POST"}),
        routes=_on(paths),
        key_format=KeyFormat(max_length=255, pattern=r"[A-Za-z0-9_-]{1,255}"),
        mismatch_status=409,
        fate=fate,
        replay_header=None,
    )


def meeting_recorder(who: Who) -> HttpPolicy:
    """D: every PUT, POST and PATCH, per user and path. The payload is not looked at; every response is kept, for an
    hour after completion; in flight is 409.
    """
    return HttpPolicy(
        scope=_within(who, _path),
        methods=frozenset({"PUT", "POST", "PATCH"}),
        key_format=KeyFormat(max_length=None),
        fingerprint=None,
        on_mismatch=OnMismatch.IGNORE,
        fate=keep_everything,
        retention=HOUR,
        failure_retention=HOUR,
        replay_header=None,
    )


def stripe(who: Who) -> HttpPolicy:
    """E: Stripe. Every POST, up to 255 characters, per account; another payload is an error; replays carry
    ``Idempotent-Replayed: true``. Once execution has begun every response is kept, 500 included; a validation failure,
    a conflict with a running request and a refusal for lack of capacity or credentials are not.
    """

    def fate(status: int) -> Fate:
        return Fate.RELEASE if status in (400, 401, 403, 409, 422, 429) else keep_everything(status)

    return HttpPolicy(
        scope=_only(who),
        methods=frozenset({"POST"}),
        mismatch_status=400,
        fate=fate,
        retention=DAY,
        failure_retention=DAY,
        replay_header=("idempotent-replayed", "true"),
    )


def ietf(scope: Scope, *, required: bool = True, fate: FateOf = keep_client_errors) -> HttpPolicy:
    """F: draft-ietf-httpapi-idempotency-key-header-07. POST and PATCH; a structured-field string in quotes; 400 where
    the key is missing, 422 for another payload, 409 in flight.
    """
    return HttpPolicy(
        scope=scope,
        methods=frozenset({"POST", "PATCH"}),
        key_format=KeyFormat(quoting=Quoting.REQUIRED),
        required=required,
        fate=fate,
        replay_header=None,
    )
