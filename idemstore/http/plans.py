"""What a policy says of a request: frozen values, made for ``match``."""

from functools import partial
from typing import Final, NamedTuple

from idemstore.checks import Duration
from idemstore.http.choices import Fate
from idemstore.http.facts import Request, Response
from idemstore.outcomes import Claimed


class Pass(NamedTuple):
    """Not ours: let the application answer as if there were no middleware."""


class Answer(NamedTuple):
    """Answer with this; the application does not run."""

    response: Response


class Keyed(NamedTuple):
    """A request with a key. Read ``reads`` bytes of its body (None: none), then ask ``identify``."""

    request: Request
    scope: tuple[str, ...]
    key: str
    reads: int | None


class Guarded(NamedTuple):
    """Claim ``key`` with ``fingerprint``, then ask ``meet``. ``operation`` binds the record to what it answers."""

    request: Request
    key: tuple[str, ...]
    fingerprint: bytes | None
    operation: str


class Run(NamedTuple):
    """The caller owns the key: let the application answer, then ``settle``."""

    claimed: Claimed


class Replay(NamedTuple):
    """The stored response, as it was stored: ``rewritten``, then ``replayed`` make the answer."""

    stored: Response


Plan = Pass | Answer | Keyed
Met = Run | Answer | Replay


class Settlement(NamedTuple):
    """What to tell the store. ``result`` is empty for a release; ``retention`` in seconds, None: for ever."""

    fate: Fate
    result: bytes
    retention: Duration | None


PASS: Final = Pass()
new_keyed: Final = partial(tuple.__new__, Keyed)
new_guarded: Final = partial(tuple.__new__, Guarded)
new_settlement: Final = partial(tuple.__new__, Settlement)
"""These three from tuples of their fields: every request makes them, and calling their classes takes twice as long."""
