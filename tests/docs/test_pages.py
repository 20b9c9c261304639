"""What is not Python in the README and the docs: links, commands, the table of families."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks

from idemstore.registry import BUILT_IN

ALL = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code forges make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    """Every relative link names a file that is there, and a heading in it."""
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(place), f"{page.name}: {target}"


def commands() -> list[tuple[str, str]]:
    """Every call of the command line in a shell block, or in backticks, with its page."""
    found = []
    for page in ALL:
        text = page.read_text()
        shell = "\n".join(block.text for block in blocks(page, "sh", "console", "bash"))
        lines = [*shell.splitlines(), *re.findall(r"`([^`\n]+)`", text)]
        found += [(page.name, line) for line in lines if re.search(r"(^|/|\$ )idemstore( |$)", line)]
    return found


def test_commands_exist():
    """Every subcommand and option of ``idemstore`` that a page shows is known to ``--help``."""
    helps: dict[str, str] = {}
    shown = commands()
    assert len(shown) > 5
    for page, line in shown:
        words = re.split(r"\bidemstore\b", line, maxsplit=1)[1].split()
        while words and words[0] == "--plugin":
            words = words[2:]
        name = words[0] if words and not words[0].startswith("-") else ""
        if name not in helps:
            command = [sys.executable, "-m", "idemstore", *([name] if name else []), "--help"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, f"{page}: {line}: {done.stderr}"
            helps[name] = done.stdout
        for option in re.findall(r"--[a-z-]+", " ".join(words)):
            assert option in helps[name], f"{page}: {line}: no option {option}"


def test_the_readme_names_the_families_that_there_are():
    """The table has each built-in family, no other, and each has its page."""
    table = (ROOT / "README.md").read_text().partition("## Families")[2].partition("\n## ")[0]
    shown = {scheme.partition("+")[0] for scheme in re.findall(r"`([a-z+]+)://", table)}
    families = {scheme.partition("+")[0] for scheme in BUILT_IN} - {"unix"}
    assert shown - {"valkeys"} == families - {"valkeys"}
    for page in ("memory", "sqlite", "redis"):
        assert f"docs/{page}.md" in table


def test_extras_in_the_docs_exist():
    """``pip install 'idemstore[...]'`` names an extra that is there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in ALL:
        for extra in re.findall(r"idemstore\[([\w,-]+)\]", page.read_text()):
            assert set(extra.split(",")) <= set(extras), f"{page.name}: {extra}"


def test_options_in_the_docs_exist():
    """The table of a family's page names the options that the family reads, all of them, with their defaults."""
    from idemstore.backends.memory import MemoryOptions

    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "memory.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(MemoryOptions.__dataclass_fields__)
