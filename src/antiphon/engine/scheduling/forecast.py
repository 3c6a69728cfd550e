"""Forecasts each online sequence's next token, as if batch work did not exist; pure, by the scheduler's own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from antiphon.engine.scheduling.latency_model import StepTimes
from antiphon.engine.scheduling.state import SequenceView, StepBudget


def forecast(
    online: Sequence[SequenceView], model: StepTimes, chunk_tokens: int, budget: StepBudget
) -> Mapping[int, float]:
    """Forecast each sequence's next token, in seconds from now, as if these sequences were alone from now on.

    The rules are those of :func:`~antiphon.engine.scheduling.scheduler.add_online`, step after step, except that no
    sequence starts or ends to generate on the way and that tenants are served in order of arrival: their turns change
    which request waits, not how much there is to compute.
    """
    generating = [sequence for sequence in online if sequence.generating]
    # The fixed cost of a step, and the tokens of those that generate.
    tokens = model.step + model.decode(len(generating), sum(sequence.position for sequence in generating))
    forced = sum(model.feed(each.pending, each.position) for each in generating if each.pending > 1)
    found: dict[int, float] = {}
    clock = spent = forced
    left = budget.online_prefill_tokens
    first_step: float | None = None
    for sequence in online:
        if sequence.generating:
            continue
        position, pending = sequence.position, sequence.pending
        while pending:
            chunk = min(chunk_tokens - position % chunk_tokens, pending)
            seconds = prompt_seconds(model, sequence, chunk, position)
            full = left < budget.online_prefill_tokens and (
                chunk > left or spent + tokens + seconds > budget.step_seconds
            )
            if full:
                clock += tokens
                first_step = clock if first_step is None else first_step
                spent, left = 0.0, budget.online_prefill_tokens
            clock, spent, left = clock + seconds, spent + seconds, left - chunk
            position, pending = position + chunk, pending - chunk
        found[sequence.ticket] = clock + (tokens if model.mixed else 0.0)
    first_step = clock + tokens if first_step is None else first_step
    for sequence in generating:
        found[sequence.ticket] = first_step
    return found


def prompt_seconds(model: StepTimes, sequence: SequenceView, tokens: int, context: int) -> float:
    """Seconds that so many tokens of a sequence's prompt add."""
    return model.score(tokens, context) if sequence.scored else model.feed(tokens, context)
