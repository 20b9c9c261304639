"""The section on HTTP of ``docs/api.md``, written from the source: frameworks need not be there to be described."""

import ast
import inspect
import re

from pages import ROOT

from idemstore.http.problems import TITLES

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef

HEAD = """## HTTP

In `idemstore.http`; [HTTP](http.md) says what it does, [Frameworks](frameworks.md) how it is put into an application.
Framework helpers and clients are modules of their own, with an extra of the same name.
"""

CHOICES = [
    *("body_fingerprint", "json_fingerprint", "keep_client_errors", "keep_success", "keep_everything", "keep_but"),
    "single_tenant",
]
POLICY = [
    *("key", "plan", "identify", "meet", "rewritten", "replayed", "settle"),
    *("failure", "trouble", "lost", "incomplete"),
]
PRESETS = ["meeting_bots", "voice_agents", "transcriptions", "meeting_recorder", "stripe", "ietf"]
MODULES: dict[str, dict[str, list[str]]] = {
    "asgi": {"IdempotencyMiddleware": []},
    "wsgi": {"IdempotencyMiddleware": []},
    "fastapi": {"Idempotency": ["install", "on", "off"], "IdempotencyMiddleware": []},
    "starlette": {"IdempotencyMiddleware": []},
    "flask": {"Idempotency": ["init_app", "on", "off"], "IdempotencyMiddleware": []},
    "django": {"IdempotencyMiddleware": [], "user_scope": [], "operation_of": []},
    "views": {"idempotent": [], "not_idempotent": []},
    "powertools": {"IdemstorePersistenceLayer": []},
    "client": {
        "new_key": [],
        "derived_key": [],
        "job_key": [],
        "StoredKeys": ["key"],
        "AsyncStoredKeys": ["key"],
        "sending": [],
        "current_key": [],
        "KeyHeader": [],
    },
    "httpx": {"IdempotencyTransport": [], "AsyncIdempotencyTransport": [], "IdempotencyAuth": []},
    "requests": {"IdempotencyAdapter": [], "IdempotencyAuth": []},
}
CALLED = {"views": "idemstore.http.starlette`, `idemstore.http.flask`, `idemstore.http.django"}


class Source:
    """One module of ``idemstore/http``."""

    def __init__(self, name: str, folder: str = "idemstore/http") -> None:
        self.tree = ast.parse((ROOT / folder / f"{name}.py").read_text())

    def find(self, name: str) -> ast.ClassDef | FUNCTION:
        """A class or function."""
        return find(self.tree.body, name)


def find(body: list[ast.stmt], name: str) -> ast.ClassDef | FUNCTION:
    """The class or function of this name."""
    for node in body:
        if isinstance(node, ast.ClassDef | FUNCTION) and node.name == name:
            return node
    raise LookupError(name)


def prose(node: ast.ClassDef | FUNCTION | ast.Module) -> str:
    """A docstring as Markdown; names in double backticks become code."""
    return re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(ast.get_docstring(node) or ""))


def signature(name: str, node: FUNCTION) -> str:
    """How it is called, one parameter to a line where it is long."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    answer = "" if node.returns is None or node.name == "__init__" else f" -> {_unquoted(node.returns)}"
    inside = ast.unparse(arguments)
    line = f"{name}({inside}){answer}"
    if len(line) <= 100:
        return line
    parts = re.split(r", (?![^\[(]*[\])])", inside)
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){answer}"


def _unquoted(annotation: ast.expr) -> str:
    """An annotation, without the quotes that some need."""
    quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return annotation.value if quoted else ast.unparse(annotation)


def called(name: str, node: ast.ClassDef | FUNCTION) -> str:
    """The signature of a function, or of what makes a class; none where a class has none of its own."""
    if not isinstance(node, ast.ClassDef):
        return block(signature(name, node))
    made = [one for one in node.body if isinstance(one, FUNCTION) and one.name == "__init__"]
    if made:
        return block(signature(name, made[0]))
    found = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    if not found:
        return ""
    return block(f"{name}(\n" + "".join(f"    {ast.unparse(one)},\n" for one in found) + ")")


def block(text: str) -> str:
    """As code."""
    return f"\n```text\n{text}\n```\n"


def members(node: ast.ClassDef) -> str:
    """The members of an enumeration, each with what is said below it."""
    lines = []
    for one, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            said = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            text = re.sub(r"``(.+?)``", r"`\1`", " ".join(str(said).split()))
            lines.append(f"- `{one.targets[0].id}`" + (f": {text}" if text else ""))
    return "\n".join(lines)


def entry(module: str, name: str, inner: list[str], *, level: str = "####") -> str:
    """A heading, the signature, the docstring; and the same for the methods that are named."""
    node = Source(module).find(name)
    text = f"{level} `{name}`\n{called(name, node)}\n{prose(node)}\n"
    if isinstance(node, ast.ClassDef):
        for method in inner:
            found = find(node.body, method)
            assert not isinstance(found, ast.ClassDef)
            text += f"\n- `{signature(f'.{method}', found)}`: {' '.join(prose(found).split())}"
    return text + ("\n" if inner else "")


def policy() -> str:
    """The policy: its fields have a table on the page about HTTP."""
    node = Source("policy").find("HttpPolicy")
    assert isinstance(node, ast.ClassDef)
    text = f"### `HttpPolicy`\n\n{prose(node)}\n\nIts fields: [the policy](http.md#the-policy). What adapters ask it:\n"
    for name in POLICY:
        found = find(node.body, name)
        assert not isinstance(found, ast.ClassDef)
        text += f"\n#### `policy.{name}`\n{block(signature(name, found))}\n{prose(found)}\n"
    return text


def written() -> str:
    """The section."""
    parts = [
        HEAD,
        policy(),
        "### Facts\n",
        entry("facts", "Request", ["header"]),
        entry("facts", "Response", ["header"]),
    ]
    parts += ["### Choices\n", *(entry("choices", name, []) for name in CHOICES), entry("routes", "paths", [])]
    for module, name in (
        *(("choices", "OnMismatch"), ("choices", "Fate"), ("choices", "LargeRequest")),
        *(("keyformat", "Quoting"), ("keyformat", "KeyFormat")),
    ):
        node = Source(module).find(name)
        assert isinstance(node, ast.ClassDef)
        said = members(node)
        made = "" if said else called(name, node)
        parts += [f"#### `{name}`\n{made}\n{prose(node)}\n" + (f"\n{said}\n" if said else "")]
    parts += ["### Problems\n", "`Problem` has the words; `type` is `HttpPolicy.problem_base` and one of them.\n"]
    parts += ["| word | title |\n|---|---|\n" + "".join(f"| `{one}` | {title} |\n" for one, title in TITLES.items())]
    parts += ["### `idemstore.http.presets`\n", *(entry("presets", name, []) for name in PRESETS)]
    for module, names in MODULES.items():
        parts += [f"### `{CALLED.get(module, f'idemstore.http.{module}')}`\n"]
        parts += [entry(module, name, inner) for name, inner in names.items()]
    contract = Source("adapters", "idemstore/testing")
    parts += ["### `idemstore.testing.adapters.AdapterContract`\n", prose(contract.tree) + "\n"]
    return "\n".join(parts)
