"""HTTP: one pure policy decides, thin adapters carry it out. The standard library alone is needed.

- ``HttpPolicy``: every decision; ``presets``: policies of real APIs;
- ``asgi.IdempotencyMiddleware`` (over an ``AsyncStore``), ``wsgi.IdempotencyMiddleware`` (over a ``Store``);
- ``Request``, ``Response``: what scopes, fingerprints and hooks are given;
- ``idemstore.testing.adapters.AdapterContract``: what every adapter must show.
"""

from idemstore.http.choices import (
    Fate,
    LargeRequest,
    OnMismatch,
    body_fingerprint,
    json_fingerprint,
    keep_but,
    keep_client_errors,
    keep_everything,
    keep_success,
    single_tenant,
)
from idemstore.http.facts import Headers, Request, Response
from idemstore.http.keyformat import KeyFormat, Quoting
from idemstore.http.policy import HttpPolicy
from idemstore.http.problems import Problem
from idemstore.http.routes import paths
from idemstore.policy import LeaseLoss, StoreDown

__all__ = [
    "Fate",
    "Headers",
    "HttpPolicy",
    "KeyFormat",
    "LargeRequest",
    "LeaseLoss",
    "OnMismatch",
    "Problem",
    "Quoting",
    "Request",
    "Response",
    "StoreDown",
    "body_fingerprint",
    "json_fingerprint",
    "keep_but",
    "keep_client_errors",
    "keep_everything",
    "keep_success",
    "paths",
    "single_tenant",
]
