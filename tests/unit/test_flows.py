"""Flows alone: what they yield, in which order, and how their interpreters end."""

import asyncio
import time

import pytest

from idemstore import flows
from idemstore.errors import CorruptRecord, InvalidKey, StoreUnavailable
from idemstore.exchange import Exchange
from idemstore.flows import ARM, Pause, batch, claim_or_wait
from idemstore.outcomes import MISMATCH, Abandoned, Claimed, Completed, Failed, InFlight

ASK: Exchange[str, object, object] = Exchange("claim", lambda reply: reply)


def drive(flow, answers):
    """Answer the flow's questions in turn; what it yielded, and what it returned."""
    yielded, answer, answers = [], None, iter(answers)
    while True:
        try:
            command = flow.send(answer)
        except StopIteration as stop:
            return yielded, stop.value
        yielded.append(command)
        answer = next(answers) if isinstance(command, Exchange) else None


@pytest.mark.parametrize(
    "outcome",
    [Claimed("t", 1, 1), Completed(b"r"), Failed(b"r"), MISMATCH, Abandoned("t", 1, 1), Failed(b"r", 100.0)],
)
def test_final_answers_are_not_waited_for(outcome):
    """One question, no watch."""
    assert drive(claim_or_wait(ASK, 10), [outcome]) == ([ASK], outcome)


def test_arm_then_ask_then_wait():
    """A watch is armed before the second question, so that no change falls between question and wait."""
    yielded, outcome = drive(claim_or_wait(ASK, 10), [InFlight(5), InFlight(5), Completed(b"r")])
    assert [command if command == ARM else type(command) for command in yielded] == [
        Exchange,
        ARM,
        Exchange,
        Pause,
        Exchange,
    ]
    assert outcome == Completed(b"r")


def test_pause_ends_with_the_lease():
    """The longest pause is the rest of the lease, or of the waiter's time, whichever is shorter."""
    yielded, _ = drive(claim_or_wait(ASK, 10), [InFlight(3), InFlight(3), Completed(b"r")])
    assert yielded[3].limit == 3
    yielded, _ = drive(claim_or_wait(ASK, 1), [InFlight(3), InFlight(3), Completed(b"r")])
    assert 0.9 < yielded[3].limit <= 1


def test_pause_ends_with_a_short_back_off():
    """A back-off that ends in time is waited for as a lease is; one that does not is the answer."""
    yielded, _ = drive(claim_or_wait(ASK, 10), [InFlight(30), Failed(b"", 2), Claimed("t", 1, 2)])
    assert yielded[3].limit == 2
    answer = Failed(b"", 20)
    assert drive(claim_or_wait(ASK, 10), [InFlight(30), answer])[1] == answer


def test_polls_grow_rarer():
    """From about 10 ms to about half a second, never longer than the limit."""
    answers = [InFlight(50)] * 30 + [Completed(b"r")]
    pauses = [command for command in drive(claim_or_wait(ASK, 100), answers)[0] if isinstance(command, Pause)]
    assert 0.007 < pauses[0].poll < 0.013
    assert all(pause.poll <= min(pause.limit, flows.LAST_POLL * 1.25) for pause in pauses)
    assert pauses[-1].poll > flows.LAST_POLL * 0.7


def test_a_lease_that_is_all_but_over_is_paused_for():
    """A lease that ends now still gives a pause, so that no waiter spins."""
    yielded, _ = drive(claim_or_wait(ASK, 10), [InFlight(0.0), InFlight(-1.0), Completed(b"r")])
    assert yielded[3].limit == flows.SHORTEST_PAUSE


def test_time_is_up():
    """When its time is over the waiter returns the last answer it got."""
    flow = claim_or_wait(ASK, 0.001)
    flow.send(None)
    time.sleep(0.002)
    with pytest.raises(StopIteration) as stop:
        flow.send(InFlight(5))
    assert stop.value.value == InFlight(5)


class Watch:
    """A watch that notes what becomes of it."""

    def __init__(self):
        self.waits, self.closed = [], 0

    def wait(self, poll, limit):
        self.waits.append((poll, limit))

    def close(self):
        self.closed += 1


class AsyncWatch(Watch):
    """The same for tasks."""

    async def wait(self, poll, limit):
        super().wait(poll, limit)


def both(answers, wait=10.0):
    """Run the flow in both modes on the same answers; an answer that is an error is raised. Watches and results."""
    for mode in ("sync", "async"):
        replies = iter(answers)
        watches = []

        def ask(exchange, replies=replies):
            reply = next(replies)
            if isinstance(reply, BaseException):
                raise reply
            return reply

        async def ask_async(exchange, ask=ask):
            return ask(exchange)

        def arm(kind, watches=watches):
            watches.append(kind())
            return watches[-1]

        try:
            if mode == "sync":
                result = flows.run(claim_or_wait(ASK, wait), ask, lambda: arm(Watch))
            else:
                result = asyncio.run(flows.run_async(claim_or_wait(ASK, wait), ask_async, lambda: arm(AsyncWatch)))
        except StoreUnavailable as error:
            result = error
        yield result, watches


def test_interpreters_agree():
    """Sync and async give the same answer, wait equally often, and close the watch once."""
    for result, watches in both([InFlight(5)] * 4 + [Completed(b"r")]):
        assert result == Completed(b"r")
        assert [(len(watch.waits), watch.closed) for watch in watches] == [(3, 1)]


def test_interpreters_close_the_watch_on_an_error():
    """An error while waiting is the caller's; the watch is closed all the same."""
    lost = StoreUnavailable("gone")
    for result, watches in both([InFlight(5), InFlight(5), lost]):
        assert result is lost
        assert [watch.closed for watch in watches] == [1]


def test_interpreters_arm_nothing_without_need():
    """No watch for an answer that is final."""
    for result, watches in both([Completed(b"r")]):
        assert result == Completed(b"r")
        assert watches == []


def test_cancelled_waiter_closes_its_watch():
    """A task that is cancelled while it waits leaves no watch behind."""
    watch = AsyncWatch()

    async def stuck(poll, limit):
        await asyncio.Event().wait()

    watch.wait = stuck

    async def ask(exchange):
        return InFlight(50)

    async def main():
        waiter = asyncio.create_task(flows.run_async(claim_or_wait(ASK, 10), ask, lambda: watch))
        for _ in range(10):
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())
    assert watch.closed == 1


def carry(steps, reply):
    """Run a batch; the sizes of its rounds, and its answers."""
    sizes, replies = [], None
    while True:
        try:
            requests = steps.send(replies) if replies is not None else next(steps)
        except StopIteration as stop:
            return sizes, stop.value
        sizes.append(len(requests))
        replies = [reply(request) for request in requests]


def test_batch_in_rounds():
    """So many per round trip, answers in order."""
    exchanges = [Exchange(number, lambda reply: reply * 10) for number in range(7)]
    assert carry(batch(exchanges, 3), lambda request: request) == ([3, 3, 1], [0, 10, 20, 30, 40, 50, 60])


def test_batch_keeps_errors_apart():
    """Bad input, an error from the driver, an undecodable reply: each stays with its item."""
    bad, lost = InvalidKey("bad"), StoreUnavailable("gone")

    def corrupt(reply):
        raise CorruptRecord("odd")

    exchanges = [bad, Exchange(1, str), Exchange(2, str), Exchange(3, corrupt), Exchange(4, str)]
    sizes, answers = carry(batch(exchanges, 10), lambda request: lost if request == 2 else request)
    assert sizes == [4]
    assert answers[:3] == [bad, "1", lost]
    assert isinstance(answers[3], CorruptRecord)
    assert answers[4] == "4"


def test_batch_follows_up_together():
    """Items that need another round share it."""

    def once_more(reply):
        return Exchange(reply + 100, lambda later: later)

    exchanges = [Exchange(1, once_more), Exchange(2, str), Exchange(3, once_more)]
    assert carry(batch(exchanges, 10), lambda request: request) == ([3, 2], [101, "2", 103])


def test_empty_batch():
    """No round at all, for none or none but bad items."""
    assert carry(batch([], 5), None) == ([], [])
    bad = InvalidKey("bad")
    assert carry(batch([bad], 5), None) == ([], [bad])
