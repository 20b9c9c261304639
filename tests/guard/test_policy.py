"""``Policy``: what it refuses when it is made, and what it makes of an exception."""

from datetime import timedelta

import pytest

from idemstore import Keep, LeaseLoss, Policy, Release, Retry, StoreDown
from idemstore.errors import ConfigurationError, InvalidInput


@pytest.mark.parametrize(
    "fields",
    [
        {"lease": 0},
        {"lease": None},
        {"lease": -1},
        {"retention": 0},
        {"failure_retention": "day"},
        {"wait": -1},
        {"wait": 10**6},
        {"back_off": -1},
        {"back_off": 100, "failure_retention": 10},
        {"max_back_off": None},
        {"back_off": 7200},
        {"final": ValueError},
        {"final": [ValueError]},
        {"release": ("ValueError",)},
        {"retryable": (ValueError(),)},
        {"retryable": None},
        {"judge": "keep"},
        {"store_down": "proceed"},
        {"lease_loss": True},
        {"takeover": "no"},
        {"takeover": 1},
        {"heartbeat": None},
        {"heartbeat": 10},
    ],
)
def test_bad_fields(fields):
    """Refused when the policy is made, not at the first failure."""
    with pytest.raises((InvalidInput, ConfigurationError)):
        Policy(**fields)


def test_durations():
    """Seconds or timedelta."""
    policy = Policy(
        lease=timedelta(minutes=1), retention=None, wait=timedelta(seconds=2), back_off=timedelta(seconds=3)
    )
    assert policy.lease_seconds == 60
    assert Policy(retryable=(OSError,), back_off=timedelta(seconds=3)).verdict(OSError()) == Retry(3)


def test_verdicts():
    """The classes go in the order final, release, retryable; subclasses count."""
    policy = Policy(final=(LookupError,), release=(KeyError, OSError), retryable=(OSError, ValueError), back_off=5)
    assert policy.verdict(KeyError()) == Keep()
    assert policy.verdict(FileNotFoundError()) == Release()
    assert policy.verdict(UnicodeError()) == Retry(5)
    assert policy.verdict(ZeroDivisionError()) == Retry(0)
    assert policy.verdict(KeyboardInterrupt()) == Retry(0)


def test_back_off_doubles():
    """With each attempt, up to its bound and to the retention; however many attempts there were."""
    policy = Policy(retryable=(OSError,), back_off=1, max_back_off=100, failure_retention=60)
    pauses = [policy.verdict(OSError(), attempt) for attempt in (1, 2, 3, 4, 7, 8, 1000, 10**9)]
    assert pauses == [Retry(after) for after in (1, 2, 4, 8, 60, 60, 60, 60)]
    kept = Policy(retryable=(OSError,), back_off=1, failure_retention=None)
    assert kept.verdict(OSError(), 10**6) == Retry(3600)


def test_defaults_are_the_safe_ones():
    """Refuse when the store is down, finish what runs, wait for nobody, keep a day."""
    policy = Policy()
    assert (policy.store_down, policy.lease_loss) == (StoreDown.REFUSE, LeaseLoss.FINISH)
    assert (policy.wait, policy.retention, policy.takeover, policy.heartbeat) == (0, 86400, True, True)
