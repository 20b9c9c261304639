"""Codecs: what comes back is what went in, what cannot is refused, and what was tampered with is never absent."""

import dataclasses
import enum
import os
import pickle
import sys
import threading
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypedDict

import pytest
from desk import Calls, Desk

from idemstore import codec, errors
from idemstore.codec import (
    BytesCodec,
    Codec,
    Compressed,
    DataclassCodec,
    Encrypted,
    JsonCodec,
    MsgspecCodec,
    PickleCodec,
    PydanticCodec,
    typed,
)
from idemstore.errors import (
    ConfigurationError,
    MissingPackage,
    OperationAbandoned,
    ReplayedFailure,
    UncarriedResult,
    UndecodableResult,
)

KEY, OTHER_KEY = b"k" * 32, b"o" * 16
CONTEXT = b"record"


@dataclasses.dataclass
class Money:
    """A nested dataclass."""

    amount: int
    currency: str = "EUR"


@dataclasses.dataclass
class Receipt:
    """A dataclass."""

    id: str
    money: Money
    tags: list[str] = dataclasses.field(default_factory=list)


class Typed(TypedDict):
    """An annotation."""

    id: str
    at: datetime


class Colour(enum.StrEnum):
    """Text with names."""

    RED = "red"


RECEIPT = Receipt("r-1", Money(12), ["a"])


def test_json_is_readable():
    """Compact UTF-8, as one would write it by hand."""
    assert JsonCodec().encode({"a": ["ü", 1.5, None, True]}) == '{"a":["ü",1.5,null,true]}'.encode()
    assert JsonCodec().encode(None) == b"null"


@pytest.mark.parametrize(("value", "again"), [((1, 2), [1, 2]), ({"a": (1,)}, {"a": [1]}), (Colour.RED, "red")])
def test_json_plain_forms(value, again):
    """What JSON knows under a plainer form comes back in that."""
    assert JsonCodec().decode(JsonCodec().encode(value)) == again


@pytest.mark.parametrize("value", [{1: 2}, {None: 1}, float("inf"), object(), {1}, b"", "\udfff", Decimal(1), RECEIPT])
def test_json_refuses_what_it_would_change(value):
    """The error names the type and says what to do."""
    with pytest.raises(UncarriedResult, match="Return str, int"):
        JsonCodec().encode(value)


def test_json_refuses_depth():
    """Nesting without end is refused, not a crash."""
    value: list[object] = []
    for _ in range(sys.getrecursionlimit() * 2):
        value = [value]
    with pytest.raises(UncarriedResult):
        JsonCodec().encode(value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"nul"])
def test_json_that_is_none(data):
    """Other bytes are not taken for a value."""
    with pytest.raises(UndecodableResult):
        JsonCodec().decode(data)


def test_bytes():
    """Bytes pass, anything else does not."""
    assert BytesCodec().decode(BytesCodec().encode(b"\0\xff")) == b"\0\xff"
    with pytest.raises(UncarriedResult):
        BytesCodec().encode("text")  # type: ignore[arg-type]


def test_pickle_by_choice_only():
    """It carries what pickle does; nothing else in the package imports it."""
    made = PickleCodec[object]()
    assert made.decode(made.encode({1: {2}, "r": RECEIPT})) == {1: {2}, "r": RECEIPT}
    for value in (lambda: 1, threading.Lock()):
        with pytest.raises(UncarriedResult):
            made.encode(value)
    for data in (b"", b"x", made.encode([1])[:-1], b"cno.such\nthing\n."):
        with pytest.raises(UndecodableResult):
            made.decode(data)


def test_nothing_is_unpickled_by_default(desk: Desk):
    """A pickle under a key is not run by a guard that was not told to."""
    bomb = b"v" + pickle.dumps(Bomb())
    desk.plain.complete("key", desk.plain.claim("key").token, bomb)
    with pytest.raises(UndecodableResult):
        desk.guard().call("key", Calls("ran"))
    assert Bomb.went_off == 0


class Bomb:
    """Something that runs when it is unpickled."""

    went_off = 0

    def __reduce__(self):
        return (_bang, ())


def _bang() -> None:
    Bomb.went_off += 1


# -- typed ------------------------------------------------------------------------------------------------------------


def codecs_of(kind: type) -> list[Codec]:
    """Every codec for a dataclass."""
    return [DataclassCodec(kind), MsgspecCodec(kind), PydanticCodec(kind)]


@pytest.mark.parametrize("made", codecs_of(Receipt), ids=lambda made: type(made).__name__)
def test_dataclasses(made):
    """A dataclass comes back as that dataclass, nested ones, too."""
    again = made.decode(made.encode(RECEIPT))
    assert again == RECEIPT
    assert type(again.money) is Money


@pytest.mark.parametrize("made", codecs_of(Receipt), ids=lambda made: type(made).__name__)
@pytest.mark.parametrize("value", [None, {"id": 1}, "text", [RECEIPT]])
def test_result_of_another_type(made, value):
    """Refused while the caller still holds it, rather than at the replay."""
    with pytest.raises(UncarriedResult):
        made.encode(value)


@pytest.mark.parametrize("made", codecs_of(Receipt), ids=lambda made: type(made).__name__)
@pytest.mark.parametrize("data", [b"", b"null", b"{}", b'{"id":"x"}', b'{"id":"x","money":7}', b"\xff"])
def test_stored_result_of_another_type(made, data):
    """A type that has changed since is told apart, and the message shows no result."""
    with pytest.raises(UndecodableResult):
        made.decode(data)


def test_message_shows_no_result():
    """Neither the error nor what it is chained to."""
    for made in codecs_of(Receipt):
        with pytest.raises(UndecodableResult) as error:
            made.decode(b'{"id":"s3cret","money":"s3cret"}')
        shown = [error.value, error.value.__cause__]
        assert "s3cret" not in "".join(map(str, shown))
        assert error.value.__cause__ is not None or error.value.__suppress_context__


def test_pydantic_models():
    """Aliases, computed and extra-forbidding models survive the round trip."""
    import pydantic

    class Model(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        card: str = pydantic.Field(alias="cardId")
        amount: Decimal = pydantic.Field(validation_alias="in", serialization_alias="out")

        @pydantic.computed_field
        @property
        def double(self) -> Decimal:
            """Not stored."""
            return self.amount * 2

    value = Model.model_validate({"cardId": "c", "in": "1.50"})
    made = typed(Model)
    assert isinstance(made, PydanticCodec)
    assert made.decode(made.encode(value)) == value
    with pytest.raises(UncarriedResult) as error:
        made.encode(Model.model_construct(card=object(), amount=1))
    assert "object at" not in str(error.value)


def test_msgspec_structs():
    """Structs go by msgspec."""
    import msgspec

    class Point(msgspec.Struct):
        x: int
        y: int = 0

    made = typed(Point)
    assert isinstance(made, MsgspecCodec)
    assert made.decode(made.encode(Point(1))) == Point(1)
    with pytest.raises(UncarriedResult):
        made.encode(Point("text"))  # type: ignore[arg-type]


def test_annotations():
    """Annotations that are no class."""
    made = typed(list[Typed])  # type: ignore[arg-type]
    value = [{"id": "a", "at": datetime(2030, 1, 2, 3, 4, 5, 678, UTC)}]
    assert made.decode(made.encode(value)) == value  # type: ignore[arg-type]
    assert typed(tuple[int, str]).decode(typed(tuple[int, str]).encode((1, "a"))) == (1, "a")  # type: ignore[arg-type]


def test_which_package_a_type_goes_by(monkeypatch):
    """The type's own package; for the rest msgspec, pydantic, the standard library, in this order."""
    import pydantic

    class Model(pydantic.BaseModel):
        x: int

    there = {"msgspec", "pydantic"}
    monkeypatch.setattr("idemstore.codec.by_type._installed", lambda name: name in there)
    assert isinstance(typed(Receipt), MsgspecCodec)
    assert isinstance(typed(Model), PydanticCodec)
    there.remove("msgspec")
    assert isinstance(typed(Receipt), PydanticCodec)
    there.remove("pydantic")
    assert isinstance(typed(Receipt), DataclassCodec)
    with pytest.raises(ConfigurationError, match=r"idemstore\[msgspec\]"):
        typed(list[int])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        DataclassCodec(int)


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("msgspec", lambda: MsgspecCodec(Receipt)),
        ("pydantic", lambda: PydanticCodec(Receipt)),
        ("cryptography", lambda: Encrypted(JsonCodec(), [KEY])),
    ],
)
def test_missing_package(monkeypatch, module, make):
    """Says what to install."""

    class Missing:
        """An importer that does not find it."""

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in (module, f"{module}_core"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in list(sys.modules):
        if name.partition(".")[0] in (module, f"{module}_core"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    extra = "encryption" if module == "cryptography" else module
    with pytest.raises(MissingPackage, match=rf"pip install 'idemstore\[{extra}\]'"):
        make()


def test_typed_through_the_guard(desk: Desk):
    """What is replayed is of the type again."""
    guard = desk.guard(codec=typed(Receipt))
    assert guard.call("key", Calls(RECEIPT)) == RECEIPT
    assert guard.call("key", Calls(None)) == RECEIPT
    with pytest.raises(UncarriedResult) as error:
        guard.call("other", Calls("text"))
    assert error.value.value == "text"


# -- codecs of others -------------------------------------------------------------------------------------------------


class Odd(Codec[object]):
    """A codec that raises what it is told to, where it is told to."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors

    def _step(self, name: str, data):
        if name in self.errors:
            raise self.errors[name]
        return data

    def encode(self, value):
        """Bytes of its text."""
        return self._step("encode", str(value).encode())

    def decode(self, data):
        """The text."""
        return self._step("decode", data.decode())

    def seal(self, data, context):
        """As it is."""
        return self._step("seal", data)

    def unseal(self, data, context):
        """As it is."""
        return self._step("unseal", data)


@pytest.mark.parametrize("step", ["encode", "seal"])
def test_codec_that_raises_when_writing(desk: Desk, step):
    """Whatever it raises, the work is done: recorded, with an error that has the value and the cause."""
    trouble = ZeroDivisionError("bug")
    fn = Calls("done")
    with pytest.raises(UncarriedResult) as error:
        desk.guard(codec=Odd(**{step: trouble})).call("key", fn)
    assert error.value.value == "done"
    assert error.value.__cause__ is trouble
    with pytest.raises((UncarriedResult, UndecodableResult)):
        desk.guard(codec=Odd()).call("key", fn)
    assert fn.count == 1


@pytest.mark.parametrize("step", ["decode", "unseal"])
def test_codec_that_raises_when_reading(desk: Desk, step):
    """It is never taken for absence."""
    fn = Calls("done")
    desk.guard(codec=Odd()).call("key", fn)
    with pytest.raises(UndecodableResult) as error:
        desk.guard(codec=Odd(**{step: ZeroDivisionError("bug")})).call("key", fn)
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    assert fn.count == 1


def test_failure_that_cannot_be_sealed(desk: Desk):
    """The failure is recorded all the same; what it was is not told."""
    guard = desk.guard(codec=Odd(seal=ZeroDivisionError("bug")), final=(KeyError,))
    with pytest.raises(KeyError):
        guard.call("key", Calls(KeyError("secret")))
    assert b"secret" not in desk.record("key").result
    with pytest.raises(UndecodableResult):
        desk.guard().call("key", Calls("ran"))


# -- wrappers ---------------------------------------------------------------------------------------------------------


def test_compression_above_a_threshold():
    """Small data and data that does not get smaller stay as they are, but for one byte."""
    made = Compressed(JsonCodec(), threshold=100)
    noise = os.urandom(1000)
    for data, size in ((b"x" * 100, 101), (b"x" * 101, 30), (noise, 1001), (b"", 1)):
        sealed = made.seal(data, CONTEXT)
        assert len(sealed) <= size
        assert made.unseal(sealed, CONTEXT) == data


def test_compressed_data_that_is_damaged():
    """Cut, changed, with a tail, of another codec: none is read."""
    made = Compressed(JsonCodec(), threshold=10)
    sealed = made.seal(b"abc" * 1000, CONTEXT)
    for bad in (b"", sealed[:-1], sealed + b"x", sealed[:10] + b"\0\0" + sealed[12:], b"v{}", b"z"):
        with pytest.raises(UndecodableResult):
            made.unseal(bad, CONTEXT)


def test_compressed_data_without_end(monkeypatch):
    """A small record does not unfold to fill the memory."""
    monkeypatch.setattr("idemstore.codec.wrappers.MAX_INFLATED", 10_000)
    made = Compressed(JsonCodec(), threshold=10)
    assert made.unseal(made.seal(b"x" * 10_000, CONTEXT), CONTEXT) == b"x" * 10_000
    assert made.seal(b"x" * 10_001, CONTEXT)[:1] == b"-"
    with pytest.raises(UndecodableResult):
        made.unseal(b"z" + zlib.compress(b"x" * 10_001), CONTEXT)


@pytest.mark.parametrize("options", [{"threshold": -1}, {"level": 0}, {"level": 10}])
def test_bad_compression(options):
    """Checked when it is made."""
    with pytest.raises(ConfigurationError):
        Compressed(JsonCodec(), **options)


@pytest.mark.parametrize("keys", [[], [b"short"], ["k" * 32], [KEY, b"x"], KEY, b""])
def test_bad_keys(keys):
    """Checked when it is made; the message has no key."""
    with pytest.raises(ConfigurationError) as error:
        Encrypted(JsonCodec(), keys)
    assert "kkk" not in str(error.value)


def test_ciphertext():
    """It hides the data, differs each time, and opens again."""
    made = Encrypted(JsonCodec(), [KEY])
    one, other = made.seal(b"secret" * 10, CONTEXT), made.seal(b"secret" * 10, CONTEXT)
    assert b"secret" not in one
    assert one != other
    assert made.unseal(one, CONTEXT) == made.unseal(other, CONTEXT) == b"secret" * 10
    assert len(one) == 60 + 18 + 16


def test_ciphertext_that_was_changed():
    """Any bit, anywhere; cut short anywhere; anything behind it; from another record: it raises."""
    made = Encrypted(JsonCodec(), [KEY])
    sealed = made.seal(b"secret", CONTEXT)
    for at in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            with pytest.raises(UndecodableResult):
                made.unseal(bytes(changed), CONTEXT)
        with pytest.raises(UndecodableResult):
            made.unseal(sealed[:at], CONTEXT)
    for bad, context in ((sealed + b"\0", CONTEXT), (sealed, b"other"), (b"vnull", CONTEXT)):
        with pytest.raises(UndecodableResult):
            made.unseal(bad, context)


def test_key_rotation():
    """The first key writes, all read; what only a dropped key reads raises."""
    old, both = Encrypted(JsonCodec(), [OTHER_KEY]), Encrypted(JsonCodec(), [KEY, OTHER_KEY])
    new = Encrypted(JsonCodec(), [KEY])
    before, after = old.seal(b"before", CONTEXT), both.seal(b"after", CONTEXT)
    assert both.unseal(before, CONTEXT) == b"before"
    assert new.unseal(after, CONTEXT) == b"after"
    for made, data in ((new, before), (old, after)):
        with pytest.raises(UndecodableResult, match="not among those given"):
            made.unseal(data, CONTEXT)


def test_no_key_in_a_repr():
    """Neither repr nor error shows a key."""
    made = Encrypted(JsonCodec(), [KEY])
    assert "kkkk" not in repr(made)


def test_encryption_through_the_guard(desk: Desk):
    """Values, failures and checkpoints are stored encrypted and read again; tampering is never absence."""
    secret = Encrypted(Compressed(JsonCodec(), threshold=100), [KEY])
    guard = desk.guard(codec=secret, final=(KeyError,))
    value = {"card": "4111" * 100}
    assert guard.call("value", Calls(value)) == guard.call("value", Calls(None)) == value
    with pytest.raises(KeyError):
        guard.call("failure", Calls(KeyError("4111")))
    with pytest.raises(ReplayedFailure, match="4111"):
        guard.call("failure", Calls(None))

    def crash():
        desk.operation().checkpoint(b"4111")
        raise OSError("crash")

    with pytest.raises(OSError, match="crash"):
        guard.call("checkpoint", crash)
    for record in map(desk.record, ("value", "failure", "checkpoint")):
        assert b"4111" not in (record.result or b"") + (record.checkpoint or b"")
    assert guard.call("checkpoint", lambda: desk.operation().resumed_from.decode()) == "4111"

    fn = Calls("ran")
    changes = {"cut": lambda data: data[:-1], "changed": lambda data: data[:-1] + b"?", "none": lambda data: b""}
    for key, change in changes.items():
        token = desk.plain.claim(key).token
        desk.plain.complete(key, token, change(secret.seal(b"vnull", key.encode())))
        with pytest.raises(UndecodableResult):
            guard.call(key, fn)
    moved = desk.record("value").result
    desk.plain.complete("moved", desk.plain.claim("moved").token, moved)
    with pytest.raises(UndecodableResult, match="moved from another record"):
        guard.call("moved", fn)
    assert fn.count == 0


def test_checkpoint_that_cannot_be_opened(desk: Desk):
    """It is not taken for none: asking for it raises, and the operation may run again with the right key."""
    right = desk.guard(codec=Encrypted(JsonCodec(), [KEY]))
    wrong = desk.guard(codec=Encrypted(JsonCodec(), [OTHER_KEY]))

    def crash():
        desk.operation().checkpoint(b"half")
        raise OSError("crash")

    with pytest.raises(OSError, match="crash"):
        right.call("key", crash)
    with pytest.raises(UndecodableResult):
        wrong.call("key", lambda: desk.operation().resumed_from)
    assert right.call("key", lambda: desk.operation().resumed_from.decode()) == "half"


def test_abandoned_checkpoint_that_cannot_be_opened(desk: Desk):
    """Who must settle the record still gets its token, and the checkpoint as it is stored."""
    right = desk.guard(codec=Encrypted(JsonCodec(), [KEY]), heartbeat=False, lease=60)
    wrong = desk.guard(codec=Encrypted(JsonCodec(), [OTHER_KEY]), takeover=False)

    def vanish():
        desk.operation().checkpoint(b"half")
        desk.age("other", 0)
        raise OSError("crash")

    with pytest.raises(OSError, match="crash"):
        right.call("key", vanish)
    claim = desk.plain.claim("key", lease=30)
    desk.age("key", 31)
    with pytest.raises(OperationAbandoned, match="as it is stored") as abandoned:
        wrong.call("key", Calls("ran"))
    assert (abandoned.value.token, abandoned.value.checkpoint) == (claim.token, desk.record("key").checkpoint)


def test_checkpoint_that_no_guard_has_written(desk: Desk):
    """Raw bytes of another program are not taken for a guard's checkpoint."""
    claim = desk.plain.claim("key", lease=30)
    desk.plain.renew("key", claim.token, checkpoint=b"raw")
    desk.age("key", 31)
    with pytest.raises(UndecodableResult):
        desk.guard().call("key", lambda: desk.operation().resumed_from)


def test_late_names():
    """The package offers what it lists, and nothing else."""
    for name in codec.__all__:
        assert getattr(codec, name).__name__ == name
    with pytest.raises(AttributeError):
        codec.nothing  # noqa: B018 - asking is the test


def test_errors_can_be_pickled():
    """Task queues and process pools carry errors from one process to another."""
    for made in (
        errors.OperationInFlight("text", 1.5),
        errors.RetryLater("text", 1.5),
        errors.OperationAbandoned("text", "token", 2, b"half"),
        errors.ReplayedFailure("KeyError", "text"),
        errors.LeaseLostError("text", [1]),
        errors.CompletionUnknown("text", [1]),
        errors.PayloadMismatch("text"),
        errors.UncarriedResult("text"),
    ):
        again = pickle.loads(pickle.dumps(made))
        assert (type(again), str(again), vars(again)) == (type(made), str(made), vars(made))
