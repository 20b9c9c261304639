"""A worker process: ``python -m idemstore.bench.worker FD``. It gets its orders over a socket, and ends with it."""

import importlib
import sys
from multiprocessing.connection import Connection
from typing import cast

from idemstore.bench.orders import Asked, Audit, Broke, Forget, Go, Hello, Order, Ready, Said
from idemstore.bench.work import Worker
from idemstore.errors import ConfigurationError, IdemstoreError


def serve(line: "Connection[Said, Asked]") -> None:
    """Carry out orders until the other side hangs up."""
    hello = line.recv()
    assert isinstance(hello, Hello)
    for plugin in hello.plugins:
        importlib.import_module(plugin)
    worker = Worker(hello)
    try:
        line.send(Ready())
        while True:
            match line.recv():
                case Order() as order:
                    job = worker.ready(order)
                    line.send(Ready())
                    go = line.recv()
                    assert isinstance(go, Go)
                    line.send(worker.sample(job, go))
                    audit = line.recv()
                    assert isinstance(audit, Audit)
                    line.send(worker.audit(job))
                case Forget(seconds=seconds):
                    line.send(worker.forget(seconds))
                case _:
                    raise AssertionError("no such order")
    finally:
        worker.close()


def reason(error: BaseException) -> Broke:
    """Why a worker cannot go on. Text of clients is kept back: it may hold a password."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, IdemstoreError):
        return Broke(str(error), usage=isinstance(error, ConfigurationError))
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = "" if at is None else f" at {at.tb_frame.f_globals.get('__name__', '?')}:{at.tb_lineno}"
    return Broke(f"{type(error).__name__}{where}")


def main() -> None:
    """Serve; whatever ends it is told to the other side."""
    line = cast("Connection[Said, Asked]", Connection(int(sys.argv[1])))
    try:
        serve(line)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the command is gone, or done
    except BaseException as error:
        line.send(reason(error))
        if sys.flags.dev_mode:
            raise


if __name__ == "__main__":
    main()
