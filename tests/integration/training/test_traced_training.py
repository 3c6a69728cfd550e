"""A training process goes on with the trace of the run that ordered it, however it ends."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.harness.collector import Collector, attributes, collector, sent_to
from tests.integration.training.conftest import TINY
from tests.integration.training.tiny import flights, order
from tests.servers import until

from antiphon.core import telemetry
from antiphon.core.clock import SystemClock
from antiphon.core.errors import CorruptionError
from antiphon.training.order import ParentAdapter
from antiphon.training.processes import TrainingProcesses

__all__ = ["collector"]


async def test_the_trace_of_a_run_goes_on_in_its_training(
    base: Path, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "parent"
    parent.write_bytes(b"not what it was")
    ordered = msgspec.structs.replace(
        order(tmp_path / "it", base, flights(12), TINY), parent=ParentAdapter(str(parent), "a" * 64)
    )
    for name, value in sent_to(collector).items():
        monkeypatch.setenv(name, value)
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    with telemetry.span("step train"):
        ours = telemetry.trace_id()
        with pytest.raises(CorruptionError):
            await TrainingProcesses(SystemClock()).run(ordered, lambda _: None, lambda: False)
    until(lambda: collector.spans())
    ((process, span),) = collector.spans()
    assert (process, span.name, span.trace_id.hex()) == ("antiphon-training", "train", ours)
    assert attributes(span) == {"gen_ai.request.model": ordered.name, "error.type": "CorruptionError"}
