"""Cancelled tasks: a call that is given up must not disturb the calls of others, nor answer them."""

import asyncio

import pytest

from idemstore.async_store import AsyncStore
from idemstore.outcomes import Claimed, Completed, InFlight
from idemstore.testing.blocking import BlockingStore
from idemstore.testing.contract_lab import Lab, claimed, done


class CancelContract:
    """Of async stores only: threads cannot be cancelled."""

    def store(self, lab: Lab) -> BlockingStore:
        """The store on its loop."""
        if not isinstance(lab.store, BlockingStore):
            pytest.skip("only tasks can be cancelled")
        return lab.store

    def test_cancelled_calls_leave_others_alone(self, lab: Lab) -> None:
        """Calls are cancelled after ever more steps of the loop; between and beside them everybody gets its answer."""
        blocking = self.store(lab)
        keys = [lab.key() for _ in range(8)]
        for key in keys:
            done(lab.store.complete(key, claimed(lab.store.claim(key)).token, key.encode()))
        names = [lab.key("cancelled") for _ in range(24)]

        async def main(store: AsyncStore) -> None:
            for steps, name in enumerate(names):
                doomed = asyncio.create_task(store.claim(name, token="mine"))
                others = [asyncio.create_task(store.claim(key)) for key in keys]
                for _ in range(steps):
                    await asyncio.sleep(0)
                doomed.cancel()
                answers = await asyncio.gather(*others)
                assert answers == [Completed(key.encode()) for key in keys]
                await asyncio.gather(doomed, return_exceptions=True)
                assert await store.claim(keys[0]) == Completed(keys[0].encode())

        blocking.thread.call(main(blocking.inner))
        for name in names:
            assert claimed(lab.store.claim(name, token="mine")).attempt == 1

    def test_cancelled_waiter_leaves_others_alone(self, lab: Lab) -> None:
        """Of several waiters one is cancelled; the others get the result."""
        blocking = self.store(lab)
        key = lab.key()
        token = claimed(lab.store.claim(key, lease=600)).token

        async def main(store: AsyncStore) -> list[object]:
            waiters = [asyncio.create_task(store.claim(key, wait=lab.patience)) for _ in range(4)]
            await store.ping()
            await store.ping()
            waiters[1].cancel()
            done(await store.complete(key, token, b"r"))
            return list(await asyncio.gather(*waiters, return_exceptions=True))

        answers = blocking.thread.call(main(blocking.inner))
        assert isinstance(answers.pop(1), asyncio.CancelledError)
        assert answers == [Completed(b"r")] * 3

    def test_cancelled_owner_still_owns(self, lab: Lab) -> None:
        """A completion that was cancelled is done or not, but never half: its repetition is done."""
        blocking = self.store(lab)
        keys = [lab.key() for _ in range(16)]
        for key in keys:
            claimed(lab.store.claim(key, token="owner"))

        async def main(store: AsyncStore) -> None:
            for steps, key in enumerate(keys):
                doomed = asyncio.create_task(store.complete(key, "owner", key.encode()))
                for _ in range(steps):
                    await asyncio.sleep(0)
                doomed.cancel()
                await asyncio.gather(doomed, return_exceptions=True)

        blocking.thread.call(main(blocking.inner))
        for key in keys:
            assert isinstance(lab.store.claim(key), InFlight | Completed)
            done(lab.store.complete(key, "owner", key.encode()))
            assert lab.store.claim(key) == Completed(key.encode())
            assert not isinstance(lab.store.claim(key), Claimed)
