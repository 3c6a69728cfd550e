"""Metrics of an engine: its present load, and its counts since it started, as they stand when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from antiphon.engine.api.messages import EngineLoad

_STATES = ("running_online", "running_batch", "waiting_online", "waiting_batch", "kept_on_disk")
_COUNTS = {
    "steps": ("antiphon_engine_steps", "Steps of the model."),
    "prefilled_tokens": ("antiphon_engine_prefilled_tokens", "Tokens of prompts that were computed."),
    "reused_prefix_tokens": ("antiphon_engine_reused_prefix_tokens", "Tokens of prompts that were in the cache."),
    "interrupted_calls": ("antiphon_engine_interrupted_calls", "Batch steps that gave way to an online request."),
    "interrupted_seconds": ("antiphon_engine_interrupted_seconds", "Of them, to be computed again."),
    "busy_seconds": ("antiphon_engine_busy_seconds", "In which there was work."),
    "call_seconds": ("antiphon_engine_call_seconds", "Of them, in which the model computed."),
    "batch_held_seconds": ("antiphon_engine_batch_held_seconds", "For which other work had batch generations held."),
    "embedded_texts": ("antiphon_engine_embedded_texts", "Texts that were made vectors."),
    "embedded_tokens": ("antiphon_engine_embedded_tokens", "Their tokens."),
}


class EngineMetrics(Collector):
    """Tells the load of an engine."""

    def __init__(self, load: Callable[[], EngineLoad]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        load = self._load()
        requests = GaugeMetricFamily("antiphon_engine_requests", "In the engine, by state.", labels=("state",))
        for state in _STATES:
            requests.add_metric((state,), getattr(load, state))
        yield requests
        yield GaugeMetricFamily("antiphon_engine_slots", "Requests that it computes at once.", value=load.slots)
        generated = CounterMetricFamily("antiphon_engine_generated_tokens", "By path.", labels=("path",))
        for path in ("online", "batch"):
            generated.add_metric((path,), getattr(load, f"generated_tokens_{path}"))
        yield generated
        for field, (name, text) in _COUNTS.items():
            yield CounterMetricFamily(name, text, value=getattr(load, field))


def engine_registry(load: Callable[[], EngineLoad]) -> CollectorRegistry:
    """A registry with the metrics of an engine."""
    registry = CollectorRegistry()
    registry.register(EngineMetrics(load))
    return registry
