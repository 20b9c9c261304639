"""The sync driver: carries packed commands over connections of redis-py, and sends again what may have been lost."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from redis.exceptions import AskError, MovedError, NoScriptError, ResponseError

from idemstore.backends.redis.dialect import NOSCRIPT, Reply, Request, wrote
from idemstore.backends.redis.errors import CLIENT_ERRORS, cause, fault
from idemstore.backends.redis.faults import Failed, Fault, disagreed, final, not_replicated
from idemstore.backends.redis.options import Target, Topology
from idemstore.backends.redis.resp import joined
from idemstore.backends.redis.routing import Attempts, Batch, wait_milliseconds
from idemstore.backends.redis.sync_listener import Listener, RedisWatch
from idemstore.backends.redis.sync_nodes import Cluster, Nodes, Single, ask
from idemstore.backends.redis.sync_pool import Line, Pool
from idemstore.errors import IdemstoreError, StoreTimeout
from idemstore.flows import SleepWatch


class RedisDriver:
    """Sync, for many threads. Nothing connects before the first call."""

    def __init__(self, target: Target) -> None:
        self._topology = target.topology
        self._replicas = target.options.replicas
        self._nodes: Nodes = Cluster(target) if target.topology is Topology.CLUSTER else Single(target)
        self._prefix = target.options.prefix.encode()
        self._listener = Listener(self._separate) if target.options.notify else None

    def execute(self, request: Request, timeout: float) -> Reply:
        """Carry one request, again where its reply was lost or the server asks for it, until the deadline."""
        attempts = Attempts(timeout, self._topology)
        while True:
            try:
                return self._send(self._nodes.pool(request.key, attempts.deadline), request, attempts)
            except Failed as failed:
                pause = attempts.after(failed.fault)
                if pause is None:
                    raise attempts.verdict(failed.fault.error) from cause(failed)
            time.sleep(pause)

    def _send(self, pool: Pool, request: Request, attempts: Attempts, asking: bool = False) -> Reply:
        """Send once. Whatever goes wrong between the command and its reply ends the connection."""
        line = self._take(pool, attempts)
        try:
            if asking:
                ask(line, b"ASKING")
            line.send_packed_command(request.chunks, False)
            reply = line.read_response()
            if self._replicas and wrote(reply):
                self._confirm(pool, line)
        except Failed:
            pool.give(line)
            raise
        except ResponseError as error:
            pool.give(line)
            return self._refused(error, pool, line, request, attempts, asking)
        except CLIENT_ERRORS as error:
            pool.drop(line)
            raise self._broken(error, pool, line, attempts) from error
        except BaseException:
            pool.drop(line)
            raise
        pool.give(line)
        return reply

    def _take(self, pool: Pool, attempts: Attempts) -> Line:
        """A connection. Where none can be made, perhaps another server has taken over."""
        generation = pool.generation
        try:
            return pool.take(attempts.deadline)
        except Failed as failed:
            if failed.fault.again:
                self._nodes.failed(pool, generation)
            raise

    def _confirm(self, pool: Pool, line: Line) -> None:
        """Wait for the replicas, on the connection that wrote."""
        milliseconds = wait_milliseconds(line.deadline - time.monotonic())
        reached = ask(line, b"WAIT", b"%d" % self._replicas, b"%d" % milliseconds)
        if not isinstance(reached, int) or reached < self._replicas:
            raise final(not_replicated(pool.address, reached, self._replicas))

    def _refused(
        self, error: ResponseError, pool: Pool, line: Line, request: Request, attempts: Attempts, asking: bool
    ) -> Reply:
        """The server answered with an error: for the dialect, for the routing, or a failure."""
        if isinstance(error, NoScriptError):
            return NOSCRIPT
        if isinstance(error, AskError) and not isinstance(error, MovedError) and not asking:
            target = self._nodes.asking(error, pool)
            if target is not None:
                return self._send(target, request, attempts, asking=True)
        raise Failed(self._failure(error, pool, line)) from error

    def _failure(self, error: ResponseError, pool: Pool, line: Line) -> Fault:
        """What an error reply means for further attempts."""
        if isinstance(error, MovedError) and self._nodes.moved(error, pool):
            return disagreed(pool.address)
        failure = fault(error, pool.address)
        if failure.again:
            self._nodes.failed(pool, line.generation)
        return failure

    def _broken(self, error: Exception, pool: Pool, line: Line, attempts: Attempts) -> Failed:
        """The connection broke, or was silent until the deadline."""
        failure = fault(error, pool.address)
        if failure.again or (isinstance(failure.error, StoreTimeout) and attempts.silent(line.since)):
            self._nodes.failed(pool, line.generation)
        return Failed(failure)

    def execute_many(self, requests: Sequence[Request], timeout: float) -> Sequence[Reply | IdemstoreError]:
        """Carry many: one pipeline for each server. What may be tried again travels together once more."""
        attempts = Attempts(timeout, self._topology)
        batch = Batch(requests, attempts.cut)
        while True:
            self._pipelines(self._by_pool(batch, attempts), batch, attempts)
            pause = attempts.next() if batch.due() else None
            if pause is None:
                return batch.results()
            time.sleep(pause)

    def _by_pool(self, batch: Batch, attempts: Attempts) -> dict[Pool, list[int]]:
        """What is due, by the server that it goes to."""
        groups: dict[Pool, list[int]] = {}
        for index in batch.due():
            try:
                pool = self._nodes.pool(batch.requests[index].key, attempts.deadline)
            except Failed as failed:
                batch.fail([index], failed.fault)
            else:
                groups.setdefault(pool, []).append(index)
        return groups

    def _pipelines(self, groups: dict[Pool, list[int]], batch: Batch, attempts: Attempts) -> None:
        """One pipeline for each server. Several of them run side by side: a silent node must not use up the time of the
        others.
        """
        if len(groups) == 1:
            for pool, indices in groups.items():
                self._pipeline(pool, indices, batch, attempts)
        elif groups:
            with ThreadPoolExecutor(len(groups), thread_name_prefix="idemstore-redis") as threads:
                work = [threads.submit(self._pipeline, pool, part, batch, attempts) for pool, part in groups.items()]
            for done in work:
                done.result()

    def _pipeline(self, pool: Pool, indices: Sequence[int], batch: Batch, attempts: Attempts) -> None:
        """Send many commands, then read as many replies. No transaction: each is one for itself."""
        try:
            line = self._take(pool, attempts)
        except Failed as failed:
            batch.fail(indices, failed.fault)
            return
        refused: list[tuple[int, ResponseError]] = []
        try:
            line.send_packed_command(joined(batch.requests[index].chunks for index in indices), False)
            for index in indices:
                try:
                    batch.answer(index, line.read_response())
                except ResponseError as error:
                    refused.append((index, error))
            self._confirm_many(pool, line, indices, batch)
        except CLIENT_ERRORS as error:
            pool.drop(line)
            batch.fail(indices, self._broken(error, pool, line, attempts).fault)
            return
        except BaseException:
            pool.drop(line)
            raise
        pool.give(line)
        self._refused_items(refused, pool, line, batch, attempts)

    def _confirm_many(self, pool: Pool, line: Line, indices: Sequence[int], batch: Batch) -> None:
        """Wait for the replicas once, for everything that a pipeline wrote."""
        written = [index for index in indices if batch.wrote(index)] if self._replicas else []
        if written:
            try:
                self._confirm(pool, line)
            except Failed as failed:
                batch.revoke(written, failed.fault.error)

    def _refused_items(
        self, refused: Sequence[tuple[int, ResponseError]], pool: Pool, line: Line, batch: Batch, attempts: Attempts
    ) -> None:
        """The items of a pipeline that the server answered with an error."""
        for index, error in refused:
            try:
                batch.answer(index, self._refused(error, pool, line, batch.requests[index], attempts, asking=False))
            except Failed as failed:
                batch.fail([index], failed.fault)

    def watch(self, key: str) -> RedisWatch | SleepWatch:
        """Told by pub/sub, unless ``notify=0``."""
        return SleepWatch() if self._listener is None else RedisWatch(self._listener, self._prefix + key.encode())

    def _separate(self, deadline: float) -> Line:
        """A connection for the listener: in a cluster to any node, since they tell one another."""
        return self._nodes.pool(self._prefix, deadline).separate(deadline)

    def close(self) -> None:
        """Close every connection."""
        if self._listener is not None:
            self._listener.close()
        self._nodes.close()
