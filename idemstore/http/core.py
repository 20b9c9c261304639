"""What the ASGI and WSGI middlewares share beside the policy: no I/O, no framework.

The operation that runs is the one that guards have (``idemstore.operation()``, ``idemstore.async_operation()``), so
handlers see attempt, fence, checkpoints and a lost lease.
"""

import logging
import os
import weakref
from functools import partial
from typing import Final, NamedTuple

from idemstore import checks
from idemstore.codec.base import JsonCodec
from idemstore.envelope import Envelope
from idemstore.errors import ConfigurationError, IdemstoreError, LeaseLostError
from idemstore.face import Face
from idemstore.guard_core import Unsure
from idemstore.http.facts import Request, Response
from idemstore.http.plans import Guarded
from idemstore.http.policy import HttpPolicy
from idemstore.keys import StoredKey, encode_key, redact
from idemstore.machine import MICROSECONDS
from idemstore.outcomes import ClaimOutcome, InFlight
from idemstore.policy import StoreDown
from idemstore.running import Home, around

log: Final = logging.getLogger("idemstore.http")

OPERATION: Final = "idemstore.operation"
"""Where the ASGI scope and the WSGI environ have the running operation."""


class Ask(NamedTuple):
    """One request that is to be claimed: what ``identify`` said, its stored key, and the token to claim it with."""

    guarded: Guarded
    stored: StoredKey
    token: str


_ask: Final = partial(tuple.__new__, Ask)


class HttpCore:
    """A store's face and a policy."""

    def __init__(self, store: Face, policy: HttpPolicy) -> None:
        if not isinstance(policy, HttpPolicy):
            raise ConfigurationError("the second argument is an HttpPolicy, or what a preset returns")
        self.policy = policy
        self.limit = store.limits.value_bytes
        self.lease_seconds = checks.duration("lease", policy.lease) / MICROSECONDS
        self.patience = checks.duration("patience", policy.patience) / MICROSECONDS
        self.home = Home(store, Envelope(JsonCodec(), self.limit), self.lease_seconds)
        self.unsure = Unsure()
        self._key_bytes = store.limits.key_bytes
        self.keeps = min(policy.max_response, self.limit)
        _cores.add(self)

    def ask(self, guarded: Guarded) -> Ask:
        """What to claim; an earlier claim of the key that got no answer is repeated under its own token."""
        stored = StoredKey(encode_key(guarded.key, self._key_bytes))
        return _ask((guarded, stored, self.unsure.take(stored)))

    def no_answer(self, ask: Ask, error: IdemstoreError) -> bool:
        """A claim that the store could not take. Whether the application runs all the same."""
        if self.policy.store_down is not StoreDown.PROCEED:
            self.unsure.remember(ask.stored, ask.token)
            return False
        log.warning("running %s unprotected, the store cannot take its claim: %s", redact(ask.stored), error)
        return True

    def check_outer(self, outcome: ClaimOutcome, ask: Ask) -> None:
        """Refuse a request that is in flight because this one is a part of it: to try again would never help."""
        if isinstance(outcome, InFlight) and around(ask.stored, self.home.face):
            raise ConfigurationError(
                f"{redact(ask.stored)} is being run by the request that this one is a part of: the middleware "
                "stands twice before the application (add it once), or its key was sent on (use another one)"
            )

    def trouble(self, error: IdemstoreError, request: Request) -> Response:
        """The answer where idempotency cannot be had; the reason goes to the log."""
        log.error("%s %s answered without being run: %s", request.method, request.path, error)
        return self.policy.trouble(error, request)

    def lost(self, ask: Ask) -> None:
        """Say that the application ran to its end and somebody else owns the key."""
        log.error(
            "%s was taken over while it ran: it may have run twice; its response is not stored", redact(ask.stored)
        )

    def cut_off(self) -> LeaseLostError:
        """The error that ends a response that is under way and must not look whole."""
        return LeaseLostError("the request was taken over while its response was under way: it is cut off")

    def unrecorded(self, ask: Ask, error: IdemstoreError) -> None:
        """Say that the application ran and the store could not be told."""
        log.error(
            "%s was answered, but the store could not be told: a retry runs it again once its lease is over: %s",
            redact(ask.stored),
            error,
        )


_cores: "weakref.WeakSet[HttpCore]" = weakref.WeakSet()


def _after_fork() -> None:
    """In a child process: what is remembered is the parent's."""
    for core in list(_cores):
        core.unsure.start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
