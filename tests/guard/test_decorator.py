"""``@guard.idempotent``: which calls are the same, and what is not a call that can be guarded."""

import asyncio
import dataclasses
import inspect
import uuid

import pytest
from desk import Desk

import idemstore
from idemstore import AsyncGuard, Guard
from idemstore.binding import Binding
from idemstore.errors import ConfigurationError, InvalidKey, InvalidPayload, PayloadMismatch


@dataclasses.dataclass
class Order:
    """An argument with attributes."""

    id: object
    lines: dict[str, object]

    @property
    def broken(self) -> str:
        """An attribute that cannot be had."""
        raise RuntimeError("no")


def test_calls_with_the_same_key_run_once(desk: Desk):
    """However the arguments are passed; another key is another operation."""
    ran = []

    @desk.guard().idempotent(key="order_id")
    def pay(order_id: str, amount: int = 1) -> str:
        """Pay."""
        ran.append(order_id)
        return f"{order_id}: {amount}"

    assert pay("a", 1) == pay("a") == pay(order_id="a", amount=1) == pay(amount=1, order_id="a") == "a: 1"
    assert pay("b") == "b: 1"
    assert ran == ["a", "b"]


def test_other_arguments_are_another_payload(desk: Desk):
    """By default the fingerprint is taken of all arguments."""

    @desk.guard().idempotent(key="order_id")
    def pay(order_id: str, amount: int) -> int:
        """Pay."""
        return amount

    pay("a", 1)
    with pytest.raises(PayloadMismatch):
        pay("a", 2)


@pytest.mark.parametrize(
    ("fingerprint", "same", "other"),
    [
        (None, {"amount": 2, "note": "x"}, None),
        (False, {"amount": 2, "note": "x"}, None),
        (["amount"], {"amount": 1, "note": "x"}, {"amount": 2, "note": ""}),
        ("amount", {"amount": 1, "note": "x"}, {"amount": 2, "note": ""}),
        (
            lambda order_id, amount, note: idemstore.fingerprint(note),
            {"amount": 2, "note": ""},
            {"amount": 1, "note": "x"},
        ),
        (lambda order_id, amount, note: None, {"amount": 2, "note": "x"}, None),
    ],
)
def test_fingerprints(desk: Desk, fingerprint, same, other):
    """Of some arguments, of none, or by a function."""

    @desk.guard().idempotent(key="order_id", fingerprint=fingerprint)
    def pay(order_id: str, amount: int, note: str) -> int:
        """Pay."""
        return amount

    assert pay("a", 1, "") == 1
    assert pay("a", **same) == 1
    if other is not None:
        with pytest.raises(PayloadMismatch):
            pay("a", **other)


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("order.id", Order("x", {})),
        ("order.lines.first.sku", Order(0, {"first": {"sku": "x"}})),
        ("order.id", {"id": "x"}),
        (lambda order: order.id, Order("x", {})),
        ("order.id", Order(7, {})),
        ("order.id", Order(uuid.UUID(int=7), {})),
    ],
)
def test_key_paths(desk: Desk, key, order):
    """Attributes, members of mappings, functions; str, int and UUID."""
    ran = []

    @desk.guard().idempotent(key=key, fingerprint=None)
    def pay(order):
        """Pay."""
        ran.append(order)
        return 1

    assert pay(order) == pay(order) == 1
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("order.id", Order(None, {})),
        ("order.id", Order(True, {})),
        ("order.id", Order(1.5, {})),
        ("order.id", Order(b"x", {})),
        ("order.id", Order("", {})),
        ("order.missing", Order("x", {})),
        ("order.broken", Order("x", {})),
        ("order.id", {}),
        (lambda order: None, Order("x", {})),
        (lambda order: 1 / 0, Order("x", {})),
        (lambda: "x", Order("x", {})),
    ],
)
def test_calls_without_a_key(desk: Desk, key, order):
    """One clear error, and nothing runs."""
    ran = []

    @desk.guard().idempotent(key=key, fingerprint=None)
    def pay(order):
        """Pay."""
        ran.append(order)

    with pytest.raises(InvalidKey):
        pay(order)
    assert (ran, desk.faults.round_trips) == ([], 0)


@pytest.mark.parametrize(
    ("fingerprint", "payload"),
    [
        (True, object()),
        (True, {1: 2}),
        (True, float("nan")),
        (["payload.missing"], {}),
        (lambda payload: 1 / 0, {}),
        (lambda payload: "text", {}),
    ],
)
def test_payloads_without_a_fingerprint(desk: Desk, fingerprint, payload):
    """One clear error, and nothing runs."""
    ran = []

    @desk.guard().idempotent(key=lambda payload: "key", fingerprint=fingerprint)
    def pay(payload):
        """Pay."""
        ran.append(payload)

    with pytest.raises(InvalidPayload):
        pay(payload)
    assert (ran, desk.faults.round_trips) == ([], 0)


def test_wrong_arguments(desk: Desk):
    """A call that the function could not take raises ``TypeError``, as without a guard."""

    @desk.guard().idempotent(key="order_id")
    def pay(order_id):
        """Pay."""

    for arguments in ((), (1, 2)):
        with pytest.raises(TypeError):
            pay(*arguments)
    assert desk.faults.round_trips == 0


@pytest.mark.parametrize(
    ("key", "fingerprint"), [("oder_id", True), ("order_id..x", True), ("", True), ("order_id", ["x"])]
)
def test_arguments_that_are_not_there(desk: Desk, key, fingerprint):
    """Found when the function is decorated; the error lists what there is."""

    def pay(order_id):
        """Pay."""

    with pytest.raises(ConfigurationError, match="order_id"):
        desk.guard().idempotent(key=key, fingerprint=fingerprint)(pay)


def test_scopes(desk: Desk):
    """The function's name keeps functions apart; a scope of one's own may join or split them."""
    guard = desk.guard()

    def made(value, **options):
        @guard.idempotent(key="key", fingerprint=None, **options)
        def work(key, tenant="t"):
            """Work."""
            return value

        return work

    @guard.idempotent(key="key")
    def other(key):
        """Another function."""
        return "other"

    assert made("by name")("key") == "by name"
    assert other("key") == "other"
    assert made("shared", scope=("shared",))("key") == "shared"
    assert made("again", scope="shared")("key") == "shared"
    tenants = made("tenant", scope=lambda key, tenant="t": ("tenants", tenant))
    assert tenants("key", "a") == "tenant"
    assert made("other", scope=lambda key, tenant="t": ("tenants", tenant))("key", "a") == "tenant"
    assert desk.record(("tenants", "a", "key")) is not None
    for scope in (lambda key, tenant="t": None, lambda key, tenant="t": 1 / 0, lambda key, tenant="t": ""):
        with pytest.raises(InvalidKey):
            made("x", scope=scope)("key")


def test_methods():
    """Decorated methods work on instances and classes; ``self`` is no part of the payload."""
    guard = Guard(idemstore.open("memory://"))

    class Shop:
        """Something with methods."""

        @guard.idempotent(key="order_id", scope="pay")
        def pay(self, order_id: str) -> list[str]:
            """Pay."""
            return [order_id, type(self).__name__]

        @classmethod
        @guard.idempotent(key="order_id", scope="refund")
        def refund(cls, order_id: str) -> str:
            """Refund."""
            return order_id

        @staticmethod
        @guard.idempotent(key="order_id")
        def look(order_id: str) -> str:
            """Look."""
            return order_id

    assert Shop().pay("a") == Shop().pay("a") == ["a", "Shop"]
    assert Shop.refund("a") == Shop().look("a") == "a"


def test_methods_need_a_scope():
    """Two objects would share their keys, and the second would get what the first one did; a key function may tell."""
    guard = Guard(idemstore.open("memory://"))

    class Shop:
        """One of several."""

        def __init__(self, name: str) -> None:
            self.name = name

        def pay(self, order_id: str) -> str:
            """Pay."""
            return f"{self.name} {order_id}"

        @classmethod
        def refund(cls, order_id: str) -> str:
            """Refund."""
            return order_id

    for method in (Shop.pay, Shop("one").pay, Shop.refund, vars(Shop)["refund"].__func__):
        with pytest.raises(ConfigurationError, match="is a method"):
            guard.idempotent(key="order_id")(method)
    told = guard.idempotent(key="order_id", scope=lambda self, order_id: self.name)(Shop.pay)
    assert [told(Shop("one"), "a"), told(Shop("two"), "a"), told(Shop("one"), "a")] == ["one a", "two a", "one a"]
    keyed = guard.idempotent(key=lambda self, order_id: f"{self.name}-{order_id}")(Shop.pay)
    assert [keyed(Shop("one"), "b"), keyed(Shop("two"), "b")] == ["one b", "two b"]


def test_the_function_keeps_its_face():
    """Name, docstring and signature stay."""
    guard = Guard(idemstore.open("memory://"))

    @guard.idempotent(key="order_id")
    def pay(order_id: str, *, amount: int = 3) -> str:
        """Pay an order."""
        return order_id

    assert (pay.__name__, pay.__doc__) == ("pay", "Pay an order.")
    assert str(inspect.signature(pay)) == "(order_id: str, *, amount: int = 3) -> str"


def test_async_functions():
    """The decorated function is a coroutine function, too."""
    guard, ran = AsyncGuard(idemstore.open_async("memory://")), []

    @guard.idempotent(key="order_id")
    async def pay(order_id: str) -> str:
        """Pay."""
        ran.append(order_id)
        return order_id

    async def main() -> None:
        async with guard:
            assert await pay("a") == await pay("a") == "a"

    asyncio.run(main())
    assert inspect.iscoroutinefunction(pay)
    assert ran == ["a"]


def test_what_cannot_be_decorated():
    """Each guard has its kind of function; generators and descriptors have none."""
    sync, other = Guard(idemstore.open("memory://")), AsyncGuard(idemstore.open_async("memory://"))

    def plain(key):
        """A function."""

    async def coroutine(key):
        """A coroutine function."""

    def generator(key):
        """A generator."""
        yield

    async def agenerator(key):
        """An async generator."""
        yield

    for guard, functions in (
        (sync, [coroutine, generator, agenerator, classmethod(plain)]),
        (other, [plain, generator, agenerator]),
    ):
        for fn in functions:
            with pytest.raises(ConfigurationError):
                guard.idempotent(key="key")(fn)


def test_callable_objects():
    """A binding reads any callable, by its class's name."""

    class Job:
        """A callable object."""

        __module__ = "jobs"

        def __call__(self, key):
            """Run."""

    bound = Binding(Job(), "key", None, True).read(("a",), {})
    assert bound.key == ("jobs.test_callable_objects.<locals>.Job", "a")


def test_keys_cannot_be_mistaken():
    """A colon in a key does not reach into another scope."""
    seen = set()
    for scope, key in ((("a", "b"), "c"), (("a",), "b:c"), (("a:b",), "c"), (("a%3Ab",), "c")):
        bound = Binding(lambda key: key, "key", scope, None).read((key,), {})
        seen.add(idemstore.keys.encode_key(bound.key, 1000))
    assert len(seen) == 4
