"""What a policy refuses when it is made, rather than at some request: names, kinds and bounds."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from idemstore import checks
from idemstore.errors import ConfigurationError
from idemstore.http.choices import LargeRequest, OnMismatch
from idemstore.http.keyformat import KeyFormat
from idemstore.policy import LeaseLoss, StoreDown

if TYPE_CHECKING:
    from idemstore.http.policy import HttpPolicy

KINDS: Final[Mapping[str, type]] = {
    "takeover": bool,
    "required": bool,
    "key_format": KeyFormat,
    "store_down": StoreDown,
    "lease_loss": LeaseLoss,
    "on_mismatch": OnMismatch,
    "large_request": LargeRequest,
    "namespace": str,
    "problem_base": str,
}
"""Fields that take one kind of value and no other: ``takeover="no"`` would be true."""

NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE: Final = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")
"""A header's name and value, as RFC 9110 (5.1, 5.5) has them, in ASCII."""


def check_names(policy: "HttpPolicy") -> None:
    """Refuse names that no request has, and a header that no response can have."""
    for name in ("headers", "methods", "not_replayed"):
        given = getattr(policy, name)
        if isinstance(given, str):  # a str is its letters: no key would be found, nothing protected
            raise ConfigurationError(f"HttpPolicy.{name} is several names, such as ({given!r:.40},)")
    if not policy.headers or not all(isinstance(name, str) and NAME.fullmatch(name) for name in policy.headers):
        raise ConfigurationError("HttpPolicy.headers is a tuple of header names")
    if not all(len(method) > 1 and method == method.upper() for method in policy.methods):
        raise ConfigurationError("HttpPolicy.methods is a set of methods in upper case")
    if policy.replay_header is not None and not _is_header(policy.replay_header):
        raise ConfigurationError("HttpPolicy.replay_header is (name, value) of a header, or None")


def _is_header(given: object) -> bool:
    """A name and a value that a server can send."""
    match given:
        case (str(name), str(value)):
            return bool(NAME.fullmatch(name) and VALUE.fullmatch(value))
        case _:
            return False


def check_kinds(policy: "HttpPolicy") -> None:
    """Refuse values of another kind, which would be taken for something else."""
    for name, kind in KINDS.items():
        if not isinstance(getattr(policy, name), kind):
            raise ConfigurationError(f"HttpPolicy.{name} is a {kind.__name__}, not {getattr(policy, name)!r:.40}")
    for name in ("routes", "fingerprint", "fate", "rewrite", "binds", "reshape"):
        given = getattr(policy, name)
        if not (callable(given) or (given is None and name not in ("fate", "binds"))):
            raise ConfigurationError(f"HttpPolicy.{name} is a function, not {given!r:.40}")


def check_bounds(policy: "HttpPolicy") -> None:
    """Refuse durations, sizes and statuses that no request could use."""
    for name in ("lease", "patience"):
        checks.duration(name, getattr(policy, name))
    for name in ("retention", "failure_retention"):
        checks.retention(getattr(policy, name), name)
    checks.seconds_to_wait(policy.wait)
    for name, least in (("max_request", 1), ("max_response", 0), ("retry_after", 1)):
        if not isinstance(getattr(policy, name), int) or getattr(policy, name) < least:
            raise ConfigurationError(f"HttpPolicy.{name} is a whole number from {least}")
    for name in ("mismatch_status", "in_flight_status", "not_kept_status", "replay_status"):
        status = getattr(policy, name)
        if status is not None and not (isinstance(status, int) and 200 <= status <= 599):
            raise ConfigurationError(f"HttpPolicy.{name} is a status from 200 to 599, not {status!r}")
