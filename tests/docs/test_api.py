"""``docs/api.md`` is written from the code; ``python tests/docs/test_api.py`` writes it anew."""

import dataclasses
import inspect
import re

import api_http
from pages import ROOT

import idemstore
from idemstore import errors, http
from idemstore.exchange import Limits, Snapshot
from idemstore.machine import Record, State
from idemstore.store import Store
from idemstore.testing import contract, subject

PAGE = ROOT / "docs" / "api.md"

HEAD = """# API

Everything public, written from the code. Durations are seconds or `timedelta`; keys are a `str` or a tuple
`(scope, ..., key)`. The [guide](guide.md) shows how it goes together.
"""

OPENING = ["open", "open_async", "register", "schemes", "fingerprint"]
OUTCOMES = ["Claimed", "InFlight", "Completed", "Failed", "Mismatch", "Abandoned", "Done", "LeaseLost"]
OPERATIONS = [
    *("claim", "complete", "fail", "renew", "release"),
    *("claim_many", "complete_many", "fail_many", "renew_many", "release_many"),
    *("get", "forget", "purge", "ping", "migrate", "on", "wrapped", "close"),
]
GUARD = [
    *("Guard", "AsyncGuard", "Policy", "Keep", "Retry", "Release", "StoreDown", "LeaseLoss"),
    *("operation", "async_operation", "Operation", "AsyncOperation", "Batch", "AsyncBatch", "Item"),
]


def prose(thing: object) -> str:
    """A docstring as Markdown; names in double backticks become code."""
    text = inspect.cleandoc(thing.__doc__ or "")
    return re.sub(r"``(.+?)``", r"`\1`", text)


def signature(name: str, thing: object) -> str:
    """How it is called, one parameter to a line where it is long."""
    text = str(inspect.signature(thing)).replace("(self, ", "(").replace("(self)", "()")
    text = re.sub(r"idemstore\.\w+\.|datetime\.|collections\.abc\.", "", text).replace("'", "")
    line = f"{name}{text}"
    if len(line) <= 100:
        return line
    inside, _, answer = text[1:].rpartition(")")
    parts = re.split(r", (?![^\[(]*[\])])", inside)
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){answer}"


def entry(name: str, thing: object, level: str = "###", called: str | None = None) -> str:
    """A heading, the signature, the docstring."""
    return f"{level} `{called or name}`\n\n```text\n{signature(name, thing)}\n```\n\n{prose(thing)}\n"


def value(kind: type) -> str:
    """A dataclass or named tuple: its fields and what it says."""
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    else:
        names = list(getattr(kind, "_fields", ()))
    fields = f"({', '.join(names)})" if names else "()"
    text = f"### `{kind.__name__}{fields}`\n\n{prose(kind)}\n"
    extra = [name for name, member in vars(kind).items() if isinstance(member, property)]
    return text + "".join(f"\n- `.{name}`: {prose(vars(kind)[name])}" for name in extra) + ("\n" if extra else "")


def error_rows() -> str:
    """The errors, as a tree, with when they come and what they carry."""
    rows = ["| error | meaning | retryable | HTTP |", "|---|---|---|---|"]

    def walk(kind: type[errors.IdemstoreError], depth: int) -> None:
        meaning = " ".join(prose(kind).split())
        retry = "yes" if kind.retryable else "no"
        rows.append(f"| {'&nbsp;&nbsp;' * depth}`{kind.__name__}` | {meaning} | {retry} | {kind.status} |")
        for below in kind.__subclasses__():
            if below.__module__ == errors.__name__:
                walk(below, depth + 1)

    walk(errors.IdemstoreError, 0)
    return "\n".join(rows) + "\n"


def written() -> str:
    """The page."""
    parts = [HEAD, "## Open\n"]
    parts += [entry(name, getattr(idemstore, name), called=f"idemstore.{name}") for name in OPENING]
    parts += ["## Store and AsyncStore\n", prose(Store) + "\n"]
    parts += ["`AsyncStore` has the same operations as coroutines, and belongs to one event loop.\n"]
    parts += ["Attributes: `limits` (what the store takes), `timeout` (per call), `name` (its URL, without secrets).\n"]
    parts += [entry(name, getattr(Store, name), called=f"store.{name}") for name in OPERATIONS]
    parts += [value(idemstore.Completion), value(idemstore.Failure), value(idemstore.Renewal)]
    parts += ["## Outcomes\n", "`ClaimOutcome` is what `claim` answers, `SettleOutcome` what the others do.\n"]
    parts += [value(getattr(idemstore, name)) for name in OUTCOMES]
    parts += ["## Records\n", value(Snapshot), value(Record)]
    parts += [f"### `State`\n\n{prose(State)}\n\n" + "\n".join(f"- `{one.name}`: {one.value}" for one in State) + "\n"]
    parts += [value(Limits)]
    parts += ["## Guard\n"]
    parts += [f"### `idemstore.{name}`\n\n{prose(getattr(idemstore, name))}\n" for name in GUARD]
    parts += [api_http.written()]
    parts += ["## Errors\n", "All in `idemstore.errors`. HTTP is a hint for adapters.\n", error_rows()]
    parts += ["## Testing\n", f"### `idemstore.testing.contract.StoreContract`\n\n{prose(contract)}\n"]
    parts += [f"### `idemstore.testing.subject.Subject`\n\n{prose(subject)}\n"]
    return "\n".join(parts)


def test_the_page_is_current():
    """What changes in a signature or docstring changes on the page."""
    assert PAGE.read_text() == written(), "run: python tests/docs/test_api.py"


def test_everything_public_is_on_the_page():
    """No public name, and no operation of a store, is missing."""
    text = written()
    for name in [*idemstore.__all__, *http.__all__]:
        assert re.search(rf"\b{name}\b", text), name
    operations = [name for name, member in vars(Store).items() if inspect.isfunction(member) and name[0] != "_"]
    assert sorted(set(operations) - {"after_fork"}) == sorted(OPERATIONS)


if __name__ == "__main__":
    PAGE.write_text(written())
