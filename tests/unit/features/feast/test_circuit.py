"""A circuit opens after failures in a row, lets one request find out, and closes with the first that succeeds."""

from __future__ import annotations

import threading

import pytest

from antiphon.core.errors import FeatureUnavailableError, UnavailableError
from antiphon.features.feast.circuit import Circuit


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fail(circuit: Circuit) -> None:
    with pytest.raises(UnavailableError, match="broken"), circuit.asking():
        raise UnavailableError("broken")


def test_it_opens_after_failures_in_a_row_and_closes_after_one_success() -> None:
    clock = Seconds()
    circuit = Circuit(3, 5.0, where="there", monotonic=clock)
    fail(circuit)
    fail(circuit)
    with circuit.asking():
        pass
    assert not circuit.open
    for _ in range(3):
        fail(circuit)
    assert circuit.open
    clock.now = 4.0
    with pytest.raises(UnavailableError, match=r"3 times in a row and rests for 1\.0 s"), circuit.asking():
        pytest.fail("nobody is asked")
    clock.now = 5.0
    fail(circuit)
    clock.now = 9.9
    with pytest.raises(UnavailableError, match="in a row"), circuit.asking():
        pytest.fail("nobody is asked")
    clock.now = 10.0
    with circuit.asking():
        pass
    assert not circuit.open


def test_an_answer_that_says_no_is_no_failure() -> None:
    circuit = Circuit(1, 5.0, where="there", monotonic=Seconds())
    for _ in range(3):
        with pytest.raises(FeatureUnavailableError), circuit.asking():
            raise FeatureUnavailableError("no")
    assert not circuit.open


def test_one_request_at_a_time_finds_out() -> None:
    clock = Seconds()
    circuit = Circuit(1, 1.0, where="there", monotonic=clock)
    fail(circuit)
    clock.now = 2.0
    inside, leave = threading.Event(), threading.Event()

    def probe() -> None:
        with circuit.asking():
            inside.set()
            assert leave.wait(10)

    thread = threading.Thread(target=probe)
    thread.start()
    assert inside.wait(10)
    with pytest.raises(UnavailableError, match="in a row"), circuit.asking():
        pytest.fail("another one finds out")
    leave.set()
    thread.join(10)
    with circuit.asking():
        pass
