"""Policies of real APIs, ready to use. Each takes what only the application knows (who asks) and returns an
``HttpPolicy``; ``dataclasses.replace`` changes what is different with you.

The letters are the columns of the table in ``docs/http.md``.
"""

from collections.abc import Callable
from typing import Final

from idemstore.checks import Duration
from idemstore.http.choices import (
    Fate,
    FateOf,
    OnMismatch,
    Rewrite,
    Scope,
    keep_but,
    keep_client_errors,
    keep_everything,
    keep_success,
)
from idemstore.http.facts import Request
from idemstore.http.keyformat import KeyFormat, Quoting
from idemstore.http.policy import DAY, HttpPolicy
from idemstore.http.routes import paths
from idemstore.policy import StoreDown

HOUR: Final = 3600.0

Who = Callable[[Request], str | None]
"""Who asks, such as the owner of the API key; None: no valid credentials, so the application refuses."""

ANY_STRING: Final = KeyFormat(max_length=None, quoting=Quoting.NEVER, commas=True)
REFUSED: Final = frozenset({400, 401, 403, 409, 422, 429})
"""Statuses that say that execution had not begun: validation, credentials, conflict, capacity."""


def meeting_bots(who: Who, path: str, rewrite: Rewrite, *, wait: Duration = 10.0) -> HttpPolicy:
    """A: "create bot". A replay has status 507 and the body that ``rewrite(stored, request)`` builds, from the resource
    as it is today; under ASGI it may be async.

    Kept for ever: when the resource is deleted, free the key with ``store.forget(policy.key(user, key))``. Failures
    leave the key free; the payload is not looked at; where the store is down the request runs. Of two parallel requests
    one runs and the other waits, then gets 409.
    """
    return HttpPolicy(
        scope=_only(who),
        methods=frozenset({"POST"}),
        routes=paths(path),
        key_format=KeyFormat(max_length=None, quoting=Quoting.NEVER, commas=True, absent_words=frozenset({"null"})),
        fingerprint=None,
        on_mismatch=OnMismatch.IGNORE,
        wait=wait,
        fate=keep_success,
        retention=None,
        rewrite=rewrite,
        replay_status=507,
        replay_header=None,
        store_down=StoreDown.PROCEED,
    )


def voice_agents(who: Who, *templates: str, retention: Duration = HOUR) -> HttpPolicy:
    """B: calls, agents, tools. ``X-Idempotency-Key`` on POST of these paths, per organization and endpoint. The payload
    is part of the identity: another payload is another request. Every response is kept, for minutes to hours.
    """
    return HttpPolicy(
        scope=_within(who, _operation),
        headers=("x-idempotency-key",),
        methods=frozenset({"POST"}),
        routes=paths(*templates),
        key_format=ANY_STRING,
        on_mismatch=OnMismatch.SEPARATE,
        fate=keep_everything,
        retention=retention,
        failure_retention=retention,
        replay_header=None,
        not_replayed=frozenset({"date"}),
    )


def transcriptions(who: Who, *templates: str) -> HttpPolicy:
    """C: recordings and transcriptions. Keys of 1 to 255 letters, digits, ``-`` and ``_``, per project and operation;
    another payload is a conflict; 4xx are replayed, 5xx may be tried again; kept for 24 hours.
    """
    return HttpPolicy(
        scope=_within(who, _operation),
        methods=frozenset({"POST"}),
        routes=paths(*templates),
        key_format=KeyFormat(max_length=255, pattern=r"[A-Za-z0-9_-]+", quoting=Quoting.NEVER),
        mismatch_status=409,
        fate=_but_server_errors,
        retention=DAY,
        failure_retention=DAY,
        replay_header=None,
    )


def meeting_recorder(who: Who) -> HttpPolicy:
    """D: every PUT, POST and PATCH, per user and path. The payload is not looked at; every response is kept, 507
    included, for an hour after completion; in flight is 409.
    """
    return HttpPolicy(
        scope=_within(who, _path),
        methods=frozenset({"PUT", "POST", "PATCH"}),
        key_format=ANY_STRING,
        fingerprint=None,
        on_mismatch=OnMismatch.IGNORE,
        binds=_path,
        fate=keep_everything,
        retention=HOUR,
        failure_retention=HOUR,
        replay_header=None,
    )


def stripe(who: Who, *, retention: Duration = DAY) -> HttpPolicy:
    """E: Stripe. Every POST, up to 255 characters, per account; another payload is an error (400); replays carry
    ``Idempotent-Replayed: true``. Once execution has begun every response is kept, 500 included; what was refused
    before that (validation, credentials, conflict, capacity) is not.
    """
    return HttpPolicy(
        scope=_only(who),
        methods=frozenset({"POST"}),
        key_format=KeyFormat(max_length=255, quoting=Quoting.NEVER, commas=True),
        mismatch_status=400,
        fate=keep_but(REFUSED),
        retention=retention,
        failure_retention=retention,
        replay_header=("idempotent-replayed", "true"),
    )


def ietf(
    scope: Scope,
    *,
    required: bool = True,
    fate: FateOf = keep_client_errors,
    retention: Duration | None = DAY,
) -> HttpPolicy:
    """F: draft-ietf-httpapi-idempotency-key-header-07. POST and PATCH; a structured-field string in quotes; 400 where
    the key is missing, 422 for another payload, 409 in flight. Publish what you choose: scope, fate, retention.
    """
    return HttpPolicy(
        scope=scope,
        methods=frozenset({"POST", "PATCH"}),
        key_format=KeyFormat(quoting=Quoting.REQUIRED),
        required=required,
        fate=fate,
        retention=retention,
        failure_retention=retention,
        replay_header=None,
    )


def _only(who: Who) -> Scope:
    """A scope of the caller alone."""

    def scope(request: Request) -> tuple[str, ...] | None:
        caller = who(request)
        return None if caller is None else (caller,)

    return scope


def _within(who: Who, part: Callable[[Request], str]) -> Scope:
    """A scope of the caller and something of the request."""

    def scope(request: Request) -> tuple[str, ...] | None:
        caller = who(request)
        return None if caller is None else (caller, part(request))

    return scope


def _operation(request: Request) -> str:
    """Method and template."""
    return request.operation


def _path(request: Request) -> str:
    """The path as sent."""
    return request.path


def _but_server_errors(status: int) -> Fate:
    """Every response but 5xx."""
    return Fate.RELEASE if status >= 500 else keep_everything(status)
