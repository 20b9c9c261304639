"""What the contract must be able to do to a backend behind its back: age a record, damage it, see whether it is there.

Every family ships one ``Subject``; a third-party backend brings its own. Times are shifted by the harness, so no test
sleeps until a lease or a retention is over.
"""

from typing import Protocol


class Subject(Protocol):
    """A backend under test. Keys are *stored* keys, as ``idemstore.keys.encode_key`` gives them."""

    @property
    def name(self) -> str:
        """Its name in test ids, such as ``redis`` or ``redis-cluster``."""
        ...

    @property
    def url(self) -> str:
        """What ``idemstore.open`` and ``open_async`` take."""
        ...

    @property
    def shared(self) -> bool:
        """Whether another process that opens ``url`` sees the same records."""
        ...

    def age(self, key: str, seconds: float) -> None:
        """Move every time of the record (lease, retention, retry time, whatever reclaims storage) into the past."""
        ...

    def damage(self, key: str) -> None:
        """Put something under the key that is not a record of ours, as another program would."""
        ...

    def exists(self, key: str) -> bool:
        """Whether anything is physically stored under the key, live or expired."""
        ...

    def close(self) -> None:
        """Remove what the test stored and let go of connections."""
        ...
