"""The ``Bench``: what every test of ``AdapterContract`` gets."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.http.facts import Headers, Request
from idemstore.http.policy import HttpPolicy
from idemstore.keys import encode_key
from idemstore.machine import State
from idemstore.store import Store
from idemstore.testing.adapter_desk import Desk, Got, Served
from idemstore.testing.blocking import PATIENCE, BlockingStore, LoopThread
from idemstore.testing.faults import AsyncFaultyDriver, Faults, FaultyDriver
from idemstore.testing.subject import Subject

Mode = Literal["sync", "async"]
Serve = Callable[[Desk, Store | AsyncStore, HttpPolicy, LoopThread], Served]


def user(request: Request) -> str | None:
    """The scope of the contract's requests."""
    return request.header("x-user")


class Bench:
    """One test's application, adapter and store."""

    def __init__(self, serve: Serve, mode: Mode, subject: Subject) -> None:
        self.subject, self.desk, self.faults = subject, Desk(), Faults()
        self._serve, self._mode = serve, mode
        self.thread = LoopThread()
        self.look = idemstore.open(subject.url)
        """A store of the test's own on the same records."""
        self.policy = HttpPolicy(scope=user)
        self.tenant = f"ann-{uuid.uuid4().hex[:12]}"
        self._served: Served | None = None
        self._closers: list[Callable[[], object]] = [self.look.close]

    def use(self, **changes: object) -> None:
        """Another policy than the default."""
        self.policy = replace(self.policy, **changes)  # type: ignore[arg-type]

    @property
    def served(self) -> Served:
        """The application, served."""
        if self._served is None:
            store = self._store()
            self._served = self._serve(self.desk, store, self.policy, self.thread)
        return self._served

    def _store(self) -> Store | AsyncStore:
        """The adapter's store; its driver follows orders."""
        if self._mode == "sync":
            store = idemstore.open(self.subject.url)
            faulty = store.wrapped(lambda driver: FaultyDriver(driver, self.faults))
            self._closers += [faulty.close, store.close]
            return faulty
        plain = idemstore.open_async(self.subject.url)
        wrapped = plain.wrapped(lambda driver: AsyncFaultyDriver(driver, self.faults))
        self._closers.append(BlockingStore(wrapped, self.thread).close)
        return wrapped

    def post(self, key: str | None = "k", body: bytes = b"{}", **more: str) -> Got:
        """A POST with a key; ``more`` are further headers."""
        return self.served.request("POST", "/orders", self.headers(key, **more), body)

    def headers(self, key: str | None, **more: str) -> Headers:
        """The headers of the contract's requests."""
        found = {"x-user": self.tenant, "content-type": "application/json"}
        found |= {name.replace("_", "-"): value for name, value in more.items()}
        return (*found.items(), *(() if key is None else (("idempotency-key", key),)))

    def many(self, count: int, send: Callable[[], Got]) -> list[Got]:
        """Requests in parallel."""
        with ThreadPoolExecutor(count) as pool:
            return [future.result(PATIENCE) for future in [pool.submit(send) for _ in range(count)]]

    def state(self, key: str = "k") -> State | None:
        """What the store says of a key."""
        found = self.look.get(self.policy.key(self.tenant, key))
        return None if found is None else found.record.state

    def age(self, seconds: float, key: str = "k") -> None:
        """Let time pass for a key."""
        self.subject.age(encode_key(self.policy.key(self.tenant, key), 10**6), seconds)

    def close(self) -> None:
        """Let everything go."""
        self.desk.release()
        self.faults.release()
        if self._served is not None:
            self._served.close()
        for close in reversed(self._closers):
            close()
        self.thread.close()
