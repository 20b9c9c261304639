"""What servers answer to a claim of a new key, to its completion and to a replay: taken down from real ones."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from idemstore.backends.dynamodb.clock import Reading
from idemstore.backends.dynamodb.dialect import DynamoDBDialect
from idemstore.backends.dynamodb.messages import OK, REFUSED
from idemstore.backends.dynamodb.messages import Reply as DynamoReply
from idemstore.backends.memory import MemoryDialect
from idemstore.backends.mongodb.dialect import MongoDialect
from idemstore.backends.mongodb.dialect import Reply as MongoReply
from idemstore.backends.postgresql.dialect import PostgresqlDialect
from idemstore.backends.postgresql.schema import Schema
from idemstore.backends.redis.dialect import RedisDialect
from idemstore.backends.sqlite.dialect import SqliteDialect
from idemstore.exchange import Dialect
from idemstore.outcomes import DONE, Claimed, Completed

KEY: Final = "order-4711"
TOKEN: Final = "t" * 32
FINGERPRINT: Final = bytes(32)
RESULT: Final = b'{"receipt":7}'
LARGEST: Final = 64 * 2**20
FENCE: Final = 1_795_319_126_996_550
MILLIS: Final = FENCE // 1000


class Family(NamedTuple):
    """A dialect, and replies that it reads."""

    dialect: Dialect[Any, Any]
    claimed: object
    done: object
    replay: object


def document(state: str, result: bytes) -> dict[str, object]:
    """What MongoDB sends back."""
    return {
        "_id": KEY,
        "state": state,
        "token": TOKEN,
        "fingerprint": FINGERPRINT,
        "result": result,
        "checkpoint": None,
        "fence": FENCE,
        "attempt": 1,
        "changed_at": MILLIS,
        "until": MILLIS + 30_000,
        "expires_at": MILLIS + 86_430_000,
        "reclaim": datetime(2026, 11, 23, 3, 46, 6, 202000),
    }


def mongo(value: Mapping[str, object], *, existing: bool) -> MongoReply:
    """The reply of ``findAndModify``."""
    last = {"n": 1, "updatedExisting": existing, **({} if existing else {"upserted": KEY})}
    return MongoReply({"lastErrorObject": last, "value": value, "ok": 1.0}, MILLIS + 2)


READING: Final = Reading(FENCE, FENCE + 1_000_000)
ITEM: Final = {
    "ttl_at": {"N": "1795412766"},
    "expires_at": {"N": "1795405565742180"},
    "claim_token": {"S": TOKEN},
    "record_state": {"S": "completed"},
    "fingerprint": {"B": FINGERPRINT},
    "id": {"S": KEY},
    "attempt": {"N": "1"},
    "fence": {"N": str(FENCE)},
    "record_result": {"B": RESULT},
}

FAMILIES: Final[dict[str, Family]] = {
    "memory": Family(MemoryDialect(LARGEST), Claimed(TOKEN, FENCE, 1), DONE, Completed(RESULT)),
    "sqlite": Family(SqliteDialect(LARGEST), Claimed(TOKEN, FENCE, 1), DONE, Completed(RESULT)),
    "redis": Family(RedisDialect("idem:", LARGEST), b"claimed 1795319127998498 1", b"done", [b"completed", RESULT]),
    "postgresql": Family(
        PostgresqlDialect(Schema("public", "idemstore"), "postgresql://host/db", LARGEST),
        [b"C\x00\x06`\xd5O6\x81\xca\x00\x00\x00\x01"],
        [b"D"],
        [b"R" + RESULT],
    ),
    "mongodb": Family(
        MongoDialect("idemstore", LARGEST),
        mongo(document("in-flight", b""), existing=False),
        mongo(document("completed", RESULT), existing=True),
        mongo(document("completed", RESULT), existing=True),
    ),
    "dynamodb": Family(
        DynamoDBDialect("idemstore", LARGEST),
        DynamoReply(OK, {}, READING, 5.0),
        DynamoReply(OK, {}, READING, 5.0),
        DynamoReply(REFUSED, {"Item": ITEM}, READING, 5.0),
    ),
}
