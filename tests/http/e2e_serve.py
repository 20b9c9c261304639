"""Runs an example of ``docs/examples`` in a server of its own, with the test in the place of the outside world.

    python e2e_serve.py FD              uvicorn, on a listening socket that the test made
    gunicorn e2e_serve:app ...          the same under gunicorn

``E2E_EXAMPLE`` names the example and ``E2E_OUTSIDE`` its functions that reach the outside world: each call of one is
told to the test through the socket ``E2E_WORLD``, and waits for what the test has it do.
"""

import asyncio
import functools
import importlib
import inspect
import os
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from e2e_outside import ask

from idemstore.http import presets


def refuse(status: int) -> NoReturn:
    """Answer with an error, as the framework does."""
    if "fastapi" in sys.modules:
        from fastapi import HTTPException

        raise HTTPException(status, f"the outside world says {status}")
    from flask import Response, abort

    abort(Response(f"the outside world says {status}", status))


def replaced(module: ModuleType, name: str) -> Callable[..., object]:
    """What takes the place of a function."""
    plain = getattr(module, name)

    def told(*arguments: object) -> None:
        order = ask(name, *arguments)
        if order.get("crash"):
            raise RuntimeError("the outside world broke")
        if "status" in order:
            refuse(order["status"])

    async def told_async(*arguments: object) -> None:
        await asyncio.to_thread(told, *arguments)

    return told_async if inspect.iscoroutinefunction(plain) else told


def load() -> object:
    """The application, and the test beside it."""
    if "E2E_WAIT" in os.environ:
        presets.meeting_bots = functools.partial(presets.meeting_bots, wait=float(os.environ["E2E_WAIT"]))
    module = importlib.import_module(os.environ["E2E_EXAMPLE"])
    for name in os.environ["E2E_OUTSIDE"].split():
        setattr(module, name, replaced(module, name))
    return module.app


app = load()

if __name__ == "__main__":
    import uvicorn

    uvicorn.Server(uvicorn.Config(app)).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
