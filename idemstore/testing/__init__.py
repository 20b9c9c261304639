"""Public test tools: the store contract, its model, fault injection, and real servers to run them on.

``StoreContract`` and its like are imported when they are asked for: whoever only wants a server needs no Hypothesis.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idemstore.testing.contract import StoreContract
    from idemstore.testing.contract_lab import Lab
    from idemstore.testing.contract_network import NetworkContract
    from idemstore.testing.faults import Faults, inject
    from idemstore.testing.proxy import Proxy
    from idemstore.testing.subject import Subject

__all__ = ["Faults", "Lab", "NetworkContract", "Proxy", "StoreContract", "Subject", "inject"]

_HOMES = {
    "Faults": "faults",
    "Lab": "contract_lab",
    "NetworkContract": "contract_network",
    "Proxy": "proxy",
    "StoreContract": "contract",
    "Subject": "subject",
    "inject": "faults",
}


def __getattr__(name: str) -> object:
    """A public name, imported on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
