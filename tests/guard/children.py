"""What processes of the tests do: ``python children.py <what> <arguments>``. Each prints ``ready`` where it is to be
killed, or ends by itself.
"""

import asyncio
import sys
import threading
import time

import idemstore
from idemstore import AsyncGuard, Guard, Policy, async_operation, operation


def two_steps(url: str, key: str, journal: str) -> None:
    """A job of two steps that notes each; it stands still between them until it is killed."""
    guard = Guard(idemstore.open(url), Policy(lease=30))

    def job() -> str:
        """First step, checkpoint, second step."""
        running = operation()
        if running.resumed_from is None:
            note(journal, "first")
            running.checkpoint(b"first done")
            say("ready")
            time.sleep(600)
        note(journal, "second")
        return "done"

    guard.call(key, job)


async def two_async_steps(url: str, key: str, journal: str) -> None:
    """The same, async."""
    guard = AsyncGuard(idemstore.open_async(url), Policy(lease=30))

    async def job() -> str:
        """First step, checkpoint, second step."""
        running = async_operation()
        if running.resumed_from is None:
            note(journal, "first")
            await running.checkpoint(b"first done")
            say("ready")
            await asyncio.sleep(600)
        note(journal, "second")
        return "done"

    await guard.call(key, job)


def say(line: str) -> None:
    """Tell whoever reads."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def note(journal: str, line: str) -> None:
    """Append a line."""
    with open(journal, "a") as file:
        file.write(line + "\n")


def leave(url: str) -> None:
    """End the main thread while a daemon thread runs a guarded function with a heartbeat."""
    guard = Guard(idemstore.open(url), Policy(lease=0.05))
    running = threading.Event()

    def forever() -> None:
        """Run on."""
        running.set()
        time.sleep(600)

    threading.Thread(target=guard.call, args=("key", forever), daemon=True).start()
    running.wait()
    time.sleep(0.2)


async def leave_async(url: str) -> None:
    """End the loop with a heartbeat that runs."""
    guard = AsyncGuard(idemstore.open_async(url), Policy(lease=60))

    async def quick() -> int:
        """Return."""
        return 1

    await guard.call("key", quick)


def last_words(url: str) -> None:
    """A guarded call while the interpreter ends."""
    import atexit

    guard = Guard(idemstore.open(url), Policy(lease=60))
    atexit.register(lambda: say(guard.call("key", lambda: "said")))


WHAT = {
    "two_steps": two_steps,
    "two_async_steps": lambda *arguments: asyncio.run(two_async_steps(*arguments)),
    "leave": leave,
    "leave_async": lambda *arguments: asyncio.run(leave_async(*arguments)),
    "last_words": last_words,
}

if __name__ == "__main__":
    WHAT[sys.argv[1]](*sys.argv[2:])
