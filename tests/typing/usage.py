"""How callers use idemstore, for the type checkers: this file is checked, never run."""

from typing import assert_never, assert_type

import idemstore
from idemstore import AsyncStore, ClaimOutcome, Completion, SettleOutcome, Snapshot, Store
from idemstore.errors import IdemstoreError
from idemstore.machine import Record


def every_outcome(outcome: ClaimOutcome) -> bytes | None:
    """A match over all outcomes is complete, and narrows."""
    match outcome:
        case idemstore.Claimed(token=token, checkpoint=checkpoint):
            assert_type(token, str)
            assert_type(checkpoint, bytes | None)
            return checkpoint
        case idemstore.InFlight(retry_after):
            assert_type(retry_after, float)
        case idemstore.Completed(result):
            assert_type(result, bytes)
            return result
        case idemstore.Failed(result, later):
            assert_type(later, float | None)
            return result
        case idemstore.Mismatch():
            return None
        case idemstore.Abandoned(token=token):
            return token.encode()
        case _:
            assert_never(outcome)
    return None


def sync_use() -> None:
    """The sync face."""
    with idemstore.open("memory://") as store:
        assert_type(store, Store)
        assert_type(
            store.claim("key", lease=1, retention=None, fingerprint=idemstore.fingerprint({"a": [1]})), ClaimOutcome
        )
        assert_type(store.claim(("scope", "key"), wait=1.5, takeover=False), ClaimOutcome)
        settled = store.complete("key", "token", b"result")
        assert_type(settled, SettleOutcome)
        match settled:
            case idemstore.Done():
                pass
            case idemstore.LeaseLost():
                pass
            case _:
                assert_never(settled)
        assert_type(store.fail("key", "token", b"", retry_after=0), SettleOutcome)
        assert_type(store.claim_many(["a", ("b", "c")]), list[ClaimOutcome | IdemstoreError])
        items = [Completion("a", "token", b""), ("b", "token", b"")]
        assert_type(store.complete_many(items), list[SettleOutcome | IdemstoreError])
        snapshot = store.get("key")
        assert_type(snapshot, Snapshot | None)
        if snapshot is not None:
            assert_type(snapshot.record, Record)
            assert_type(snapshot.state, idemstore.State)
        assert_type(store.purge(), int)
        assert_type(store.forget("key"), bool)


async def async_use() -> None:
    """The async face."""
    async with idemstore.open_async("memory://") as store:
        assert_type(store, AsyncStore)
        assert_type(await store.claim("key", wait=1), ClaimOutcome)
        assert_type(await store.renew("key", "token", checkpoint=b""), SettleOutcome)
        assert_type(await store.claim_many(["a"]), list[ClaimOutcome | IdemstoreError])
        assert_type(await store.get("key"), Snapshot | None)


def mistakes(store: Store) -> None:
    """What a type checker must refuse; an ignore that is not needed is an error, too."""
    store.claim(5)  # type: ignore[arg-type]
    store.claim("key", 30)  # type: ignore[call-arg]
    store.complete("key", "token", "text")  # type: ignore[arg-type]
    idemstore.Claimed("token")  # type: ignore[call-arg]
