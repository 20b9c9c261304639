"""The server's clock as a client knows it: readings always hold the true time, whatever clients and networks do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemstore.backends.dynamodb.clock import STALE, Reading, ServerClock, Window, local_clock, parse_date
from idemstore.errors import StoreUnavailable
from idemstore.machine import MICROSECONDS

SECOND = MICROSECONDS
DAY = 86_400 * SECOND


def dated(true: int) -> int:
    """What a Date header says at a moment: the second, cut."""
    return true // SECOND * SECOND


def test_a_clock_that_nobody_told_is_unknown():
    """Without a response there is no reading, and it says what to do."""
    clock = ServerClock(0)
    assert not clock.fresh(local_clock())
    with pytest.raises(StoreUnavailable, match=r"ping\(\)"):
        clock.read(local_clock())


def test_one_response_bounds_the_time():
    """The header's second, widened by the round trip, lies between early and late."""
    clock = ServerClock(0)
    clock.observe(100 * SECOND, 5_000, 7_000)
    assert clock.read(7_000) == Reading(100 * SECOND, 101 * SECOND + 2_000)


def test_responses_narrow_each_other():
    """One response just before a full second and one just behind it leave a few milliseconds."""
    clock = ServerClock(0)
    offset = 1_000 * SECOND
    for true in (1_005_998_000, 1_006_001_000):
        clock.observe(dated(true), true - offset - 500, true - offset + 500)
    reading = clock.read(6_002_000)
    assert reading.early <= offset + 6_002_000 <= reading.late
    assert reading.late - reading.early < 5_000


def test_margin_widens_both_sides():
    """The stated margin stands on either side."""
    plain, wide = ServerClock(0), ServerClock(300_000)
    for clock in (plain, wide):
        clock.observe(100 * SECOND, 0, 0)
    assert wide.read(0) == Reading(plain.read(0).early - 300_000, plain.read(0).late + 300_000)


def test_contradiction_believes_the_latest():
    """A server whose clock was set, or another server: the old window is given up, not mixed in."""
    clock = ServerClock(0)
    clock.observe(100 * SECOND, 0, 0)
    clock.observe(900 * SECOND, SECOND, SECOND)
    assert clock.read(SECOND) == Reading(900 * SECOND, 901 * SECOND)


def test_uncertainty_grows_while_nothing_is_heard():
    """An idle hour costs seconds of certainty, and long before the clock is asked for anew."""
    clock = ServerClock(0)
    clock.observe(100 * SECOND, 0, 0)
    assert clock.fresh(STALE - 1)
    assert not clock.fresh(STALE)
    reading = clock.read(3600 * SECOND)
    assert reading.late - reading.early > 2 * SECOND
    assert Window(0, 0, 50).drift(20) == 0


@pytest.mark.parametrize("header", ["", "yesterday", "Tue, 99 Foo 2024 00:00:00 GMT"])
def test_headers_that_are_no_dates(header):
    """Teach nothing."""
    assert parse_date(header) is None


def test_header():
    """As HTTP writes it."""
    assert parse_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784_111_777 * SECOND


trips = st.lists(
    st.tuples(
        st.integers(0, 6 * 3600 * SECOND),  # pause before the request
        st.integers(0, 2 * SECOND),  # way there
        st.integers(0, 2 * SECOND),  # way back
    ),
    min_size=1,
    max_size=30,
)


@given(trips=trips, offset=st.integers(-2 * DAY, 2 * DAY), drift=st.integers(-100, 100), later=st.integers(0, DAY))
def test_readings_always_hold_the_true_time(trips, offset, drift, later):
    """Whatever the offset, the network and a local clock that runs off by up to 100 parts per million."""
    clock, local = ServerClock(0), 10 * DAY

    def true(moment: int) -> int:
        return 1_700_000_000 * SECOND + offset + moment + (moment - 10 * DAY) * drift // 1_000_000

    for pause, there, back in trips:
        sent = local + pause
        local = sent + there + back
        clock.observe(dated(true(sent + there)), sent, local)
        reading = clock.read(local)
        assert reading.early <= true(local) <= reading.late
        assert reading.late - reading.early <= SECOND + there + back
    reading = clock.read(local + later)
    assert reading.early <= true(local + later) <= reading.late


@given(width=st.integers(0, 3 * SECOND), lease=st.integers(1, DAY), passed=st.integers(0, 2 * DAY))
def test_no_lease_is_over_too_early(width, lease, passed):
    """Written late by one client and judged early by another, a lease never ends before its true end."""
    written_at, judged_at = 5 * DAY, 5 * DAY + passed
    writer = Reading(written_at - width, written_at + (3 * SECOND - width))
    judge = Reading(judged_at - (3 * SECOND - width), judged_at + width)
    if writer.late + lease <= judge.early:
        assert judged_at >= written_at + lease


def test_time_left():
    """Counted to the late side; once that may be past, to the moment when it surely is: waiters never spin."""
    reading = Reading(10 * SECOND, 12 * SECOND)
    assert reading.until(15 * SECOND) == 3.0
    assert reading.until(11 * SECOND) == 1.0
    assert reading.until(12 * SECOND) == 2.0
