"""The bare loop over the real model: a small grid is measured, and forced lengths are what they claim to be."""

from __future__ import annotations

import msgspec
import pytest
from benchmarks.colocation import calibration, traces
from benchmarks.colocation.policies import priority_only
from benchmarks.colocation.simulator import simulate

from antiphon.engine import weights
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.runtime import Layout

pytestmark = pytest.mark.model


def test_a_small_grid_is_measured_and_drives_the_simulator() -> None:
    found = weights.resolve(str(weights.pull("smollm2-135m")))
    runtime = LlamaCpp("base", found, Layout(slots=2, context_tokens=256), threads=2)
    try:
        # Words of which each is one token, so that a prompt's length can be forced.
        assert [word for word in traces.WORDS if len(runtime.tokenize(" " + word)) != 1] == []
        assert len(runtime.tokenize(traces.prompt_text(100, 7))) == 100
        measured = calibration.measure(runtime, 0.0, decodes=(1, 2), chunks=(4, 32), contexts=(32,))
    finally:
        runtime.close()
    assert {(point.size, point.context) for point in measured.decode} == {(1, 32), (2, 32)}
    assert all(point.quick > 0 and point.samples >= 2 for point in (*measured.decode, *measured.prefill))
    assert measured.envelope.gamma > 0
    assert min(measured.decode_residuals) <= 1 <= max(measured.decode_residuals)
    again = msgspec.json.decode(msgspec.json.encode(measured), type=calibration.Calibration)
    assert again == measured
    assert simulate(measured, priority_only(), (), 120.0).batch_tokens > 0
