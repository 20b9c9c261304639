"""The commands of ``idemstore``: the demo, and what operators need. Needs typer and rich; only ``cli`` imports it."""

import importlib
import io
import json
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import idemstore
from idemstore.cli import say
from idemstore.errors import ConfigurationError, IdemstoreError, InvalidInput, MissingPackage, UnsupportedMode
from idemstore.exchange import Snapshot
from idemstore.machine import MICROSECONDS
from idemstore.registry import BUILT_IN
from idemstore.url import parse_url

OK, NO, USAGE, STORE, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="idemstore",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Idempotency keys, stored. Exit codes: 0 done, 1 the answer is no, 2 usage or configuration, 3 store.",
)

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL", envvar="IDEMSTORE_URL", show_default=False, help="Store, such as redis://localhost:6379/0."
    ),
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The key, without its scope.")]
Scopes = Annotated[
    list[str] | None, typer.Option("--scope", "-s", help="A part of the scope; repeat it, outermost first.")
]


def run(arguments: Sequence[str]) -> int:
    """Run one command. Every foreseen error is one line on standard error and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int | None = app(list(arguments), prog_name="idemstore", standalone_mode=False)
    except typer.TyperException as error:
        say(f"{error.format_message()} (idemstore --help)")
        return USAGE
    except (ConfigurationError, InvalidInput) as error:
        say(str(error))
        return USAGE
    except IdemstoreError as error:
        say(str(error))
        return STORE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code by itself, depending on its version
        say("interrupted")
    return code or OK


def load(plugins: Sequence[str]) -> None:
    """Import modules that register backends of their own."""
    for plugin in plugins:
        try:
            importlib.import_module(plugin)
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"--plugin {plugin}: {error}; is it installed, or on PYTHONPATH?") from error


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="IDEMSTORE_PLUGIN", help="Module that registers further backends (idemstore.register); repeatable."
        ),
    ] = None,
) -> None:
    """Read what every command shares."""
    if version:
        sys.stdout.write(f"idemstore {idemstore.__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit
    context.obj = tuple(plugin or ())
    load(context.obj)


@app.command()
def demo(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            envvar="IDEMSTORE_URL",
            show_default="a SQLite file in a temporary directory",
            help="Store that the workers share.",
        ),
    ] = None,
    keys: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Keys, each to be executed once.")] = 40,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Worker processes.")] = 4,
    attempts: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="Callers that want the result of each key.")
    ] = 8,
    kills: Annotated[
        int, typer.Option(metavar="N", min=0, max=1000, help="How often a worker is killed (SIGKILL).")
    ] = 9,
    stalls: Annotated[
        int, typer.Option(metavar="N", min=0, max=100, help="How often a worker sleeps past its lease.")
    ] = 2,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Repeat the plan of an earlier run.", show_default="random")
    ] = None,
    lease: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, max=60, help="How long others leave a claim alone.")
    ] = 1.0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, max=3600, help="How long the run may take at most.")
    ] = 60.0,
) -> None:
    """Watch it work: processes race for the same keys while some of them are killed; every key is executed once.

    Each execution charges a card: it appends one line to a ledger that would charge twice if it were asked twice.
    Workers are killed before the charge, after the charge but before they could say so, and at any other moment, or
    put to sleep until somebody else has taken over; then they are started again and ask again.

    No store alone can tell whether a worker that died had charged already. So every execution saves a checkpoint
    before it charges, and one that takes over and finds a checkpoint asks the ledger first. A worker that wakes up
    too late is refused by the fence of its claim. That is how to integrate a real payment provider, too.

    The verdict comes from the ledger and from what the workers wrote down, not from the store under test. Exit
    code 1: a key was not executed once, or callers of one key got different results.
    """
    from idemstore.demo.plan import Settings
    from idemstore.demo.show import run as run_demo

    with place(url) as where:
        settings = Settings(
            url=where,
            keys=keys,
            workers=workers,
            attempts=attempts,
            kills=kills,
            stalls=stalls,
            seed=random.randrange(10**6) if seed is None else seed,  # noqa: S311 - no secret
            lease=lease,
            timeout=timeout,
            plugins=context.find_root().obj,
            run=secrets.token_hex(4),
        )
        raise typer.Exit(run_demo(settings, console()))


@contextmanager
def place(url: str | None) -> Iterator[str]:
    """The URL, or one of a SQLite file that is gone afterwards; a polite signal ends the workers, too."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="idemstore-demo-") as directory:
        yield f"sqlite:///{Path(directory) / 'demo.db'}"


@app.command()
def bench(
    context: typer.Context,
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL ...]", show_default="memory, and a SQLite file in a temporary directory", help="Stores."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Start every server that can be had here, and measure each.")
    ] = False,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="unique, replay, hot, mixed, wait, big; repeat it, or put commas.", show_default="all"),
    ] = None,
    concurrency: Annotated[str, typer.Option(metavar="N,N,...", help="Concurrent callers.")] = "1,64",
    mode: Annotated[str, typer.Option(metavar="MODE", help="sync, async or both.")] = "both",
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Processes that the callers are spread over.")
    ] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.02, max=600, help="How long a sample takes.", show_default="0.1 to 1"),
    ] = None,
    operations: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=10_000_000, help="How many operations it takes instead.")
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="Medians of so many rounds.")] = 3,
    added_latency: Annotated[
        float, typer.Option(metavar="MS", min=0, max=10_000, help="Milliseconds that each round trip takes longer.")
    ] = 0.0,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Write results.json and index.html there.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Put load on servers of other machines, too.")] = False,
) -> None:
    """Measure stores, each beside the floor of its own client library: the same number of bare calls.

    Store and floor take turns in processes of their own. Every sample also checks that exactly one caller was Claimed
    for each key. Exit code 1: that was violated; 3: a store could not be asked to the end.
    """
    from idemstore.bench.plan import Plan, read_concurrency, read_modes, read_scenarios
    from idemstore.bench.show import run as run_bench

    if seconds is not None and operations is not None:
        raise InvalidInput("--seconds and --operations are two ways to say how much: keep one")
    plan = Plan(
        scenarios=read_scenarios(scenario or []),
        concurrency=read_concurrency(concurrency),
        modes=read_modes(mode),
        processes=processes,
        seconds=seconds,
        operations=operations,
        rounds=rounds,
        latency=added_latency,
    )
    code = run_bench(
        plan, urls or [], console(), everything=everything, yes=yes, directory=report, plugins=context.find_root().obj
    )
    raise typer.Exit(code)


@app.command()
def ping(url: Url) -> None:
    """Ask the store's server for its clock: proof that calls would be answered."""
    with idemstore.open(url) as store:
        began = time.monotonic()
        clock = datetime.fromtimestamp(store.ping() / MICROSECONDS, UTC)
        took = (time.monotonic() - began) * 1000
    write(f"{parse_url(url)} answers in {took:.1f} ms; its clock says {clock:%Y-%m-%d %H:%M:%S.%f} UTC")


@app.command()
def get(
    url: Url,
    key: Key,
    scope: Scopes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    result: Annotated[bool, typer.Option("--result", help="Print the stored result alone, byte for byte.")] = False,
) -> None:
    """Show what is stored under a key, without touching it. Exit code 1: nothing is.

    Token, fingerprint, result and checkpoint are not shown, since they may be secrets; --result prints the result.
    """
    with idemstore.open(url) as store:
        found = store.get((*(scope or ()), key))
    if found is None:
        write("null" if as_json else "absent")
        raise typer.Exit(NO)
    if result:
        sys.stdout.buffer.write(found.record.result or b"")
    elif as_json:
        write(json.dumps(described(found)))
    else:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
        for name, value in described(found).items():
            table.add_row(name.replace("_", " "), "-" if value is None else str(value))
        console().print(table)


def described(found: Snapshot) -> dict[str, str | int | float | None]:
    """A record for people: no secrets; times as seconds from the server's now."""
    record = found.record
    return {
        "state": str(record.state),
        "attempt": record.attempt,
        "fence": record.fence,
        "lease_left_s": found.lease_left,
        "retry_in_s": found.retry_in,
        "expires_in_s": found.expires_in,
        "result_bytes": None if record.result is None else len(record.result),
        "checkpoint_bytes": None if record.checkpoint is None else len(record.checkpoint),
    }


@app.command()
def forget(url: Url, key: Key, scope: Scopes = None) -> None:
    """Delete what is stored under a key, whatever its state. Exit code 1: nothing was.

    The next claim of the key runs the operation again, even if somebody is still running it.
    """
    with idemstore.open(url) as store:
        if not store.forget((*(scope or ()), key)):
            write("nothing was stored")
            raise typer.Exit(NO)
    write("forgotten")


@app.command()
def purge(
    url: Url,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Delete at most so many at a time.")
    ] = 1000,
    everything: Annotated[bool, typer.Option("--all", help="Go on until none is left.")] = False,
) -> None:
    """Delete records whose retention is over, never a live one."""
    total = 0
    with idemstore.open(url) as store:
        deleted = store.purge(limit)
        total += deleted
        while everything and deleted:
            deleted = store.purge(limit)
            total += deleted
    write(f"{total} expired {'record' if total == 1 else 'records'} deleted")


@app.command()
def migrate(url: Url) -> None:
    """Create or update what the store needs on its server (tables, functions, indexes). May be repeated."""
    with idemstore.open(url) as store:
        store.migrate()
    write(f"{parse_url(url)} is ready")


@app.command()
def schemes() -> None:
    """List the URL schemes that can be opened, and what has to be installed for those that cannot."""
    width = max(len(scheme) for scheme in idemstore.schemes()) + len("://  ")
    for scheme in idemstore.schemes():
        write(f"{scheme + '://':<{width}}{readiness(scheme)}")
    write(f"{'every scheme':<{width}}?timeout=SECONDS, ?local_cache=RECORDS; where calls coalesce, ?coalesce=0 or 1")


def readiness(scheme: str) -> str:
    """Whether a scheme can be opened here. Opening does not connect, and says first which package is missing."""
    if scheme not in BUILT_IN:
        return "from another package"
    try:
        idemstore.open(f"{scheme}://").close()
    except UnsupportedMode:
        return "ready, async alone"
    except MissingPackage as error:
        return str(error)
    except ConfigurationError as error:
        return "ready" if isinstance(error, ValueError) else str(error)
    return "ready"


def console() -> Console:
    """Standard output, for text that may have brackets in it."""
    return Console(markup=False, highlight=False)


def write(line: str) -> None:
    """One line on standard output, never wrapped."""
    sys.stdout.write(line + "\n")
