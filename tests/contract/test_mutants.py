"""The contract itself under test: it must find every fault that is put into the memory family."""

from collections.abc import Callable

import pytest

from idemstore.testing.contract_lab import MODES, Mode
from idemstore.testing.mutants import MUTANTS, UNMUTATED, Mutant, catch


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("test", UNMUTATED.tests)
def test_unmutated_store_passes(mode: Mode, test: str) -> None:
    """What the mutants must fail, the sound store passes through the same runner."""
    assert catch(UNMUTATED, mode, test) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name.replace(" ", "-") for mutant in MUTANTS])
def test_mutant_is_caught(mutant: Mutant, record_property: Callable[[str, object], None]) -> None:
    """Every test that a mutant names fails on it, by an assertion, in both modes."""
    missed = [f"{test} ({mode})" for test in mutant.tests for mode in MODES if catch(mutant, mode, test) is None]
    record_property("idemstore-mutant", not missed)
    assert not missed, f"the mutant {mutant.name!r} passes {', '.join(missed)}"
