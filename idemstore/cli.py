"""The console script ``idemstore``. It needs the extra ``cli``: where that is missing, it says how to get it."""

import importlib.util
import sys
from types import TracebackType
from typing import Final

NEEDED: Final = ("typer", "rich")
USAGE, BUG = 2, 70


def main() -> None:
    """Run the command line and exit with its code: 0, 1 (the answer is no), 2 (usage, configuration), 3 (store)."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        say(f"the command line needs {' and '.join(missing)}: pip install 'idemstore[cli]'")
        sys.exit(USAGE)
    if not sys.flags.dev_mode:
        sys.excepthook = report_bug
    from idemstore.commands import run

    sys.exit(run(sys.argv[1:]))


def say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"idemstore: {' '.join(message.split())}\n")


def report_bug(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """What nobody expected, in one line; its text is kept back, since a client's message may hold a password."""
    frame = at
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f" at {frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno}"
    say(f"a bug, please report it: {kind.__name__}{where} (run with 'python -X dev -m idemstore' for the traceback)")
    raise SystemExit(BUG)


if __name__ == "__main__":
    main()
