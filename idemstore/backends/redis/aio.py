"""The async driver: carries packed commands over connections of redis-py, and sends again what may have been lost."""

import asyncio
import time
from collections.abc import Sequence

from redis.exceptions import AskError, MovedError, NoScriptError, ResponseError

from idemstore.async_deadlines import Deadlines
from idemstore.backends.redis.aio_listener import AsyncListener, AsyncRedisWatch
from idemstore.backends.redis.aio_nodes import AsyncCluster, AsyncNodes, AsyncSingle
from idemstore.backends.redis.aio_pool import AsyncLine, AsyncPool, ask
from idemstore.backends.redis.dialect import NOSCRIPT, Reply, Request, wrote
from idemstore.backends.redis.errors import CLIENT_ERRORS, cause, fault
from idemstore.backends.redis.faults import Failed, Fault, disagreed, exhausted, final, not_replicated, timed_out
from idemstore.backends.redis.options import Target, Topology
from idemstore.backends.redis.resp import joined
from idemstore.backends.redis.routing import Attempts, Batch, wait_milliseconds
from idemstore.errors import IdemstoreError, StoreTimeout
from idemstore.flows import AsyncSleepWatch


class _Call(Attempts):
    """The attempts of one call, and what it waits for, since a cancellation does not say what it interrupted."""

    __slots__ = ("queued", "where")

    def __init__(self, timeout: float, target: Target) -> None:
        super().__init__(timeout, target.topology)
        self.where = target.addresses[0]
        self.queued = 0
        """How many connections the pool has that the call waits for; 0: it does not wait for one."""

    def late(self) -> StoreTimeout:
        """The deadline has passed."""
        return exhausted(self.where, self.queued) if self.queued else timed_out(self.where)


class AsyncRedisDriver:
    """asyncio, for many tasks of one event loop. As ``sync.RedisDriver``, but the deadline is a cancellation."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._replicas = target.options.replicas
        self._nodes: AsyncNodes = AsyncCluster(target) if target.topology is Topology.CLUSTER else AsyncSingle(target)
        self._prefix = target.options.prefix.encode()
        self._listener = AsyncListener(self._separate) if target.options.notify else None
        self._deadlines = Deadlines()

    async def execute(self, request: Request, timeout: float) -> Reply:
        """Carry one request, again where its reply was lost or the server asks for it, until the deadline."""
        call = _Call(timeout, self._target)
        try:
            with self._deadlines.bound(call.deadline):
                while True:
                    try:
                        pool = await self._nodes.pool(request.key, call.deadline)
                        return await self._send(pool, request, call)
                    except Failed as failed:
                        pause = call.after(failed.fault)
                        if pause is None:
                            raise call.verdict(failed.fault.error) from cause(failed)
                    await asyncio.sleep(pause)
        except TimeoutError:
            raise call.verdict(call.late()) from None

    async def _send(self, pool: AsyncPool, request: Request, call: _Call, asking: bool = False) -> Reply:
        """Send once. Whatever goes wrong between the command and its reply, a cancellation too, ends the connection."""
        line = pool.idle()
        if line is None:
            line = await self._take(pool, call)
        call.where, since = pool.address, time.monotonic()
        try:
            if asking:
                await ask(line, b"ASKING")
            await line.send_packed_command(request.chunks, False)
            reply = await line.read_reply()
            if self._replicas and wrote(reply):
                await self._confirm(pool, line, call)
        except Failed:
            await pool.give(line)
            raise
        except ResponseError as error:
            await pool.give(line)
            return await self._refused(error, pool, line, request, call, asking)
        except CLIENT_ERRORS as error:
            await pool.drop(line)
            raise await self._broken(error, pool, line.generation) from error
        except BaseException:
            await pool.drop(line)
            await self._interrupted(pool, line.generation, call, since)
            raise
        if not pool.keep(line):
            await pool.drop(line)
        return reply

    async def _take(self, pool: AsyncPool, call: _Call) -> AsyncLine:
        """A connection. Where none can be made, perhaps another server has taken over."""
        generation, since = pool.generation, time.monotonic()
        call.where, call.queued = pool.address, pool.size if pool.full else 0
        try:
            line = await pool.take(call.deadline)
        except Failed as failed:
            if failed.fault.again:
                await self._nodes.failed(pool, generation)
            raise
        except BaseException:
            if not call.queued:
                await self._interrupted(pool, generation, call, since)
            raise
        call.queued = 0
        return line

    async def _interrupted(self, pool: AsyncPool, generation: int, call: _Call, since: float) -> None:
        """A call was cancelled, by its deadline or by its caller. A server that was silent for long may be gone."""
        if call.silent(since):
            await self._nodes.failed(pool, generation)

    async def _confirm(self, pool: AsyncPool, line: AsyncLine, call: _Call) -> None:
        """Wait for the replicas, on the connection that wrote."""
        milliseconds = wait_milliseconds(call.deadline - time.monotonic())
        reached = await ask(line, b"WAIT", b"%d" % self._replicas, b"%d" % milliseconds)
        if not isinstance(reached, int) or reached < self._replicas:
            raise final(not_replicated(pool.address, reached, self._replicas))

    async def _refused(
        self, error: ResponseError, pool: AsyncPool, line: AsyncLine, request: Request, call: _Call, asking: bool
    ) -> Reply:
        """The server answered with an error: for the dialect, for the routing, or a failure."""
        if isinstance(error, NoScriptError):
            return NOSCRIPT
        if isinstance(error, AskError) and not isinstance(error, MovedError) and not asking:
            target = self._nodes.asking(error, pool)
            if target is not None:
                return await self._send(target, request, call, asking=True)
        if isinstance(error, MovedError) and self._nodes.moved(error, pool):
            raise Failed(disagreed(pool.address)) from error
        failure = fault(error, pool.address)
        if failure.again:
            await self._nodes.failed(pool, line.generation)
        raise Failed(failure) from error

    async def _broken(self, error: Exception, pool: AsyncPool, generation: int) -> Failed:
        """The connection broke."""
        failure = fault(error, pool.address)
        if failure.again:
            await self._nodes.failed(pool, generation)
        return Failed(failure)

    async def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many: one pipeline for each server, all at once. What may be tried again travels together once more."""
        call = _Call(timeout, self._target)
        batch = Batch(requests, call.cut)
        try:
            with self._deadlines.bound(call.deadline):
                while True:
                    groups = await self._by_pool(batch, call)
                    trips = [self._pipeline(pool, part, batch, call) for pool, part in groups.items()]
                    await (trips[0] if len(trips) == 1 else asyncio.gather(*trips))
                    pause = call.next() if batch.due() else None
                    if pause is None:
                        return batch.results()
                    await asyncio.sleep(pause)
        except TimeoutError:
            batch.fail(batch.due(), Fault(call.late(), again=False))
            return batch.results()

    async def _by_pool(self, batch: Batch, call: _Call) -> dict[AsyncPool, list[int]]:
        """What is due, by the server that it goes to."""
        groups: dict[AsyncPool, list[int]] = {}
        due = batch.due()
        if self._target.topology is not Topology.CLUSTER:
            return {await self._nodes.pool(batch.requests[due[0]].key, call.deadline): due} if due else groups
        for index in due:
            try:
                pool = await self._nodes.pool(batch.requests[index].key, call.deadline)
            except Failed as failed:
                batch.fail([index], failed.fault)
            else:
                groups.setdefault(pool, []).append(index)
        return groups

    async def _pipeline(self, pool: AsyncPool, indices: Sequence[int], batch: Batch, call: _Call) -> None:
        """Send many commands, then read as many replies. No transaction: each is one for itself."""
        try:
            line = await self._take(pool, call)
        except Failed as failed:
            batch.fail(indices, failed.fault)
            return
        since = time.monotonic()
        refused: list[tuple[int, ResponseError]] = []
        try:
            await line.send_packed_command(joined(batch.requests[index].chunks for index in indices), False)
            for index, reply in zip(indices, await line.read_replies(len(indices)), strict=True):
                if isinstance(reply, ResponseError):
                    refused.append((index, reply))
                else:
                    batch.answer(index, reply)
            await self._confirm_many(pool, line, indices, batch, call)
        except CLIENT_ERRORS as error:
            await pool.drop(line)
            batch.fail(indices, (await self._broken(error, pool, line.generation)).fault)
            return
        except BaseException:
            await pool.drop(line)
            await self._interrupted(pool, line.generation, call, since)
            raise
        await pool.give(line)
        await self._refused_items(refused, pool, line, batch, call)

    async def _confirm_many(
        self, pool: AsyncPool, line: AsyncLine, indices: Sequence[int], batch: Batch, call: _Call
    ) -> None:
        """Wait for the replicas once, for everything that a pipeline wrote."""
        written = [index for index in indices if batch.wrote(index)] if self._replicas else []
        if written:
            try:
                await self._confirm(pool, line, call)
            except Failed as failed:
                batch.revoke(written, failed.fault.error)

    async def _refused_items(
        self, refused: Sequence[tuple[int, ResponseError]], pool: AsyncPool, line: AsyncLine, batch: Batch, call: _Call
    ) -> None:
        """The items of a pipeline that the server answered with an error."""
        for index, error in refused:
            try:
                batch.answer(index, await self._refused(error, pool, line, batch.requests[index], call, asking=False))
            except Failed as failed:
                batch.fail([index], failed.fault)

    def watch(self, key: str) -> AsyncRedisWatch | AsyncSleepWatch:
        """As ``sync.RedisDriver.watch``."""
        if self._listener is None:
            return AsyncSleepWatch()
        return AsyncRedisWatch(self._listener, self._prefix + key.encode())

    async def _separate(self, deadline: float) -> AsyncLine:
        """As ``sync.RedisDriver._separate``."""
        return await (await self._nodes.pool(self._prefix, deadline)).separate(deadline)

    async def close(self) -> None:
        """Close every connection."""
        if self._listener is not None:
            await self._listener.close()
        await self._nodes.close()
        self._deadlines.close()
