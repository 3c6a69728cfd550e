"""Planning a dataset: from the declared training window to a specification, without reading anything.

Invariant: ``first < moment <= last <= cutoff``, and a training set ends an embargo before its cutoff.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.learning.datasets import DatasetKind, DatasetSpec, PromptPin
from antiphon.core.clock import parse_duration, utc
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import TrainingWindow
from antiphon.definitions.template import template_reads
from antiphon.learning.outcomes.submission import outcome_named

ORIGINS = ("history", "receipts")
OWN_COLUMNS = ("example", "moment", "question", "label", "label_at", "drawn_from", "prediction")
_EVALUATED = 300
_LEARNED_AS_SERVED = ("retrievals", "conversation", "tools")
"""Declarations that bring into prompts what cannot be rendered again from a row."""


def plan(
    application: ApplicationSpec,
    window: TrainingWindow | None,
    now: datetime,
    kind: DatasetKind = "training",
    cutoff: datetime | None = None,
    origins: Sequence[str] | None = None,
    examples: int | None = None,
    seed: int | None = None,
    first: datetime | None = None,
    last: datetime | None = None,
) -> DatasetSpec:
    """The specification as :meth:`DatasetBuilder.plan` describes it, still without log offsets; raises
    ``InvalidInputError`` when the application declares no outcome, or the window is none."""
    shape, _ = outcome_named(application, None)
    outcome, tune = application.outcome, application.fine_tune
    assert outcome is not None  # outcome_named
    declared = window or (tune.window if tune is not None else TrainingWindow())
    ends = utc(cutoff) if cutoff is not None else declared_cutoff(declared, now)
    # Where nothing is trained every moment is held out.
    earliest, latest = window_bounds(declared, kind if tune is not None else "training", ends)
    earliest, latest = utc(first) if first else earliest, utc(last) if last else latest
    if earliest is None or latest is None:
        raise InvalidInputError(
            f"No moments of {application.name!r} are held out: its training window has no embargo.",
            where="window.embargo",
            next_step="Declare TrainingWindow(embargo=...), or say from when to when.",
        )
    if latest > ends or earliest >= latest:
        raise InvalidInputError(
            f"The moments from {earliest.isoformat()} to {latest.isoformat()} are no window up to the cutoff "
            f"{ends.isoformat()}.",
            where="window",
            next_step="Give first < last <= cutoff.",
        )
    chosen = tuple(origins) if origins is not None else ORIGINS if outcome.history is not None else ORIGINS[1:]
    if not chosen or set(chosen) - set(ORIGINS):
        raise InvalidInputError(
            f"Examples do not come from {', '.join(chosen) or 'nowhere'}.",
            where="origins",
            next_step=f"Choose of {', '.join(ORIGINS)}.",
        )
    for key in application.entity_keys:
        if key in OWN_COLUMNS:
            raise InvalidInputError(
                f"The entity key {key!r} has the name of a dataset's own column.",
                where="entities",
                next_step="Give the key another name.",
            )
    count = examples if examples is not None else _examples(application, kind)
    if count < 1:
        raise InvalidInputError(f"A dataset has at least 1 example, not {count}.", where="examples")
    maturity = parse_duration(declared.maturity).total_seconds()
    return DatasetSpec(
        application=application.name,
        kind=kind,
        property=shape.property,
        positive=shape.positive,
        cutoff=ends,
        first=earliest,
        last=latest,
        maturity_seconds=maturity if shape.delay is None else shape.delay,
        origins=chosen,
        examples=count,
        seed=seed if seed is not None else (tune.seed if tune is not None else 0),
        views=dict(sorted(application.features.items())),
        entity_keys=application.entity_keys,
        labels=shape.labels,
        history=outcome.history if "history" in chosen else None,
        on_demand=application.on_demand,
        # Without a delay of its own an outcome has the window's, also beside a first one with a short one.
        outcomes=tuple(
            one if one.delay is not None or shape.delay is None else msgspec.structs.replace(one, delay=maturity)
            for one in application.shapes
        ),
        question=_reads_question(application),
        served=pinned_prompt(application) if kind == "training" else msgspec.UNSET,
    )


def pinned_prompt(application: ApplicationSpec) -> PromptPin | msgspec.UnsetType:
    """Pins what a prediction must have been served with to be learned from; unset where rows give the prompts."""
    tune = application.fine_tune
    if tune is None or not any(getattr(application, name) for name in _LEARNED_AS_SERVED):
        return msgspec.UNSET
    return PromptPin.of(application, tune)


def _reads_question(application: ApplicationSpec) -> bool:
    prompts = [application.prompt]
    if application.fine_tune is not None and application.fine_tune.prompt is not None:
        prompts.append(application.fine_tune.prompt)
    return any("question" in template_reads(prompt.template).names for prompt in prompts)


def declared_cutoff(window: TrainingWindow, now: datetime) -> datetime:
    """The window's cutoff, which is now where it says none; raises ``InvalidInputError`` when it is no instant."""
    if window.cutoff is None:
        return now
    try:
        return utc(datetime.fromisoformat(window.cutoff))
    except ValueError:
        raise InvalidInputError(
            f"{window.cutoff!r} is no instant.", where="window.cutoff", next_step="Write it like 2013-04-01T00:00:00Z."
        ) from None


def window_bounds(
    window: TrainingWindow, kind: DatasetKind, cutoff: datetime
) -> tuple[datetime | None, datetime | None]:
    """``first`` and ``last`` of the moments in a window; ``None`` where it holds out nothing to evaluate on."""
    embargo = parse_duration(window.embargo) if window.embargo is not None else None
    if kind == "evaluation":
        return (None, None) if embargo is None else (cutoff - embargo, cutoff)
    last = cutoff if embargo is None else cutoff - embargo
    return last - parse_duration(window.history), last


def _examples(application: ApplicationSpec, kind: DatasetKind) -> int:
    if kind == "evaluation":
        return max(_EVALUATED, application.gates.rows)
    return application.fine_tune.examples if application.fine_tune is not None else 1_600
