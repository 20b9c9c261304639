"""The contract itself under test: it must find every fault that is put into the memory family."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from idemstore.testing.contract_lab import MODES, Mode
from idemstore.testing.mutants import MUTANTS, UNMUTATED, Mutant, catch, found_by_model

SEQUENTIAL = [mutant for mutant in MUTANTS if mutant.sequential]


def name(mutant: Mutant) -> str:
    """For test ids."""
    return mutant.name.replace(" ", "-")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("test", UNMUTATED.tests)
def test_unmutated_store_passes(mode: Mode, test: str) -> None:
    """What the mutants must fail, the sound store passes through the same runner."""
    assert catch(UNMUTATED, mode, test) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=name)
def test_mutant_is_caught(mutant: Mutant, record_property: Callable[[str, object], None]) -> None:
    """Every test that a mutant names fails on it, by an assertion, in both modes."""
    runs = [(test, mode) for test in mutant.tests for mode in MODES]
    with ThreadPoolExecutor(2) as pool:
        caught = list(pool.map(lambda run: catch(mutant, run[1], run[0]), runs))
    missed = [f"{test} ({mode})" for (test, mode), said in zip(runs, caught, strict=True) if said is None]
    record_property("idemstore-mutant", not missed)
    assert not missed, f"the mutant {mutant.name!r} passes {', '.join(missed)}"


@pytest.mark.parametrize("mutant", SEQUENTIAL, ids=name)
def test_model_finds_the_mutant(mutant: Mutant) -> None:
    """What a sequence of calls can show, the Hypothesis model finds by itself."""
    assert found_by_model(mutant)
