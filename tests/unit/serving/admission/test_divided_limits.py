"""Limits that several processes have together."""

from __future__ import annotations

import pytest

from antiphon.core.errors import OverloadedError, ResourceUnavailableError
from antiphon.serving.admission.engine_gate import EngineGate
from antiphon.serving.admission.limits import AdmissionController


async def test_each_of_several_processes_takes_its_part_and_the_whole_again() -> None:
    admission = AdmissionController(online=5, batch=1, flex=2)
    admission.divide(2)
    async with admission.enter("online"), admission.enter("online"), admission.enter("flex"), admission.enter("batch"):
        with pytest.raises(OverloadedError):
            await admission.enter("online").__aenter__()
        with pytest.raises(ResourceUnavailableError):
            await admission.enter("flex").__aenter__()
        admission.divide(1)
        async with admission.enter("online"), admission.enter("flex"):
            pass


def test_the_gate_begins_at_its_part_and_keeps_what_it_has_measured() -> None:
    now = 0.0
    gate = EngineGate(16, 64, 1.0, lambda: now)
    gate.divide(4)
    assert (gate.status.limit, gate.gradient.most) == (4, 16.0)
    gate.divide(1)
    assert (gate.status.limit, gate.gradient.most) == (16, 64.0)
    now = 1.0
    for _ in range(10):
        gate.measure(0.1, 0.0)
    gate.divide(2)
    assert (gate.status.limit, gate.gradient.most) == (16, 32.0)
    gate.divide(8)
    assert (gate.status.limit, gate.gradient.most) == (8, 8.0)
