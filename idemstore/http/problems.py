"""Problem documents (RFC 9457): what a request is told that is neither run nor replayed.

Clients may rely on the ``type`` URI: base and word never change. The base is ``HttpPolicy.problem_base``; by default
the URI is a name and no address (RFC 9457, 3.1.1), since what a problem means is said by the documentation of the API.
"""

import json
from enum import StrEnum
from typing import Final

from idemstore.http.facts import Headers, Response

BASE: Final = "urn:idemstore:problems/"


class Problem(StrEnum):
    """The last part of the ``type`` URI."""

    KEY_REQUIRED = "key-required"
    INVALID_KEY = "invalid-key"
    PAYLOAD_TOO_LARGE = "payload-too-large"
    INCOMPLETE_BODY = "incomplete-body"
    KEY_REUSED = "key-reused"
    IN_FLIGHT = "in-flight"
    ABANDONED = "abandoned"
    RETRY_LATER = "retry-later"
    LEASE_LOST = "lease-lost"
    BODY_NOT_KEPT = "body-not-kept"
    STORE_UNAVAILABLE = "store-unavailable"
    UNREADABLE_RECORD = "unreadable-record"
    STORE_ERROR = "store-error"
    MISCONFIGURED = "misconfigured"
    FAILED = "failed"


TITLES: Final = {
    Problem.KEY_REQUIRED: "Idempotency key required",
    Problem.INVALID_KEY: "Invalid idempotency key",
    Problem.PAYLOAD_TOO_LARGE: "Payload too large for an idempotent request",
    Problem.INCOMPLETE_BODY: "The request body ended early",
    Problem.KEY_REUSED: "Idempotency key already used with another payload",
    Problem.IN_FLIGHT: "A request with this idempotency key is in progress",
    Problem.ABANDONED: "A request with this idempotency key ended half-way",
    Problem.RETRY_LATER: "An earlier request with this idempotency key failed: try again later",
    Problem.LEASE_LOST: "Another request with this idempotency key took over",
    Problem.BODY_NOT_KEPT: "The response was too large to be kept",
    Problem.STORE_UNAVAILABLE: "Idempotency cannot be guaranteed at the moment",
    Problem.UNREADABLE_RECORD: "The stored response cannot be replayed",
    Problem.STORE_ERROR: "The idempotency store failed",
    Problem.MISCONFIGURED: "Idempotency is misconfigured on this server",
    Problem.FAILED: "The request failed",
}


def problem(
    kind: Problem, status: int, detail: str, headers: Headers = (), *, base: str = BASE, **members: int | str
) -> Response:
    """A problem document; ``members`` are extension members."""
    document = {"type": base + kind, "title": TITLES[kind], "status": status, "detail": detail, **members}
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(status, (("content-type", "application/problem+json"), *headers), body)
