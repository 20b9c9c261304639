"""Promises: kept once, waited for by many, and by no signal handler left locked."""

import sys
import threading
import time

import pytest

from idemstore.promise import Promise


def test_kept_before_and_while_it_is_waited_for():
    """Every waiter gets the value, whoever comes first."""
    promise, found = Promise[str](), []
    waiters = [threading.Thread(target=lambda: found.append(promise.result(60))) for _ in range(4)]
    for waiter in waiters[:2]:
        waiter.start()
    promise.set_result("value")
    for waiter in waiters[2:]:
        waiter.start()
    for waiter in waiters:
        waiter.join(60)
    assert found == ["value"] * 4


def test_broken():
    """Whoever waits gets the error."""
    promise = Promise[str]()
    promise.set_exception(OSError("unknown"))
    with pytest.raises(OSError, match="unknown"):
        promise.result(0)


def test_late():
    """Nobody waits for longer than he may."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Promise[str]().result(0.05)
    assert time.monotonic() - began >= 0.04


class Interruption(BaseException):
    """What a signal handler raises."""


def interrupted(promise, steps):
    """Wait for a promise with a signal handler that raises at the given step of the interpreter; False: it has ended
    before.
    """
    left = steps

    def trace(frame, event, argument):
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise Interruption
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # else Python 3.12 says nothing of single steps
    sys.settrace(trace)
    try:
        promise.result(0.0001)
    except TimeoutError:
        return False
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    raise AssertionError("nobody has kept it")


def test_a_signal_handler_raises_at_any_step():
    """What it raises arrives as it is; afterwards the promise can be kept by another thread, and others get it."""
    steps = 0
    while True:
        promise = Promise[str]()
        hit = interrupted(promise, steps)
        keeper = threading.Thread(target=promise.set_result, args=("value",), daemon=True)
        keeper.start()
        keeper.join(60)
        assert not keeper.is_alive(), f"step {steps} has left it locked"
        assert promise.result(0) == "value"
        if not hit:
            break
        steps += 1
    assert steps > 20
