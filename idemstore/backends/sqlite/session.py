"""One connection to an SQLite file: what each request does there, and in which transaction.

``machine.step`` runs here, on a row that is read first without any lock: a replay, a busy answer and a mismatch end
there. Only where the step would change something is the write lock taken, the row read again, the clock read, the step
repeated and its record stored. Nothing here waits for a lock: a request that meets one fails with ``Busy``, and the
drivers try again. So one attempt takes as long as the disk does, and no longer.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Literal, NamedTuple, TypeVar, assert_never, cast

from idemstore.backends.sqlite import forking, rows, schema
from idemstore.backends.sqlite.ahead import FEWEST, Ahead
from idemstore.backends.sqlite.dialect import Apply, Forget, Look, Migrate, Ping, Purge, Reply, Request, key_of
from idemstore.backends.sqlite.translate import Busy, concerns_one_item, identity, is_busy, not_a_database, translate
from idemstore.errors import ConfigurationError, IdemstoreError, StoreClosed, StoreFull, StoreTimeout, StoreUnavailable
from idemstore.exchange import Snapshot
from idemstore.machine import Claim, Event, Phase, Record, State, phase, step
from idemstore.outcomes import ClaimOutcome, SettleOutcome
from idemstore.turn import Taken, Turn

T = TypeVar("T")

COLLECT_EVERY: Final = 32
COLLECTED_PER_STEP: Final = 4
"""Every 32nd step that writes also deletes up to 4 expired records for each: faster than steps can add them."""

WAL_KEPT: Final = 16 * 2**20
"""Bytes that the write-ahead log may keep after a checkpoint: one huge result does not leave a huge file for ever."""

HIGHEST_FENCE: Final = 2**62
"""No clock leads there: beyond is damage, which must not spoil the fences of other keys."""

SMALLEST: Final = 512
"""Bytes of the smallest page: no database that is not empty is smaller."""

CLOSE_PATIENCE: Final = 5.0


def wall_clock() -> int:
    """Microseconds since the epoch, by the clock of the host, which all processes on the file share."""
    return time.time_ns() // 1000


class Place(NamedTuple):
    """Which tables of which file, and how to use them."""

    path: str
    table: str = "idemstore"
    synchronous: str = "normal"
    clock: Callable[[], int] = wall_clock


class Pending(Enum):
    """In place of a reply: it takes the write lock to answer."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING

Answer = Reply | IdemstoreError
Answers = list[Answer | Literal[Pending.PENDING]]

Step = tuple[ClaimOutcome | SettleOutcome, bool, bool, Record | None]
"""What a step answers, whether it changes anything, whether there was a row, and what must be there after it."""


class Session:
    """One connection, opened when it is first needed, used by one thread at a time."""

    def __init__(self, place: Place) -> None:
        self.path = place.path
        self._place = place
        self._sql = schema.statements(place.table)
        self._turn = Turn()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._closed = False
        self._steps = COLLECT_EVERY - 1
        self._ahead: Ahead | None = None
        forking.register(self)

    # -- what drivers call ------------------------------------------------------------------------------------------

    def look(self, requests: Sequence[Request], timeout: float) -> Answers:
        """Answer what can be answered by reading; ``PENDING`` stands for the others."""
        return self._alone(lambda connection: self._look(connection, requests), timeout)

    def run(self, requests: Sequence[Request], timeout: float) -> list[Answer]:
        """Answer all, in one transaction where anything must be written."""
        return self._alone(lambda connection: self._answered(connection, requests), timeout)

    def close(self) -> None:
        """Close the connection, after the call in progress, for good."""
        self._closed = True
        if self._turn.enter(CLOSE_PATIENCE):
            self._drop()
            self._turn.leave()

    def busy(self) -> bool:
        """Whether another thread is at work here."""
        return self._turn.taken()

    def _alone(self, work: Callable[[sqlite3.Connection], T], timeout: float) -> T:
        """Work on the connection, when no other thread does."""

        def tried() -> T:
            try:
                return work(self._live())
            except sqlite3.Error as error:
                raise self._failed(error) from error

        try:
            return self._turn.run(tried, timeout)
        except Taken:
            raise StoreTimeout(f"another call is at work on {self.path} and does not end: is the disk stuck?") from None

    def _answered(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> list[Answer]:
        """Answer all. Once the write lock is needed for one, those behind it are not looked at without the lock: they
        would be looked at twice, and might overtake it.
        """
        answers: Answers = []
        waiting = False
        for request in requests:
            answer = PENDING if waiting or _writes(request) else self._looked(connection, request)
            waiting = waiting or answer is PENDING
            answers.append(answer)
        if waiting:
            answers = self._settled(connection, requests, answers)
        return answers  # type: ignore[return-value]  # nothing is pending any more

    # -- forks ------------------------------------------------------------------------------------------------------

    def suspend(self, timeout: float) -> bool:
        """See ``forking``."""
        if not self._turn.enter(timeout):
            return False
        self._drop()
        return True

    def resume(self) -> None:
        """See ``forking``."""
        self._turn.leave()

    def connected(self) -> bool:
        """See ``forking``."""
        return self._connection is not None

    def __del__(self) -> None:
        """See ``forking.bury``."""
        connection = getattr(self, "_connection", None)
        if connection is not None:
            forking.bury(self.path, connection)

    # -- the connection ---------------------------------------------------------------------------------------------

    def _live(self) -> sqlite3.Connection:
        """The connection, to the file that has the path *now*: one that was deleted or replaced is let go."""
        connection = self._connection
        if connection is not None:
            if identity(self.path)[0] == self._file:
                if connection.in_transaction:  # a signal handler raised in the middle of a rollback
                    connection.execute("ROLLBACK")
                return connection
            self._drop()
        return self._open()

    def _open(self) -> sqlite3.Connection:
        """Connect, and see that the tables are there."""
        if self._closed:
            raise StoreClosed(f"the store on {self.path} is closed: open a new store")
        if self.path in forking.lost:
            raise StoreUnavailable(
                f"this process was forked while a call was at work on {self.path}, which SQLite does not survive: "
                "fork before the first call, or start a new process"
            )
        before, size = identity(self.path)
        if 0 < size < SMALLEST:
            raise not_a_database(self.path)  # SQLite takes a file of one byte for an empty one
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
            self._file, _ = identity(self.path)
            if before not in (None, self._file):
                raise Busy(f"{self.path} was replaced while it was being opened")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Settings and tables. Tables of others are refused before anything is changed."""
        place = self._place
        connection.text_factory = bytearray  # see ``rows``
        schema.check(connection, place.table)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != b"wal":
            raise ConfigurationError(
                f"{place.path} cannot have a write-ahead log (journal mode stays {mode.decode()}): "
                "it takes a local file system with shared memory; put the file there"
            )
        connection.execute(f"PRAGMA synchronous = {place.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}").fetchone()
        schema.prepare(connection, place.table)

    def _drop(self) -> None:
        """Close the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failed(self, error: sqlite3.Error) -> IdemstoreError:
        """Our error; after most, the next call starts over with a connection of its own."""
        ours = translate(error, self.path)
        if not isinstance(ours, Busy | StoreFull):
            self._drop()
        return ours

    # -- reading ----------------------------------------------------------------------------------------------------

    def _look(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> Answers:
        """Every request as far as reading goes; none overtakes one on the same key that needs the lock."""
        answers: Answers = []
        waiting: set[str] = set()
        for request in requests:
            key = key_of(request)
            answer = PENDING if key in waiting else self._looked(connection, request)
            if answer is PENDING and key is not None:
                waiting.add(key)
            answers.append(answer)
        return answers

    def _looked(self, connection: sqlite3.Connection, request: Request) -> Answer | Literal[Pending.PENDING]:
        """One request as far as reading goes; an error stays with it."""
        try:
            return self._seen(connection, request)
        except IdemstoreError as error:
            return error

    def _seen(self, connection: sqlite3.Connection, request: Request) -> Reply | Literal[Pending.PENDING]:
        """One request as far as reading goes."""
        match request:
            case Apply(key, event):
                outcome, changes, _, _ = self._step(connection, key, event)
                return PENDING if changes else outcome
            case Look(key):
                _, record = self._read(connection, key)
                now = self._place.clock()
                return None if phase(record, now) is Phase.ABSENT else Snapshot(record, now)
            case Forget(key):
                return PENDING if self._row(connection, key)[2] is not None else False
            case Purge():
                return PENDING if connection.execute(self._sql.due, (self._place.clock(),)).fetchone()[0] else 0
            case Ping() | Migrate():
                return PENDING
            case _:
                assert_never(request)

    def _step(self, connection: sqlite3.Connection, key: str, event: Event) -> Step:
        """What the machine makes of the record as it is now. The clock is read after the record: whoever waited for the
        write lock before is not in the past.
        """
        found, before = self._read(connection, key)
        now = self._place.clock()
        after, outcome = step(before, event, now)
        # To delete what counts as absent can be left to the purge.
        changes = after is not before and not (after is None and phase(before, now) is Phase.ABSENT)
        return outcome, changes, found, after

    def _read(self, connection: sqlite3.Connection, key: str) -> tuple[bool, Record]:
        """Whether there is a record, and the record. Where there is none, a long expired one stands in, whose fence is
        the highest of all that were deleted.
        """
        row = self._row(connection, key)
        if row[2] is None:
            return False, Record(State.FAILED, "", cast("int", row[1]), 1, expires_at=0)
        return True, rows.decode(row[3:])

    def _row(self, connection: sqlite3.Connection, key: str) -> rows.Row:
        """What ``read`` finds."""
        row = None if self._ahead is None else self._ahead.row(key)
        if row is None:
            row = connection.execute(self._sql.read, (key,)).fetchone()
        return schema.checked(row, self._place.table)

    # -- writing ----------------------------------------------------------------------------------------------------

    def _settled(self, connection: sqlite3.Connection, requests: Sequence[Request], answers: Answers) -> Answers:
        """Answer what is pending. Where somebody else has the write lock, look at what was not looked at before: it
        may need no lock after all.
        """
        try:
            self._settle(connection, requests, answers)
        except sqlite3.OperationalError as error:
            answers = self._look(connection, requests) if is_busy(error) else [PENDING]
            if any(answer is PENDING for answer in answers):
                raise
        return answers

    def _settle(self, connection: sqlite3.Connection, requests: Sequence[Request], answers: Answers) -> None:
        """Answer what is pending, in one transaction that holds the write lock."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            due = [index for index, answer in enumerate(answers) if answer is PENDING]
            ahead = self._ahead = self._look_ahead(connection, [requests[index] for index in due])
            for index in due:
                if ahead is not None:
                    ahead.place = index
                answers[index] = self._written_or_error(connection, requests[index])
            if ahead is not None:
                ahead.finish(answers)
            if self._steps >= COLLECT_EVERY and not any(isinstance(request, Purge) for request in requests):
                self._purge(connection, self._steps * COLLECTED_PER_STEP)
                self._steps = 0
            connection.execute("COMMIT")
        finally:
            self._ahead = None
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _look_ahead(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> Ahead | None:
        """Many steps read and write all at once. The write lock is held."""
        keys = [request.key for request in requests if isinstance(request, Apply)]
        return None if len(keys) < FEWEST else Ahead(connection, self._sql, self.path, keys)

    def _written_or_error(self, connection: sqlite3.Connection, request: Request) -> Answer:
        """One request; an error that is its own stays with it."""
        try:
            return self._written(connection, request)
        except IdemstoreError as error:
            return error
        except sqlite3.Error as error:
            if not concerns_one_item(error) or not connection.in_transaction:
                raise
            return translate(error, self.path)

    def _written(self, connection: sqlite3.Connection, request: Request) -> Reply:
        """One request; the write lock is held."""
        match request:
            case Apply(key, event):
                return self._apply(connection, key, event)
            case Forget(key):
                return self._delete(connection, self._sql.delete, (key,)) > 0
            case Purge(limit):
                return self._purge(connection, limit)
            case Ping():
                connection.execute(self._sql.probe)
                return self._place.clock()
            case Migrate():
                schema.check(connection, self._place.table)
                return None
            case Look():
                raise AssertionError("a look is never pending")
            case _:
                assert_never(request)

    def _apply(self, connection: sqlite3.Connection, key: str, event: Event) -> ClaimOutcome | SettleOutcome:
        """One step of the machine, stored."""
        self._steps += 1
        outcome, changes, found, after = self._step(connection, key, event)
        if changes and after is None:
            self._delete(connection, self._sql.delete, (key,))
        elif changes and after is not None:
            self._store(connection, self._sql.update if found else self._sql.insert, key, after)
        return outcome

    def _store(self, connection: sqlite3.Connection, statement: str, key: str, record: Record) -> None:
        """Write a row."""
        row = rows.encode(key, record)
        if self._ahead is not None:
            self._ahead.store(statement, key, row)
            return
        try:
            connection.execute(statement, row)
        except OverflowError:
            raise rows.out_of_range() from None

    def _purge(self, connection: sqlite3.Connection, limit: int) -> int:
        """Delete some expired records."""
        return self._delete(connection, self._sql.purge, (self._place.clock(), limit))

    def _delete(self, connection: sqlite3.Connection, statement: str, parameters: tuple[object, ...]) -> int:
        """Delete rows and remember the highest of their fences; how many went."""
        if self._ahead is not None:
            self._ahead.forget()
        fences = [fence for (fence,) in connection.execute(statement, parameters).fetchall()]
        known = [fence for fence in fences if isinstance(fence, int) and fence < HIGHEST_FENCE]
        if known:
            connection.execute(self._sql.raise_, (max(known),))
        return len(fences)


def _writes(request: Request) -> bool:
    """Whether it will change something almost certainly, so that to look first would be to look twice."""
    return isinstance(request, Apply) and not isinstance(request.event, Claim)
