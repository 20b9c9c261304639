"""The contract by Hypothesis: any sequence of operations, against ``machine.step``."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from idemstore.testing.contract_lab import Lab
from idemstore.testing.model import examples, model_of


class ModelContract:
    """Any sequence of operations is answered as ``machine.step`` answers it."""

    def examples(self, lab: Lab) -> int:
        """How many sequences a run tries, per subject and mode; IDEMSTORE_EXAMPLES overrides it."""
        return 100

    def test_model(self, lab: Lab, record_property: Callable[[str, object], None]) -> None:
        """The Hypothesis model; a failure prints the shortest sequence that shows it, and how to repeat it."""
        asked = int(os.environ.get("IDEMSTORE_EXAMPLES") or self.examples(lab))
        name = (lab.subject.name, lab.mode)
        before = examples[name]
        try:
            run_state_machine_as_test(
                model_of(lab),
                settings=settings(
                    max_examples=asked,
                    stateful_step_count=40,
                    deadline=None,
                    print_blob=True,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            record_property("idemstore-examples", f"{' '.join(name)}: {examples[name] - before} examples")
