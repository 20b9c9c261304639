"""The sync driver: psycopg 3 (its libpq wrapper), for many threads. I/O only."""

import select
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from psycopg.conninfo import make_conninfo

from idemstore.backends.postgresql import dialing
from idemstore.backends.postgresql.carry import carry_many
from idemstore.backends.postgresql.dialect import Call, Reply, busy
from idemstore.backends.postgresql.dialing import Host, Hosts
from idemstore.backends.postgresql.listener import Listener
from idemstore.backends.postgresql.lobby import Busy, Lobby, LobbyWatch
from idemstore.backends.postgresql.options import Target
from idemstore.backends.postgresql.pool import Pool
from idemstore.backends.postgresql.refusals import ATTEMPTS, Refusal, Remedy, remedy
from idemstore.backends.postgresql.resolve import resolve
from idemstore.backends.postgresql.schema import Schema
from idemstore.backends.postgresql.wire import Line, Need, dial
from idemstore.errors import IdemstoreError

_EVENTS: Final = {Need.READ: select.POLLIN, Need.WRITE: select.POLLIN | select.POLLOUT}
_DIAL_EVENTS: Final = {Need.READ: select.POLLIN, Need.WRITE: select.POLLOUT}


class PsycopgDriver:
    """Connections as they are needed; nothing connects before the first call."""

    def __init__(self, target: Target, schema: Schema) -> None:
        self._target, self._schema = target, schema
        self._hosts = Hosts(target)
        self._pool = Pool(target.options.pool, target.name, self._connect)
        self._lobby = Lobby(self._busy)
        self._listener = Listener(self._listen, self._lobby) if target.options.notify else None

    def execute(self, request: Call, timeout: float) -> Reply:
        """Carry one call."""
        return self._call(time.monotonic() + timeout, timeout, request)

    def execute_many(self, requests: Sequence[Call], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many; see ``batches``."""
        return carry_many(requests, self._schema, partial(self._call, time.monotonic() + timeout, timeout))

    def _call(self, deadline: float, timeout: float, call: Call) -> Reply:
        """Once, and again where the connection, not the call, was at fault."""
        once = self._apart if call.statement.slow else self._once
        reply = once(deadline, timeout, call)
        for _ in range(ATTEMPTS - 1):
            if not isinstance(reply, Refusal) or remedy(reply) is Remedy.NONE:
                break
            reply = once(deadline, timeout, call)
        return reply

    def _once(self, deadline: float, timeout: float, call: Call) -> Reply:
        """On a connection of the pool."""
        line = self._pool.take(deadline)
        try:
            reply = self._talk(line, call, deadline, timeout)
        except BaseException:
            self._pool.drop(line)
            raise
        if isinstance(reply, Refusal) and remedy(reply) is Remedy.RECONNECT:
            self._pool.drop(line, all_idle=True)
        else:
            self._pool.give(line)
        return reply

    def _apart(self, deadline: float, timeout: float, call: Call) -> Reply:
        """On a connection of its own, whose statements may take as long as this call."""
        line = self._connect(deadline, timeout)
        try:
            return self._talk(line, call, deadline, timeout)
        finally:
            line.close()

    def _talk(self, line: Line, call: Call, deadline: float, timeout: float) -> Reply:
        """Say a call and wait for its reply."""
        talk = line.talk(call)
        try:
            while True:
                need = next(talk)
                if not _wait(line.fd, _EVENTS[need], deadline):
                    raise dialing.late(self._target, timeout)
        except StopIteration as stop:
            reply: Reply = stop.value
            return reply

    def _connect(self, deadline: float, timeout: float | None = None) -> Line:
        """A connection to the first host that takes it."""
        problem: IdemstoreError | None = None
        for host, until in self._hosts.shares(deadline):
            try:
                line = self._reach(host, until, timeout or self._target.options.timeout)
            except IdemstoreError as error:
                problem = dialing.telling(problem, error)
            else:
                self._hosts.answered(host)
                return line
        assert problem is not None, "there is at least one host"
        raise problem

    def _reach(self, host: Host, deadline: float, timeout: float) -> Line:
        """A connection to one host, at whichever of its addresses; its statements may take ``timeout`` seconds."""
        problem: IdemstoreError | None = None
        for address, until in dialing.shares(resolve(host.name, deadline), deadline):
            words = dialing.conninfo(self._target, host, address, timeout)
            try:
                return self._dial(host, make_conninfo("", **words), until)
            except IdemstoreError as error:
                problem = dialing.telling(problem, error)
        assert problem is not None, "there is at least one address"
        raise problem

    def _dial(self, host: Host, conninfo: str, until: float) -> Line:
        """A connection to one address."""
        steps = dial(conninfo.encode(), named=not self._target.options.pgbouncer)
        try:
            while True:
                fd, need = next(steps)
                if not _wait(fd, _DIAL_EVENTS[need], until):
                    raise dialing.silent(self._target, host)
        except StopIteration as stop:
            line: Line | Refusal = stop.value
        finally:
            steps.close()
        if isinstance(line, Refusal):
            raise dialing.refused(self._target, line)
        return line

    def watch(self, key: str) -> LobbyWatch:
        """All waiters share one poll, and a listener where the URL asks for one."""
        if self._listener is not None:
            self._listener.start()
        return LobbyWatch(self._lobby, key)

    def _listen(self) -> Line:
        """A connection that listens."""
        timeout = self._target.options.timeout
        line = self._connect(time.monotonic() + timeout)
        try:
            reply = self._talk(line, Call(self._schema.listen), time.monotonic() + timeout, timeout)
        except BaseException:
            line.close()
            raise
        if isinstance(reply, Refusal):
            line.close()
            raise dialing.refused(self._target, reply)
        return line

    def _busy(self, keys: list[str], timeout: float) -> Busy:
        """Which of the keys are busy. Where the server refuses to say: none, so that all ask themselves."""
        call = Call(self._schema.busy, (keys,))
        return busy(self.execute(call, min(timeout, self._target.options.timeout)))

    def close(self) -> None:
        """Close every connection; what is in use is closed when its call ends."""
        if self._listener is not None:
            self._listener.close()
        self._pool.close()


def _wait(fd: int, events: int, deadline: float) -> bool:
    """Until the socket is ready; False where the time is up."""
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
