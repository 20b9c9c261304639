"""A small FastAPI application for fuzzing, on a memory store whose records can be looked at."""

from dataclasses import dataclass, field

from fastapi import FastAPI, Header
from pydantic import BaseModel

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.backends.memory import AsyncMemoryDriver, Engine, MemoryDriver
from idemstore.exchange import AsyncDriver, Driver
from idemstore.http import HttpPolicy
from idemstore.http.facts import Request
from idemstore.http.fastapi import Idempotency
from idemstore.store import Store


@dataclass
class Watched:
    """Memory stores that show what they hold."""

    engines: list[Engine] = field(default_factory=list)

    def _seen(self, driver: object) -> None:
        """Note the engine of a driver."""
        assert isinstance(driver, AsyncMemoryDriver | MemoryDriver)
        self.engines.append(driver.engine)

    def open(self) -> Store:
        """A sync one."""

        def wrap(driver: Driver[object, object]) -> Driver[object, object]:
            self._seen(driver)
            return driver

        return idemstore.open("memory://").wrapped(wrap)

    def open_async(self) -> AsyncStore:
        """An async one."""

        def wrap(driver: AsyncDriver[object, object]) -> AsyncDriver[object, object]:
            self._seen(driver)
            return driver

        return idemstore.open_async("memory://").wrapped(wrap)

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(len(engine.records) for engine in self.engines)


def account(request: Request) -> str | None:
    """The scope: whoever says so; nobody passes through."""
    return request.header("x-account")


POLICY = HttpPolicy(scope=account)


class Order(BaseModel):
    """What is ordered."""

    item: str
    count: int = 1


def shop(store: AsyncStore) -> FastAPI:
    """Two routes: one with a key by choice, one that requires it."""
    idempotency = Idempotency(store, POLICY)
    app = FastAPI()
    idempotency.install(app)
    made: list[Order] = []

    @app.post("/orders", status_code=201)
    async def order(body: Order, x_account: str = Header()) -> dict[str, int]:
        made.append(body)
        return {"order": len(made)}

    @app.put("/orders/{number}", dependencies=[idempotency.on(required=True)])
    async def change(number: int, body: Order, x_account: str = Header()) -> dict[str, int]:
        return {"order": number}

    return app
