"""The diagram in the docs is the one that the machine draws. ``python tests/docs/test_diagram.py`` draws it anew."""

import re

from pages import ROOT

from idemstore.machine import diagram

PAGE = ROOT / "docs" / "guarantees.md"
PLACE = re.compile(r"(<!-- diagram: begin [^\n]*-->\n```mermaid\n)(.*?)(```\n<!-- diagram: end -->)", re.DOTALL)


def drawn(text: str) -> str:
    """The page with a diagram that is current."""
    return PLACE.sub(lambda found: found[1] + diagram() + found[3], text)


def test_the_diagram_is_current():
    """A transition that changes in the machine changes in the docs."""
    text = PAGE.read_text()
    assert PLACE.search(text)
    assert text == drawn(text), "run: python tests/docs/test_diagram.py"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
