"""The scheduler's input and output, as frozen values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

import msgspec

from antiphon.engine.api.messages import Priority
from antiphon.engine.scheduling.latency_model import LatencyModel, StepTimes


class SequenceView(msgspec.Struct, frozen=True):
    """One sequence as the scheduler sees it.

    Attributes:
        order: arrival number; smaller is older.
        position: tokens already in its KV cache.
        pending: tokens that wait to be computed: the rest of the prompt, or one sampled token and those that the
            grammar forced after it.
        generating: the prompt is done. A generating sequence takes part in decode steps.
        residency: ``waiting`` (never started), ``resident`` (has a slot) or ``swapped`` (state outside the runtime).
        due: seconds from now until its next token is due; infinite when no user waits for it.
        batch_deadline: seconds from now until which batch work may delay that token: at most ``due``.
        urgent: a batch sequence whose deadline is near; it takes all the time that online work leaves.
        tenant: the tenant whose share it counts against; ``share`` is that share, 1 for as much as another.
        scored: the logits of each prompt token are reported, which takes longer.
    """

    ticket: int
    priority: Priority
    order: int
    position: int
    pending: int
    generating: bool
    residency: str
    due: float = inf
    batch_deadline: float = inf
    urgent: bool = False
    tenant: str = ""
    scored: bool = False
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """The input of a plan.

    Attributes:
        slack_elsewhere: seconds by which the other models of this process could be delayed now; infinite when none
            of them serves online requests.
        interruptible: a call that computes batch sequences alone is aborted when an online request arrives.
        leaves_gaps: recently there was time without online work, so that batch work can wait for it.
        batch_prompt_ratio: prompt tokens that batch sequences compute for each token that they generate.
        service: seconds that each tenant has had, where several have online work.
    """

    sequences: tuple[SequenceView, ...]
    slots: int
    chunk_tokens: int
    model: StepTimes = field(default_factory=LatencyModel)
    slack_elsewhere: float = inf
    interruptible: bool = False
    leaves_gaps: bool = True
    batch_prompt_ratio: float = 0.0
    service: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepBudget:
    """Bounds of one step.

    Attributes:
        step_seconds: predicted length up to which prompts of online requests are computed beside the tokens of others.
        arrival_seconds: predicted length up to which batch work is added: a request that arrives meanwhile waits for
            the step.
        online_prefill_tokens: most prompt tokens of online requests in one step, so that a long prompt does not
            delay the others' tokens.
    """

    step_seconds: float = 0.1
    arrival_seconds: float = 0.25
    online_prefill_tokens: int = 128


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The next step, in this order: swap out, admit, prefill, decode.

    Attributes:
        swap_out: resident sequences whose state moves out of the runtime.
        admit: waiting or swapped sequences that get a slot.
        prefill: (sequence, tokens) computed alone, chunk by chunk.
        decode: generating sequences that take part in the shared decode call.
        predicted_seconds: of the whole step.
    """

    swap_out: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()
    prefill: tuple[tuple[int, int], ...] = ()
    decode: tuple[int, ...] = ()
    predicted_seconds: float = 0.0


Planner = Callable[[SchedulerState, StepBudget], StepPlan]
"""Decides a step; :func:`antiphon.engine.scheduling.scheduler.plan` is ours."""


def oldest_first(sequences: Iterable[SequenceView]) -> list[SequenceView]:
    """The sequences in order of arrival."""
    return sorted(sequences, key=lambda sequence: sequence.order)
