"""docs/dynamodb.md: its examples run, its options are those of the URL, its policy names what is called."""

import dataclasses
import json
import re
from pathlib import Path

import idemstore
from idemstore.backends.dynamodb import dialect
from idemstore.backends.dynamodb.settings import DynamoDBOptions
from idemstore.testing.families.dynamodb import url_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "dynamodb.md"
URL = "dynamodb+http://127.0.0.1:8000/idemstore?region=eu-central-1"
SOURCES = [path.read_text() for path in Path(dialect.__file__).parent.glob("*.py")]


def fenced(language):
    """The code blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_examples_run(server_pool, monkeypatch):
    """The page is one program, on a table of its own."""
    server = server_pool.get("dynamodb")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    url = url_of(server.url, "idemstore")
    endpoint = server.endpoints["endpoint"]
    names = {"__name__": "example"}
    for block in fenced("py"):
        exec(block.replace(URL, url).replace("http://127.0.0.1:8000", endpoint), names)  # fmt: skip
    names["store"].close()
    names["dynamodb"].delete_table(TableName="idemstore")
    names["dynamodb"].close()


def test_options():
    """Every option of the URL is in the table, and no other."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(set(rows) - {"get", "transact_item"}) == sorted(
        field.name for field in dataclasses.fields(DynamoDBOptions)
    )


def test_policy_names_what_is_called():
    """The actions of the policy are the calls in the code."""
    (policy,) = map(json.loads, fenced("json"))
    allowed = {action.removeprefix("dynamodb:") for part in policy["Statement"] for action in part["Action"]}
    called = set(re.findall(r'(?:Request|fixed|_batch)\(\s*"(\w+)"', "\n".join(SOURCES)))
    called |= {"get_item"}
    assert {"".join(word.title() for word in name.split("_")) for name in called} == allowed


def test_limits():
    """The limits on the page are those of the code."""
    text = PAGE.read_text()
    store = idemstore.open("dynamodb:///idem?region=eu-central-1")
    assert f"{store.limits.key_bytes:,} bytes" in text
    assert store.limits.value_bytes == 4 * 2**20
    assert f"{dialect.CHECKPOINT:,} bytes" in text
    assert f"{dialect.WHOLE:,} bytes" in text
