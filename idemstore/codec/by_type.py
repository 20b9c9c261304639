"""Codecs for a type: what is replayed is a value of that type again, validated.

What is written is read back at once, so a result that a replay could not be made of is found while the caller still
holds it. What a type leaves out when it is written (excluded fields, masked secrets) is not in the replay either.
"""

import dataclasses
import importlib.util
from typing import TypeVar, cast, get_type_hints

from idemstore.codec.base import Codec, JsonCodec
from idemstore.errors import ConfigurationError, UncarriedResult, UndecodableResult
from idemstore.registry import need

T = TypeVar("T")


class _Typed(Codec[T]):
    """A codec that reads back what it writes."""

    def __init__(self, kind: type[T]) -> None:
        self._name = getattr(kind, "__name__", str(kind))

    def _write(self, value: T) -> bytes:
        raise NotImplementedError

    def encode(self, value: T) -> bytes:
        """JSON that can be read back, or ``UncarriedResult``."""
        data = self._write(value)
        try:
            self.decode(data)
        except UndecodableResult as error:
            raise UncarriedResult(
                f"the result ({type(value).__name__}) cannot be replayed as {self._name}: {error}"
            ) from error
        return data


class PydanticCodec(_Typed[T]):
    """Anything that pydantic can describe, as JSON that is validated when it is replayed. Aliases play no part."""

    def __init__(self, kind: type[T]) -> None:
        """``kind``: a model, dataclass, TypedDict, or annotation such as ``list[Receipt]``."""
        super().__init__(kind)
        self._errors = need("pydantic_core", "pydantic")
        self._adapter = need("pydantic", "pydantic").TypeAdapter(kind)

    def _write(self, value: T) -> bytes:
        """JSON by pydantic."""
        try:
            return cast("bytes", self._adapter.dump_json(value, by_alias=False, round_trip=True, warnings="error"))
        except (self._errors.PydanticSerializationError, TypeError, ValueError) as error:
            # what pydantic says shows the value, and the reason that is stored must not
            raise UncarriedResult(f"pydantic cannot carry a {type(value).__name__} as {self._name}") from error

    def decode(self, data: bytes) -> T:
        """Validated again."""
        try:
            return cast("T", self._adapter.validate_json(data, by_alias=False, by_name=True))
        except self._errors.ValidationError as error:
            kinds = ", ".join(sorted({one["type"] for one in error.errors(include_input=False, include_url=False)}))
            # not chained: what pydantic says shows the result
            raise UndecodableResult(f"the stored result is no {self._name} of today: {kinds}") from None


class MsgspecCodec(_Typed[T]):
    """Structs, dataclasses and annotations that msgspec knows, as JSON that is validated when it is replayed."""

    def __init__(self, kind: type[T]) -> None:
        """``kind``: a Struct, dataclass, TypedDict, or annotation such as ``list[Receipt]``."""
        super().__init__(kind)
        self._msgspec = need("msgspec", "msgspec")
        self._encoder = self._msgspec.json.Encoder()
        self._decoder = self._msgspec.json.Decoder(kind)

    def _write(self, value: T) -> bytes:
        """JSON by msgspec."""
        try:
            return cast("bytes", self._encoder.encode(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise UncarriedResult(f"msgspec cannot carry the result ({type(value).__name__}): {error}") from error

    def decode(self, data: bytes) -> T:
        """Validated again."""
        try:
            return cast("T", self._decoder.decode(data))
        except (self._msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UndecodableResult(f"the stored result is no {self._name} of today: {error}") from error


class DataclassCodec(_Typed[T]):
    """Dataclasses of JSON values, with the standard library alone. Fields that are annotated as a dataclass may hold
    one; a dataclass anywhere else in the result is refused. It does not check field types.
    """

    def __init__(self, kind: type[T]) -> None:
        """``kind``: a dataclass, all of whose fields its constructor takes."""
        super().__init__(kind)
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise ConfigurationError(f"DataclassCodec carries a dataclass, not {kind!r}")
        self._kind, self._json = kind, JsonCodec()

    def _write(self, value: T) -> bytes:
        """A JSON object of its fields."""
        if not isinstance(value, self._kind):
            raise UncarriedResult(f"the codec carries {self._name}, the result is a {type(value).__name__}")
        return self._json.encode(dataclasses.asdict(value))  # type: ignore[call-overload]

    def encode(self, value: T) -> bytes:
        """As JSON; a dataclass in a list, or behind a union, would not be one in a replay."""
        data = super().encode(value)
        lost = _lost(value, self.decode(data))
        if lost is not None:
            raise UncarriedResult(
                f"a {lost} in the result would be a dict when it is replayed: DataclassCodec rebuilds fields that are "
                f"annotated as a dataclass, for others use typed({self._name}) with msgspec or pydantic"
            )
        return data

    def decode(self, data: bytes) -> T:
        """The dataclass, made from its fields."""
        return cast("T", _build(self._kind, self._json.decode(data)))


def _build(kind: object, value: object) -> object:
    """A dataclass from a dict, its dataclass fields likewise; anything else as it is."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return value
    hints = get_type_hints(kind)
    try:
        if not isinstance(value, dict):
            raise TypeError(f"it is a {type(value).__name__}")
        return kind(**{name: _build(hints.get(name), member) for name, member in value.items()})
    except TypeError as error:
        raise UndecodableResult(f"the stored result is no {kind.__name__} of today: {error}") from error


def _lost(value: object, back: object) -> str | None:
    """The dataclass in a value that did not come back as what it was."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(back) is not type(value):
            return type(value).__name__
        pairs = [(getattr(value, field.name), getattr(back, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, dict) and isinstance(back, dict):
        pairs = [(member, back.get(name)) for name, member in value.items()]
    elif isinstance(value, list | tuple) and isinstance(back, list):
        pairs = list(zip(value, back, strict=True))
    else:
        return None
    return next((lost for one in pairs if (lost := _lost(*one)) is not None), None)


def typed(kind: type[T]) -> Codec[T]:
    """The codec for a type: pydantic models by pydantic, msgspec structs by msgspec, dataclasses and annotations by
    whichever of the two is installed (msgspec first), plain dataclasses by the standard library otherwise.
    """
    origin = {base.__module__.partition(".")[0] for base in getattr(kind, "__mro__", ())}
    if "pydantic" in origin:
        return PydanticCodec(kind)
    if "msgspec" in origin or _installed("msgspec"):
        return MsgspecCodec(kind)
    if _installed("pydantic"):
        return PydanticCodec(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return DataclassCodec(kind)
    raise ConfigurationError(f"no codec for {kind!r}: pip install 'idemstore[msgspec]' or 'idemstore[pydantic]'")


def _installed(module: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
