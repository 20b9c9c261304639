"""What a claim, its completion and a replay cost beside bare calls of the same driver on the same server.

Floors: ``insert_one`` and ``update_one`` (two bare writes), two bare ``find_one_and_update`` (the same command as ours,
with one ``$set``), ``find_one`` (a bare read), all with majority writes; and our own commands, sent by bare PyMongo
(``command``): what is above those is this library's, what is below them the server's. One client, one call after the
other, in turns within one run, medians. Collections are emptied now and then: the emulation reads all of one for every
``findAndModify`` of a document that is there. Run it as

    python -m benchmarks.mongodb_floor URL        # such as mongodb://localhost:27017/bench?replicaSet=rs0
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pymongo import MongoClient, WriteConcern

import idemstore
from benchmarks.common import Report, parser
from idemstore.backends.mongodb.dialect import MongoDialect
from idemstore.backends.mongodb.wire import CODEC
from idemstore.machine import MICROSECONDS, Claim, Complete

T = TypeVar("T")

ROUNDS = 400
WARM_UP = 20
EMPTY_AFTER = 10
RESULT = b"r" * 200
OURS = "idemstore_floor"
DAY = 24 * 3600 * MICROSECONDS


class Commands:
    """What the store sends for one key."""

    def __init__(self, dialect: MongoDialect, key: str) -> None:
        self.claim = dialect.claim(key, Claim(None, "t" * 32, 30 * MICROSECONDS, DAY)).request
        self.complete = dialect.complete(key, Complete("t" * 32, RESULT, DAY)).request
        self.replay = dialect.claim(key, Claim(None, "u" * 32, 30 * MICROSECONDS, DAY)).request


class Stopwatch:
    """Times by name."""

    def __init__(self) -> None:
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    def time(self, name: str, call: Callable[[], T]) -> T:
        """Time one call."""
        start = time.perf_counter()
        answer = call()
        self.times[name].append(time.perf_counter() - start)
        return answer

    def median(self, name: str) -> float:
        """In milliseconds, the start left out."""
        return statistics.median(self.times[name][WARM_UP:]) * 1000


def measure(url: str, rounds: int) -> Stopwatch:
    """All calls in turns."""
    watch = Stopwatch()
    separator = "&" if "?" in url else "?"
    with MongoClient(url) as client, idemstore.open(f"{url}{separator}collection={OURS}") as store:
        database = client.get_default_database()
        bare = database.get_collection("idemstore_bare", write_concern=WriteConcern("majority"))
        ours = database.get_collection(OURS, write_concern=WriteConcern("majority"))
        store.migrate()
        dialect = MongoDialect(OURS)
        send = partial(database.command, codec_options=CODEC)
        for number in range(rounds + WARM_UP):
            if number % EMPTY_AFTER == 0:
                bare.delete_many({})
                ours.delete_many({})
            key, twin, same = (f"{kind}{time.time_ns()}" for kind in "kts")
            commands = Commands(dialect, same)
            document = {"_id": key, "state": "in-flight", "token": "t" * 32, "until": number}
            end = {"$set": {"state": "completed", "result": RESULT}}
            begin = {"$set": {"state": "in-flight", "token": "t" * 32, "until": number}}
            watch.time("insert_one", partial(bare.insert_one, document))
            claim = watch.time("claim", partial(store.claim, key))
            assert isinstance(claim, idemstore.Claimed)
            token = claim.token
            watch.time("modify 1", partial(bare.find_one_and_update, {"_id": twin}, begin, upsert=True))
            watch.time("command: claim", partial(send, dict(commands.claim)))
            watch.time("update_one", partial(bare.update_one, {"_id": key}, end))
            watch.time("complete", partial(store.complete, key, token, RESULT))
            watch.time("command: complete", partial(send, dict(commands.complete)))
            watch.time("modify 2", partial(bare.find_one_and_update, {"_id": twin}, end))
            watch.time("find_one", partial(bare.find_one, {"_id": key}))
            watch.time("replay", partial(store.claim, key))
            watch.time("command: replay", partial(send, dict(commands.replay)))
        bare.drop()
        ours.drop()
    return watch


def main() -> None:
    """Print medians and ratios."""
    known = parser(__doc__)
    known.add_argument("url")
    known.add_argument("--rounds", type=int, default=ROUNDS)
    options = known.parse_args()
    report = Report("mongodb_floor", "MongoDB: one caller, against bare commands", "pymongo")
    watch = measure(options.url, options.rounds)
    for name in watch.times:
        print(f"{name:<18}{watch.median(name):>9.3f} ms")
        report.row(measured="call", call=name, median_ms=watch.median(name))
    cycle = watch.median("claim") + watch.median("complete")
    floors = {
        "insert + update": ("insert_one", "update_one"),
        "two find_one_and_update": ("modify 1", "modify 2"),
        "the same commands": ("command: claim", "command: complete"),
    }
    for label, names in floors.items():
        floor = sum(map(watch.median, names))
        print(f"claim + complete / {label:<24}{cycle / floor:.2f}")
        report.row(measured="ratio", operation="claim + complete", floor=label, ratio=cycle / floor)
    for name in ("find_one", "command: replay"):
        ratio = watch.median("replay") / watch.median(name)
        print(f"replay / {name:<34}{ratio:.2f}")
        report.row(measured="ratio", operation="replay", floor=name, ratio=ratio)
    report.write(options.json)


if __name__ == "__main__":
    main()
