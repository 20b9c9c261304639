"""A connection of libpq, spoken to without ever blocking: what both psycopg drivers share.

Uses ``psycopg.pq``, psycopg's wrapper of libpq, rather than its connections: those wait without a deadline of the call,
and their cursors cost more than the round trip. Conversations are generators that yield when they have to wait for the
socket; each driver waits in its own way, and may stop waiting at any time (then the line is of no use any more).
"""

import os
import re
import sys
import time
from collections.abc import Generator
from enum import Enum
from typing import Final, NamedTuple, cast

from psycopg import Error, pq

from idemstore.backends.postgresql.dialect import Arg, Call, Reply
from idemstore.backends.postgresql.pool import Place
from idemstore.backends.postgresql.refusals import LOST, Refusal
from idemstore.backends.postgresql.schema import Statement
from idemstore.errors import StoreMisbehaved


class Need(Enum):
    """What a conversation waits for."""

    READ = "until the socket can be read"
    WRITE = "until it can be written (or, behind the connection, read)"


Talk = Generator[Need, None, Reply]
Dialing = Generator[tuple[int, Need], None, "Line | Refusal"]

_OIDS: Final = {"t": 25, "b": 17, "i": 20, "f": 16, "T": 1009, "B": 1001, "I": 1016, "F": 1000}
_TEXT: Final = 0
_BINARY: Final = 1


class Plan(NamedTuple):
    """A statement as libpq takes it."""

    name: bytes
    sql: bytes
    oids: list[int]
    formats: list[int]


def plan(statement: Statement) -> Plan:
    """Bytes go as they are, arrays in binary form, the rest as text."""
    formats = [_TEXT if kind in "tif" else _BINARY for kind in statement.types]
    return Plan(
        b"idemstore_" + statement.name.encode(),
        statement.sql.encode(),
        [_OIDS[kind] for kind in statement.types],
        formats,
    )


def encode(arg: Arg, kind: str) -> bytes | None:
    """One argument."""
    if arg is None or type(arg) is bytes:
        return arg
    if type(arg) is str:
        return arg.encode()
    if type(arg) is bool:
        return b"t" if arg else b"f"
    if type(arg) is int:
        return b"%d" % arg
    return _array(cast("list[str | bytes | int | None]", arg), kind.lower())


def _array(items: "list[str | bytes | int | None]", kind: str) -> bytes:
    """A one-dimensional array in the server's binary form."""
    if not items:
        return b"".join(number.to_bytes(4, "big") for number in (0, 0, _OIDS[kind]))
    parts = [number.to_bytes(4, "big") for number in (1, 1, _OIDS[kind], len(items), 1)]
    for item in items:
        if item is None:
            parts.append(b"\xff\xff\xff\xff")
            continue
        value = _element(item)
        parts += (len(value).to_bytes(4, "big"), value)
    return b"".join(parts)


def _element(item: str | bytes | int) -> bytes:
    """One element of an array."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bool):
        return b"\x01" if item else b"\x00"
    return item.to_bytes(8, "big", signed=True)


class Line:
    """One connection, and the statements that it knows by name."""

    __slots__ = ("_known", "_named", "_plans", "fd", "pgconn", "place", "used")

    def __init__(self, pgconn: pq.abc.PGconn, *, named: bool) -> None:
        self.pgconn = pgconn
        self.fd = pgconn.socket
        self.used = time.monotonic()
        self.place: Place | None = None
        self._named = named
        self._known: set[str] = set()
        self._plans: dict[str, Plan] = {}

    def talk(self, call: Call) -> Talk:
        """Say a call; the reply, which is a refusal also where the connection broke."""
        try:
            return (yield from self._talk(call))
        except Error as error:
            return Refusal(LOST, str(error))

    def _talk(self, call: Call) -> Talk:
        """Prepare where that is still to be done (once per line: two round trips then), and execute."""
        statement, args = call
        how = self._plans.get(statement.name)
        if how is None:
            how = self._plans[statement.name] = plan(statement)
        if self._named and statement.name not in self._known:
            self.pgconn.send_prepare(how.name, how.sql, how.oids)
            answer = yield from self._answer()
            if isinstance(answer, Refusal):
                return answer
            self._known.add(statement.name)
        values = [encode(arg, kind) for arg, kind in zip(args, statement.types, strict=True)]
        if self._named:
            self.pgconn.send_query_prepared(how.name, values, how.formats, _BINARY)
        else:
            self.pgconn.send_query_params(how.sql, values, how.oids, how.formats, _BINARY)
        return (yield from self._answer())

    def _answer(self) -> Talk:
        """Send what is still to be sent, read until the server is ready for more.

        Rows come before the commit. So they count only once the server is ready again, and an error behind them wins.
        """
        pgconn = self.pgconn
        while pgconn.flush():
            yield Need.WRITE
            pgconn.consume_input()
        reply: Reply | None = None
        while True:
            while pgconn.is_busy():
                yield Need.READ
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return Refusal(LOST, "the server answered nothing") if reply is None else reply
            answer = _reply(result)
            if reply is None or isinstance(answer, Refusal):
                reply = answer

    def said(self) -> list[str]:
        """The notifications that have come since."""
        found: list[str] = []
        while (notice := self.pgconn.notifies()) is not None:
            found.append(notice.extra.decode())
        return found

    def drain(self) -> bool:
        """Something came that nobody asked for: read it. False where it was the end of the connection."""
        try:
            self.pgconn.consume_input()
        except Error:
            return False
        return True

    @property
    def broken(self) -> bool:
        """Whether libpq has given the connection up. It has closed the socket then."""
        return self.pgconn.status == pq.ConnStatus.BAD

    def close(self) -> None:
        """End the connection, without waiting for the server."""
        self.pgconn.finish()


def _reply(result: pq.abc.PGresult) -> Reply:
    """A result as a reply."""
    match result.status:
        case pq.ExecStatus.TUPLES_OK:
            rows, columns = range(result.ntuples), range(result.nfields)
            return [result.get_value(row, column) for row in rows for column in columns]
        case pq.ExecStatus.COMMAND_OK:
            return []
        case pq.ExecStatus.FATAL_ERROR:
            state = result.error_field(pq.DiagnosticField.SQLSTATE)
            text = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
            return Refusal(LOST if state is None else state.decode(), text.decode(errors="replace").strip())
        case status:
            raise StoreMisbehaved(f"the server answered a call with {status}, which no call asks for")


def dial(conninfo: bytes, *, named: bool) -> Dialing:
    """Connect to one server: a line, or why not."""
    try:
        pgconn = pq.PGconn.connect_start(conninfo)
        with _Trace(pgconn) as trace:
            while pgconn.status != pq.ConnStatus.BAD:
                match pgconn.connect_poll():
                    case pq.PollingStatus.OK:
                        pgconn.nonblocking = 1
                        return Line(pgconn, named=named)
                    case pq.PollingStatus.READING:
                        yield pgconn.socket, Need.READ
                    case pq.PollingStatus.WRITING:
                        yield pgconn.socket, Need.WRITE
                    case _:
                        break
            text = pgconn.error_message.decode(errors="replace").strip()
            return Refusal(trace.sqlstate() or LOST, text)
    except Error as error:
        return Refusal(LOST, str(error))


class _Trace:
    """Learns why a connection was refused. libpq keeps the SQLSTATE of such an error to itself and gives only its text,
    in the server's language; but its protocol trace shows the code.
    """

    _CODE: Final = re.compile(rb'ErrorResponse\b.* C "([0-9A-Z]{5})"')
    _able = sys.platform == "linux" and pq.version() >= 140000

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._fd = os.memfd_create("idemstore") if self._able else -1

    def __enter__(self) -> "_Trace":
        """Begin."""
        if self._able and self._pgconn.status != pq.ConnStatus.BAD:
            self._pgconn.trace(self._fd)
        return self

    def sqlstate(self) -> str | None:
        """The code of the last error, if the server sent one."""
        if not self._able:
            return None
        self._pgconn.untrace()
        os.lseek(self._fd, 0, os.SEEK_SET)
        codes = self._CODE.findall(os.read(self._fd, 2**20))
        return codes[-1].decode() if codes else None

    def __exit__(self, *_: object) -> None:
        """End, and forget what was said: it may hold a password."""
        if self._able:
            self._pgconn.untrace()
            os.close(self._fd)
