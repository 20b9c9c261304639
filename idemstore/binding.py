"""From a call of a decorated function to its key, scope and fingerprint."""

import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from idemstore.errors import ConfigurationError, InvalidKey
from idemstore.keys import Json, KeyLike, fingerprint

KeyOf = str | Callable[..., str]
ScopeOf = None | tuple[str, ...] | Callable[..., str | tuple[str, ...]]
FingerprintOf = None | bool | Sequence[str] | Callable[..., bytes | None]


class Bound(NamedTuple):
    """What identifies one call."""

    key: KeyLike
    fingerprint: bytes | None


class Binding:
    """Reads key, scope and fingerprint off the arguments of a function."""

    def __init__(self, fn: Callable[..., object], key: KeyOf, scope: ScopeOf, fingerprint: FingerprintOf) -> None:
        self._name = f"{fn.__module__}.{fn.__qualname__}"
        self._signature = inspect.signature(fn)
        self._key = key if callable(key) else None
        self._path = [] if callable(key) else key.split(".")
        self._scope: tuple[str, ...] | Callable[..., str | tuple[str, ...]] = (self._name,) if scope is None else scope
        self._fingerprint = fingerprint
        names = [] if isinstance(fingerprint, bool) or fingerprint is None or callable(fingerprint) else fingerprint
        for name in [*self._path[:1], *names]:
            if name not in self._signature.parameters:
                known = ", ".join(self._signature.parameters)
                raise ConfigurationError(f"{self._name} has no argument {name!r}: it has {known or 'none'}")

    def read(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Bound:
        """What identifies a call with these arguments; ``InvalidKey`` or ``InvalidPayload`` where nothing does."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        value = self._called(self._key, args, kwargs) if self._key else self._walk(bound.arguments)
        scope = self._called(self._scope, args, kwargs) if callable(self._scope) else self._scope
        parts = (scope,) if isinstance(scope, str) else scope
        if not isinstance(parts, tuple):
            raise InvalidKey(f"the scope of {self._name} is a {type(parts).__name__}: give a str or a tuple of str")
        return Bound((*parts, self._text(value)), self._digest(bound.arguments, args, kwargs))

    def _called(self, fn: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        """A callable's answer; what it raises is a key that cannot be had, and the function does not run."""
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            raise InvalidKey(f"the key or scope function of {self._name} raised {type(error).__name__}") from error

    def _walk(self, arguments: Mapping[str, object]) -> object:
        """The value at the dotted path: members of mappings, attributes of anything else."""
        value: object = arguments
        for name in self._path:
            try:
                value = value[name] if isinstance(value, Mapping) else getattr(value, name)
            except (KeyError, AttributeError) as error:
                raise InvalidKey(f"{self._name} was called without {'.'.join(self._path)!r}, its key") from error
        return value

    def _text(self, value: object) -> str:
        """A key as text: str as it is; int and UUID in their one form."""
        if isinstance(value, str):
            return value
        if isinstance(value, int | uuid.UUID) and not isinstance(value, bool):
            return str(value)
        raise InvalidKey(
            f"the key of {self._name} is a {type(value).__name__}: give a str, int or UUID that names the operation"
        )

    def _digest(
        self, arguments: Mapping[str, object], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> bytes | None:
        """The fingerprint of a call."""
        wanted = self._fingerprint
        if wanted is None or wanted is False:
            return None
        if callable(wanted):
            return wanted(*args, **kwargs)
        names = [name for name in arguments if name not in ("self", "cls")] if wanted is True else list(wanted)
        return fingerprint({name: cast("Json", arguments[name]) for name in names})  # which says what it cannot take
