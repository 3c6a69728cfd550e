"""A sampler that records all traces while there are few, and so many a second of many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind

from antiphon.core.telemetry import FAILED

SAVED_SECONDS = 10.0


class TraceBudget(Sampler):
    """Bounds what recording costs, however many requests come.

    A caller's decision about its trace stands. The rows of a batch are counted one by one, since all of them are in the
    trace of one run. What failed is recorded in any trace.

    Args:
        per_second: traces; as many as in :data:`SAVED_SECONDS` may come at once.
    """

    def __init__(self, per_second: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._monotonic = per_second, monotonic
        self._lock = threading.Lock()
        self._left, self._at = SAVED_SECONDS * per_second, monotonic()

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        parent, given = trace.get_current_span(parent_context).get_span_context(), attributes or {}
        is_row = name == "answer" and given.get("antiphon.path") == "batch"
        if FAILED in given:
            recorded = True
        elif parent.is_valid and not (is_row and parent.trace_flags.sampled):
            recorded = parent.trace_flags.sampled
        else:
            recorded = self._take()
        decision = Decision.RECORD_AND_SAMPLE if recorded else Decision.DROP
        return SamplingResult(decision, given, parent.trace_state if parent.is_valid else trace_state)

    def get_description(self) -> str:
        return f"TraceBudget({self._per_second:g}/s)"

    def _take(self) -> bool:
        with self._lock:
            now = self._monotonic()
            self._left = min(SAVED_SECONDS * self._per_second, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True
