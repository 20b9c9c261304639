"""From a call of a decorated function to its key, scope and fingerprint.

What cannot be identified does not run: a key, scope or fingerprint that cannot be had raises ``InvalidKey`` or
``InvalidPayload``, whatever went wrong inside.
"""

import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from idemstore.errors import ConfigurationError, InvalidKey, InvalidPayload
from idemstore.keys import Json, KeyLike, fingerprint

KeyOf = str | Callable[..., str]
"""The name of an argument, a dotted path into one, or a function of the arguments."""
ScopeOf = None | str | tuple[str, ...] | Callable[..., str | tuple[str, ...]]
"""None: the qualified name of the function."""
FingerprintOf = None | bool | Sequence[str] | Callable[..., bytes | None]
"""True: all arguments. None or False: none. Names of arguments, or dotted paths into them. Or a function of them."""


class Bound(NamedTuple):
    """What identifies one call."""

    key: KeyLike
    fingerprint: bytes | None


class _Path:
    """An argument, or a dotted path into one: members of mappings, attributes of anything else."""

    def __init__(self, text: str, signature: inspect.Signature, owner: str) -> None:
        self.text = text
        self._names = text.split(".")
        if self._names[0] not in signature.parameters or "" in self._names:
            known = ", ".join(signature.parameters) or "none"
            raise ConfigurationError(f"{owner} has no argument {text!r}; its arguments: {known}")

    def read(self, arguments: Mapping[str, object]) -> object:
        """What is there. Raises whatever looking for it raises."""
        value: object = arguments
        for name in self._names:
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        return value


class Binding:
    """Reads key, scope and fingerprint off the arguments of a function."""

    def __init__(self, fn: Callable[..., object], key: KeyOf, scope: ScopeOf, fingerprint: FingerprintOf) -> None:
        self._name = f"{fn.__module__}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
        self._signature = inspect.signature(fn)
        self._key = key if callable(key) else _Path(key, self._signature, self._name)
        self._scope = (self._name,) if scope is None else scope
        self._fingerprint = self._wanted(fingerprint)

    def _wanted(self, fingerprint: FingerprintOf) -> list[_Path] | Callable[..., bytes | None] | None:
        """What the fingerprint is taken of."""
        if fingerprint is None or fingerprint is False or callable(fingerprint):
            return fingerprint or None
        if fingerprint is True:
            names: Sequence[str] = [name for name in self._signature.parameters if name not in ("self", "cls")]
        else:
            names = [fingerprint] if isinstance(fingerprint, str) else fingerprint
        return [_Path(name, self._signature, self._name) for name in names]

    def read(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Bound:
        """What identifies a call with these arguments. Arguments that the function cannot take raise ``TypeError``, as
        calling it would.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return Bound(
            (*self._scope_of(args, kwargs), self._key_of(bound.arguments, args, kwargs)),
            self._fingerprint_of(bound.arguments, args, kwargs),
        )

    def _key_of(self, arguments: Mapping[str, object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """The key as text: str as it is; int and UUID in their one form."""
        key = self._key
        try:
            value = key.read(arguments) if isinstance(key, _Path) else key(*args, **kwargs)
        except Exception as error:
            what = f"no {key.text!r}" if isinstance(key, _Path) else "a key function that failed"
            raise InvalidKey(f"a call of {self._name} has {what} ({type(error).__name__}): it did not run") from error
        if isinstance(value, str):
            return value
        if isinstance(value, int | uuid.UUID) and not isinstance(value, bool):
            return str(value)
        raise InvalidKey(
            f"the key of {self._name} is a {type(value).__name__}: give a str, int or UUID that names the operation"
        )

    def _scope_of(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[str, ...]:
        """The scope, in parts."""
        scope = self._scope
        try:
            found: object = scope(*args, **kwargs) if callable(scope) else scope
        except Exception as error:
            raise InvalidKey(f"the scope function of {self._name} raised {type(error).__name__}") from error
        if isinstance(found, str):
            return (found,)
        if not isinstance(found, tuple):
            raise InvalidKey(f"the scope of {self._name} is a {type(found).__name__}: give a str or a tuple of str")
        return found

    def _fingerprint_of(
        self, arguments: Mapping[str, object], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> bytes | None:
        """The fingerprint, or ``InvalidPayload`` where the arguments have none."""
        wanted = self._fingerprint
        if wanted is None:
            return None
        try:
            found: object = (
                {path.text: path.read(arguments) for path in wanted}
                if isinstance(wanted, list)
                else wanted(*args, **kwargs)
            )
        except Exception as error:
            raise InvalidPayload(
                f"the fingerprint of a call of {self._name} cannot be taken ({type(error).__name__}): it did not run"
            ) from error
        if isinstance(wanted, list):
            return fingerprint(cast("Json", found))  # which says what it cannot take
        if found is None or isinstance(found, bytes):
            return found
        raise InvalidPayload(f"the fingerprint function of {self._name} returned a {type(found).__name__}, not bytes")
