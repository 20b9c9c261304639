"""The contract by Hypothesis, and by storms."""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from idemstore.testing.contract_lab import Lab
from idemstore.testing.model import model_of


class ModelContract:
    """Any sequence of operations is answered as ``machine.step`` answers it."""

    examples = 100
    """How many sequences a run tries, per subject and mode; IDEMSTORE_EXAMPLES overrides it."""

    def test_model(self, lab: Lab) -> None:
        """The Hypothesis model, with ``machine.step`` on the other side."""
        count = int(os.environ.get("IDEMSTORE_EXAMPLES") or self.examples)
        run_state_machine_as_test(
            model_of(lab),
            settings=settings(
                max_examples=count,
                stateful_step_count=25,
                deadline=None,
                print_blob=True,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
