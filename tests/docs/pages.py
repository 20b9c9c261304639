"""Reads the pages of the documentation: their code blocks, by language."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```\s*$", re.DOTALL | re.MULTILINE
)
_FILE = re.compile(r"# file: (?P<name>[\w./-]+)\n")


class Block(NamedTuple):
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is a part of, if its first line names one."""
        found = _FILE.match(self.text)
        return found["name"] if found else None


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] in languages:
            line = text.count("\n", 0, match.start("text"))
            found.append(Block(page.name, line, match["language"], match["text"]))
    return found
