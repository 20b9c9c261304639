"""``docs/http.md`` says what the code says."""

import dataclasses
import re
from pathlib import Path

from idemstore.http import HttpPolicy, Problem, presets, single_tenant

PAGE = (Path(__file__).parent.parent.parent / "docs" / "http.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_field_of_the_policy_is_in_its_table():
    """In order, none else."""
    names = [field.name for field in dataclasses.fields(HttpPolicy) if field.init]
    assert [re.findall(r"`(\w+)`", row[0])[0] for row in rows("The policy")] == names


def test_defaults_are_as_the_table_says():
    """Those that are numbers."""
    policy = HttpPolicy(scope=single_tenant())
    for name, default, *_ in rows("The policy"):
        if default.isdigit():
            assert getattr(policy, name.strip("`")) == int(default), name
    assert policy.retention == policy.failure_retention == 86400
    assert policy.max_request == policy.max_response == 2**20


def test_every_problem_is_in_the_table_of_requests():
    """But for the failed retry time, which HTTP records never have."""
    named = {word for row in rows("What happens to a request") for word in re.findall(r"`([\w-]+)`", row[-1])}
    assert named == {str(one) for one in Problem} - {"retry-later"}


def test_every_preset_is_in_the_table_of_apis():
    """By its name."""
    head = next(line for line in PAGE.splitlines() if line.startswith("| | A"))
    assert all(callable(getattr(presets, name)) for name in re.findall(r"`(\w+)`", head))
    assert len(re.findall(r"`(\w+)`", head)) == 6


def test_every_problem_is_explained():
    """What a client does about it: each word once, none else."""
    table = PAGE.partition("\n### Problems\n")[2].partition("\n## ")[0]
    words = [
        word
        for line in table.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`([a-z-]+)`", line.split(" | ")[0])
    ]
    assert sorted(words) == sorted(Problem)
    assert f"`{HttpPolicy(scope=single_tenant()).problem_base}`" in table
