"""Names and SQL texts of one schema: a table, and the functions that carry its version in their names.

Owns everything that is said in SQL. The texts are in ``sql/``, one function or statement each; what stands in braces
there is filled in here: quoted names, and the few expressions that several texts share.
"""

import hashlib
import re
from functools import cached_property
from importlib.resources import files
from typing import Final, NamedTuple

from idemstore.errors import InvalidUrl

VERSION: Final = 1
"""Of table and functions. Every released change to ``sql/`` counts it up; functions of older versions stay."""

FUNCTIONS: Final = (
    "delayed",
    "settled",
    "claim",
    "complete",
    "fail",
    "renew",
    "release",
    "many",
    "purge",
    "forget",
    "get",
    "notified",
)
"""In the order in which they are created."""

LAG: Final = 300_000_000
"""By how much (microseconds) the indexed time of a row may lag behind its end, so that executions stay HOT updates."""

INSTANT: Final = 100
"""Microseconds; no life of a key is shorter (whoever deletes its row waits until it is as old). So a fence taken from
the clock less than that before its row went in is greater than those of all earlier lives. Longer than nearly every
insert takes, and shorter than a client needs to release what it has claimed: hardly anything waits or is written twice.
"""

BRIEF: Final = 50
"""Milliseconds. How long a batch of calls that are strangers to each other may wait for one lock."""

_LONGEST_SUFFIX: Final = max(map(len, FUNCTIONS)) + len(f"__v{VERSION}")
MAX_NAME: Final = 63
MAX_TABLE: Final = MAX_NAME - _LONGEST_SUFFIX - 2
_NOW: Final = "(date_part('epoch', {}) * 1000000)::bigint"

_IDENTIFIED: Final = "@fence > 0 AND @attempt > 0 AND @token <> ''"
_RUNNING: Final = "@lease_until IS NOT NULL AND @retry_at IS NULL AND @result IS NULL"
_COMPLETED: Final = "@lease_until IS NULL AND @retry_at IS NULL AND @result IS NOT NULL AND @checkpoint IS NULL"
_SOUND: Final = f"""
    {_IDENTIFIED} AND CASE @state
        WHEN 1 THEN {_RUNNING}
        WHEN 2 THEN {_COMPLETED}
        WHEN 3 THEN @lease_until IS NULL AND @result IS NOT NULL
        ELSE false END"""
"""What every record of ours satisfies, and every function asks of what it reads: a damaged row is never taken for an
absent key. Not a CHECK of the table: that costs every write a quarter more (measured), since the server reads the text
of a constraint anew for each statement, and our functions write nothing else anyway."""


class Statement(NamedTuple):
    """A statement, and the types of its parameters: t(ext), b(ytea), i(nteger of 8 bytes), f(lag); capitals: arrays."""

    name: str
    sql: str
    types: str = ""
    slow: bool = False
    """Whether it may take longer than the store's time-out."""


class Schema:
    """One table and its functions, in one schema of the database."""

    def __init__(self, schema: str, table: str, *, notify: bool = False, prepared: bool = True) -> None:
        """Names of any characters but NUL; they are quoted wherever they are said. ``notify``: whether those who listen
        are told what ends a wait. ``prepared``: whether connections keep the plans of statements.
        """
        _check("schema", schema, MAX_NAME)
        _check("table", table, MAX_TABLE)
        self.schema, self.table = schema, table
        self.qualified = f"{identifier(schema)}.{identifier(table)}"
        self._notify = notify
        self.claim = self._claim("ttbiif") if prepared else self._call("claim", "ttbiif", "NULL")
        self.complete = self._told("complete", "ttbi")
        self.fail = self._told("fail", "ttbii")
        self.renew = self._call("renew", "ttib")
        self.release = self._told("release", "tt")
        self.purge = self._call("purge", "i")
        self.forget = self._told("forget", "t")
        self.get = Statement("get", f"SELECT * FROM {self._function('get')}($1)", "t")  # noqa: S608 - names are quoted
        self.many = Statement("many", self._many(), "TTTBIIF")
        self.many_briefly = Statement("many_briefly", self._many(brief=True), "TTTBIIFf")
        self.inspect = Statement("inspect", self._text("inspect"))
        self.busy = Statement("busy", self._text("busy"), "T")

    @cached_property
    def migrate(self) -> Statement:
        """Creates what is missing: one statement, so all or nothing even through a pooler."""
        known = self._known("_token", "_fingerprint", "_at")
        functions = ";\n".join(self._text(name, known=known) for name in FUNCTIONS)
        text = self._text("migrate", create_table=self._text("table"), create_functions=f"{functions};")
        return Statement("migrate", text, slow=True)

    @property
    def grants(self) -> str:
        """What a role needs to use the store, as SQL."""
        return (
            f"GRANT USAGE ON SCHEMA {identifier(self.schema)} TO role; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {self.qualified} TO role "
            "(and EXECUTE on its functions, where that was revoked from PUBLIC)"
        )

    @property
    def grants_to_migrate(self) -> str:
        """What a role needs to create table and functions, as SQL."""
        return (
            f"GRANT USAGE, CREATE ON SCHEMA {identifier(self.schema)} TO role, and to own the table and its functions "
            "where they exist; run the migration as their owner"
        )

    def _function(self, name: str) -> str:
        """Qualified and quoted."""
        return f"{identifier(self.schema)}.{identifier(self._plain(name))}"

    def _plain(self, name: str) -> str:
        """A function's name as the catalog has it."""
        return f"{self.table}_{name}_v{VERSION}"

    def _claim(self, types: str) -> Statement:
        """A look, and the call of the function only where that is needed. To plan it takes longer than to call."""
        return Statement("claim", self._text("ask", known=self._known("$2", "$3", "clock.at")), types)

    def _known(self, token: str, fingerprint: str, at: str) -> str:
        """What a look at a record tells whoever claims it, as an expression."""
        return self._text("known", token=token, fingerprint=fingerprint, at=at)

    def _call(self, name: str, types: str, *constants: str) -> Statement:
        """The call of a function that answers one value."""
        places = ", ".join((*(f"${number}" for number in range(1, len(types) + 1)), *constants))
        return Statement(name, f"SELECT {self._function(name)}({places})", types)

    def _many(self, brief: bool = False) -> str:
        """The call of the function that applies a batch; ``brief``: it fails rather than wait long for a lock. That
        bound is set for this statement alone, before the function begins, since its first argument sets it.
        """
        key, what = "($2::text[])[place]", "($1::text[])[place]"
        told = f"CASE WHEN {what} = 'renew' THEN reply ELSE {self._notified(key, 'reply')} END"
        reply = told if self._notify else "reply"
        bound = f"CASE WHEN set_config('lock_timeout', '{BRIEF}', true) IS NOT NULL THEN $1::text[] END"
        first, last = (bound, "$8") if brief else ("$1", "false")
        return f"SELECT {reply} FROM {self._function('many')}({first}, $2, $3, $4, $5, $6, $7, {last}) ORDER BY place"  # noqa: S608

    def _told(self, name: str, types: str) -> Statement:
        """The call of a function whose success others may wait for."""
        call = self._call(name, types)
        if not self._notify:
            return call
        return call._replace(sql=f"SELECT {self._notified('$1', call.sql.removeprefix('SELECT '))}")

    def _notified(self, key: str, reply: str) -> str:
        """A reply, passed on through the function that tells."""
        return f"{self._function('notified')}({key}, {reply})"

    @property
    def channel(self) -> str:
        """Where those listen who wait for keys of this table."""
        return f"idemstore_{self._seed & (2**64 - 1):016x}"

    @cached_property
    def listen(self) -> Statement:
        """Begin to hear."""
        return Statement("listen", f"LISTEN {self.channel}")

    def _text(self, name: str, **more: str) -> str:
        """A file of ``sql/``, without its comment, filled in. One pass: what is filled in is never read again."""
        text = files(__name__.rpartition(".")[0]).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
        lines = (line for line in text.splitlines() if not line.startswith("--"))
        body = "\n".join(lines).strip().rstrip(";")
        return _BRACES.sub(lambda match: self._fill(match[1], match[2] or "", more), body)

    def _fill(self, word: str, rest: str, more: dict[str, str]) -> str:
        """What stands for ``{word rest}``."""
        if word in more:
            return more[word]
        if word in FUNCTIONS:
            return self._function(word)
        if word in _EXPRESSIONS:
            return _EXPRESSIONS[word].replace("@", rest)
        return self._names[word] if word != "lock" else f"hashtextextended({rest}, {self._seed})"

    @cached_property
    def _seed(self) -> int:
        """Sets this table's advisory locks apart from those of others in the same database."""
        digest = hashlib.sha256(f"idemstore {self.qualified}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The names, quoted for each use, and the constants."""
        functions = ", ".join(literal(self._plain(name)) for name in FUNCTIONS)
        return {
            "schema": identifier(self.schema),
            "schema_text": literal(self.schema),
            "table": self.qualified,
            "table_text": literal(self.table),
            "table_literal": literal(self.qualified),
            "claim_literal": literal(self._function("claim")),
            "primary_key": identifier(f"{self.table}_pkey"),
            "due_index": identifier(f"{self.table}_due"),
            "functions": f"ARRAY[{functions}]::name[]",
            "seed": str(self._seed),
            "version": str(VERSION),
            "lag": str(LAG),
            "channel": self.channel,
            "instant": str(INSTANT),
            "body": self._dollars("body"),
            "quote": self._dollars("migration"),
        }

    def _dollars(self, tag: str) -> str:
        """A dollar quote that no name can end."""
        while tag in self.qualified:
            tag += "_"
        return f"${tag}$"


_BRACES: Final = re.compile(r"\{(\w+)(?: ([^{}]*))?\}")
_EXPRESSIONS: Final = {
    "clock": _NOW.format("clock_timestamp()"),
    "statement_clock": _NOW.format("statement_timestamp()"),
    "sound": _SOUND,
    "identified": _IDENTIFIED,
    "running": _RUNNING,
    "completed": _COMPLETED,
    "owned": f"@state = 1 AND (@expires_at > _at) IS NOT FALSE AND {_SOUND}",
    "due": f"CASE WHEN @ - t.due BETWEEN 0 AND {LAG} THEN t.due ELSE @ END",
}
"""``@`` stands for what follows the word: a prefix of columns, or an expression."""


def identifier(name: str) -> str:
    """A name, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string, quoted, whatever ``standard_conforming_strings`` says."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f" E'{escaped}'" if "\\" in text else f"'{escaped}'"


def _check(what: str, name: str, longest: int) -> None:
    """A name that PostgreSQL takes as it is, without cutting it off."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= longest or "\0" in name:
        raise InvalidUrl(f"option {what!r} is a name of 1 to {longest} bytes without NUL")
