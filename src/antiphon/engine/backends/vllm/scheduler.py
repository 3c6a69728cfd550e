"""A scheduler for vLLM that follows the policy of this package.

vLLM takes it by ``--scheduler-cls antiphon.engine.backends.vllm.scheduler.AntiphonScheduler``.

Invariant: vLLM's own scheduler makes every pass, and with it whatever keeps requests, KV and worker consistent. Ours
only says how many tokens each request may have in it. A running batch request that gets none keeps its slot and its
KV and is computed on later: nothing is preempted and computed again for that.

vLLM does not declare this interface stable: ``scripts/vllm-environment`` pins the version, and
``tests/contract/test_vllm_scheduler.py`` holds every method that is overridden or read here against it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any, TextIO

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.request import RequestStatus

from antiphon.engine.backends.vllm.arguments import level_of, priority_of
from antiphon.engine.backends.vllm.forward_model import ForwardPass
from antiphon.engine.backends.vllm.policy import PassPlan, RequestView, StepPolicy

VLLM = "0.32.0"
"""The release whose scheduler was read for this."""
CHUNK_TOKENS = 32
_LATE = 5.0
"""An arrival that a clock says is longer ago than this was stamped by another clock."""

_READY = (RequestStatus.RUNNING, RequestStatus.WAITING, RequestStatus.PREEMPTED)


@dataclass(slots=True)
class _PassUnderWay:
    forward: ForwardPass
    predicted: float
    scheduled: float


class AntiphonScheduler(AsyncScheduler):  # type: ignore[misc]
    """vLLM's scheduler under our policy.

    ``--additional-config '{"antiphon": {"trace": "FILE"}}'`` writes a line of JSON for every pass in which the policy
    held batch work back.

    Raises:
        ValueError: vLLM was not started with ``--scheduling-policy priority``: batch could not be told from online. Or
            the configuration has what is not known.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.policy.value != "priority":
            raise ValueError("AntiphonScheduler needs vLLM's --scheduling-policy priority.")
        self._policy = StepPolicy(self.max_num_active_reqs, CHUNK_TOKENS, self.max_num_scheduled_tokens)
        self._allowed: dict[str, int] = {}
        self._under_way: deque[_PassUnderWay] = deque()
        self._ended = -inf
        settings = (self.vllm_config.additional_config or {}).get("antiphon", {})
        if unknown := settings.keys() - {"trace"}:
            raise ValueError(f"--additional-config: antiphon has no {', '.join(sorted(unknown))}; there is trace.")
        self._trace: TextIO | None = None
        if "trace" in settings:
            self._trace = Path(settings["trace"]).open("a", buffering=1)  # noqa: SIM115 -- closed by shutdown

    def add_request(self, request: Any) -> None:
        super().add_request(request)
        if request.request_id in self._policy or request.sampling_params is None:
            return
        waited = time.time() - request.arrival_time
        self._policy.add(
            request.request_id,
            priority_of(request.priority),
            level_of(request.sampling_params.extra_args),
            time.monotonic() - (waited if 0 <= waited < _LATE else 0.0),
            prompt_tokens=request.num_prompt_tokens,
            most=request.max_tokens,
        )

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        now = time.monotonic()
        begins = max(now, self._expected_end())
        decided = self._policy.decide(self._unfinished(), now, begins)
        self._allowed = dict(decided.tokens)
        seconds = time.monotonic() - now
        for id in decided.preempt:
            # Its slot goes to an online request; its KV stays in the prefix cache until the memory is needed.
            self.running.remove(self.requests[id])
            self._preempt_request(self.requests[id], now)
        made = super().schedule(*args, **kwargs)
        if made.total_num_scheduled_tokens:
            forward = self._forward(made.num_scheduled_tokens)
            self._under_way.append(_PassUnderWay(forward, self._policy.model.predict(forward), now))
        if self._trace is not None and decided.throttled:
            self._write_trace(self._trace, decided, seconds, made.num_scheduled_tokens)
        return made

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        now = time.monotonic()
        if scheduler_output.total_num_scheduled_tokens:
            ended = self._under_way.popleft()
            # A pass that was scheduled while another ran began when that had ended.
            self._policy.observe_pass(ended.forward, max(ended.scheduled, self._ended), now, ended.predicted)
            self._ended = now
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for id in scheduler_output.num_scheduled_tokens:
            request = self.requests.get(id)
            if request is not None and id in self._policy:
                self._policy.observe_tokens(id, request.num_output_tokens, now)
        return outputs

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._policy.remove(request.request_id, request.num_output_tokens, time.monotonic())
        return super()._free_request(request, *args, **kwargs)

    def _reserve_prefill_lookahead(self, request: Any, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Limit a request's tokens, running or waiting, in vLLM's last question before it schedules them; 0 leaves it
        out."""
        requested: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        # A batch request that became ready since the decision, by its grammar for example, waits for the next one.
        undecided = 0 if request.priority > 0 and request.request_id in self._policy else requested
        return min(requested, self._allowed.get(request.request_id, undecided))

    def shutdown(self) -> None:
        if self._trace is not None:
            self._trace.close()
        super().shutdown()

    def _unfinished(self) -> Iterator[RequestView]:
        """Requests that could take part in the next pass: of waiting batch requests no more than there are slots, so
        that a long queue costs nothing."""
        batch_waiting = 0
        for request in chain(self.running, self.kv_holding_waiting, self.waiting):  # Online comes before batch.
            if request.request_id not in self._policy or request.status not in _READY:
                continue
            running = request.status == RequestStatus.RUNNING
            if not running and request.priority > 0:
                batch_waiting += 1
                if batch_waiting > self.max_num_active_reqs:
                    return
            in_flight = request.num_output_placeholders
            written = request.num_output_tokens + in_flight
            pending = request.num_tokens + in_flight - request.num_computed_tokens
            if pending > 0 and written < request.max_tokens:
                yield RequestView(request.request_id, request.num_computed_tokens, pending, written, running)

    def _expected_end(self) -> float:
        """The predicted end of the passes under way."""
        end = self._ended
        for each in self._under_way:
            end = max(end, each.scheduled) + each.predicted
        return end

    def _forward(self, scheduled: dict[str, int]) -> ForwardPass:
        sequences = context = prompt_tokens = prompt_context = 0
        for id, tokens in scheduled.items():
            computed = self.requests[id].num_computed_tokens - tokens
            if tokens == 1 and computed:
                sequences, context = sequences + 1, context + computed
            else:
                prompt_tokens, prompt_context = prompt_tokens + tokens, prompt_context + tokens * computed
        return ForwardPass(sequences, context, prompt_tokens, prompt_context)

    def _write_trace(self, trace: TextIO, decided: PassPlan, seconds: float, scheduled: dict[str, int]) -> None:
        priorities = [(self.requests[id].priority > 0, tokens) for id, tokens in scheduled.items()]
        line = {
            "at": round(time.monotonic(), 4),
            "step": self.current_step,
            "online_tokens": sum(tokens for batch, tokens in priorities if not batch),
            "batch_tokens": sum(tokens for batch, tokens in priorities if batch),
            "batch_tokens_by_priority_alone": decided.batch_requested,
            "held": len(decided.throttled),
            "slack_ms": None if decided.slack_seconds == inf else round(decided.slack_seconds * 1e3, 1),
            "predicted_ms": round(decided.predicted_seconds * 1e3, 1),
            "deciding_ms": round(seconds * 1e3, 2),
            "allowances_times": [round(factor, 3) for factor in self._policy.pacer.factors],
        }
        trace.write(json.dumps(line) + "\n")
