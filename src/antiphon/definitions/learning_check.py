"""Checks of an application's outcome, fine-tuning, gates and rollout, made without running it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import Application
from antiphon.definitions.feature import duration_mistakes
from antiphon.definitions.learning import (
    SAMPLED,
    Candidates,
    FineTune,
    GateExemption,
    Gates,
    MetricGate,
    Outcome,
    Rollout,
    set_name,
)
from antiphon.definitions.outcome_shape import OutcomeShape, metric_names, shape_of
from antiphon.definitions.own_metrics import judge_metrics, names_of, own_metric_mistakes, own_metrics
from antiphon.definitions.prompt import Prompt
from antiphon.definitions.shipped_metrics import needs_outcome, shipped_metric_mistakes
from antiphon.definitions.signals import THUMBS, Signal, signal_mistakes
from antiphon.definitions.source import Source, SourceSpec

PRECISIONS = ("q8_0", "q4_1", "q4_0", "f16")
MOST_CANDIDATES = 16
MOST_SAMPLED = 400

_BOUNDS: dict[str, tuple[float, float]] = {
    "examples": (2, 10_000_000), "whole_share": (0, 1), "text_weight": (0, 100), "rank": (1, 512),
    "alpha": (1, 4096), "batch": (1, 1024), "epochs": (0.01, 1000), "learning_rate": (1e-9, 1), "replay": (0, 0.95),
}  # fmt: skip
_PREFERENCE_BOUNDS: dict[str, tuple[float, float]] = {
    "beta": (0.001, 10), **{name: _BOUNDS[name] for name in ("learning_rate", "batch", "epochs", "examples")},
}  # fmt: skip
_TRIED = ("rank", "alpha", "batch", "epochs", "learning_rate")
"""Settings of which several values may be tried: the examples are the same."""


def outcome_of(application: Application, root: Path | None) -> Outcome | None:
    """The first declared outcome as a value; the user writes its ``history`` as a :class:`Source`."""
    outcome: Outcome | None = application.outcome
    history: Any = None if outcome is None else outcome.history
    if outcome is None or not isinstance(history, Source):
        return outcome
    return msgspec.structs.replace(outcome, history=history.spec(root))


def type_mistakes(value: Any, expected: type, label: str) -> Iterator[str]:
    """Yields the mistake of a value, or of a field of it, that is of another type."""
    if not isinstance(value, expected):
        yield f"{label} must be a {expected.__name__}, not {value!r}."
        return
    try:
        msgspec.convert(msgspec.to_builtins(value), expected)
    except (msgspec.ValidationError, TypeError) as error:
        yield f"{label}: {error}."


def learning_mistakes(application: Application, keys: tuple[str, ...]) -> Iterator[str]:
    """Mistakes of outcomes, fine-tuning, gates and rollout, one sentence each."""
    declared: list[Any] = [application.outcome, *application.more_outcomes] if application.outcome is not None else []
    shapes: list[OutcomeShape] = []
    for place, outcome in enumerate(declared):
        label = "outcome" if len(declared) == 1 else f"outcome[{place}]"
        yield from _outcome_mistakes(outcome, label, application.output, shapes, first=place == 0)
    for name in {shape.name for shape in shapes if sum(other.name == shape.name for other in shapes) > 1}:
        yield f"outcome: two are named {name!r}; give one of them a name of its own."
    if application.fine_tune is not None:
        yield from _fine_tune_mistakes(application)
    known = tuple(metric_names(shapes))
    properties = application.output.get("properties") if isinstance(application.output, dict) else None
    mistaken = list(own_metric_mistakes(application.metrics, known, properties if isinstance(properties, dict) else ()))
    yield from mistaken
    own = () if mistaken else names_of(application.metrics)
    forms = {shape.name: str(shape.form) for shape in shapes}
    for one in [] if mistaken else own_metrics(application.metrics):
        yield from shipped_metric_mistakes(one, forms, properties if isinstance(properties, dict) else ())
    if not mistaken and not shapes:
        yield from _few_to_correct(application)
    judges = [] if mistaken else [one.name for one in judge_metrics(application.metrics)]
    if isinstance(application.gates, Gates) and application.gates.toxicity_judge and not mistaken:
        named = application.gates.toxicity_judge
        if named not in judges:
            there = ", ".join(judges) or "none"
            yield f"gates.toxicity_judge: no judge among metrics is named {named!r}; there are {there}."
    labelled = bool(shapes) and shapes[0].form == "label"
    yield from _gate_mistakes(application.gates, keys, (*known, *own), labelled=labelled)
    yield from signal_mistakes(application.signals, [shape.name for shape in shapes])
    yield from _rollout_mistakes(application.rollout)
    yield from _evidence_mistakes(application, outcomes=bool(declared))
    yield from _ungated_mistakes(application.ungated)


def _few_to_correct(application: Application) -> Iterator[str]:
    """Mistakes of gates on judges where there is no outcome: sampled requests are all that people can score."""
    sampled = application.gates.sampled or SAMPLED
    for judge in judge_metrics(application.metrics):
        if judge.name in application.gates.metrics and judge.least > sampled:
            yield (
                f"gates.metrics: {judge.least} scores of people correct the judge {judge.name!r}, and without an "
                f"outcome {sampled} requests are asked: set gates.sampled to {judge.least} or more."
            )


def _outcome_mistakes(
    outcome: Any, label: str, schema: Any, shapes: list[OutcomeShape], *, first: bool
) -> Iterator[str]:
    """Yields the mistakes of one outcome; one without any is added to ``shapes``."""
    if not isinstance(outcome, Outcome):
        yield f"{label} must be an Outcome, not {outcome!r}."
        return
    history: Any = outcome.history
    if wrong := list(type_mistakes(msgspec.structs.replace(outcome, history=None), Outcome, label)):
        yield from wrong
        return
    try:
        shapes.append(shape_of(outcome.property, outcome.positive, outcome.name or "", schema))
    except InvalidInputError as error:
        yield f"{label}: {error.what}"
    if outcome.name and not outcome.name.isidentifier():
        yield f"{label}.name {outcome.name!r} must be a name such as 'resolution'."
    if outcome.sample is not msgspec.UNSET and not 0 < outcome.sample <= 1:
        yield f"{label}.sample is a share above 0 and at most 1, not {outcome.sample}."
    wrong = list(duration_mistakes(outcome.window, f"{label}.window"))
    if outcome.delay is not msgspec.UNSET:
        wrong += duration_mistakes(outcome.delay, f"{label}.delay")
        if not wrong and parse_duration(outcome.delay) > parse_duration(outcome.window):
            wrong = [
                f"{label}.delay {outcome.delay} is longer than the window, {outcome.window}: what is known later "
                "is not joined, so nothing is gained by waiting for it. Make the window as long, or the delay shorter."
            ]
    yield from wrong
    if history is not None and not first:
        yield f"{label}.history stands with the first outcome; it may have a column for each of the others."
    elif isinstance(history, Source):
        yield from history.mistakes()
    elif history is not None and not isinstance(history, SourceSpec):
        yield f"{label}.history must be a Source.table, not {history!r}."


def _fine_tune_mistakes(application: Application) -> Iterator[str]:
    tune = application.fine_tune
    assert tune is not None
    if wrong := list(type_mistakes(tune, FineTune, "model")):
        yield from wrong
        return
    if isinstance(application.outcome, Outcome):  # Without one it learns from preferences alone.
        yield from _target_mistakes(application, tune)
    elif tune.targets:
        yield "model.targets: without an outcome nothing is written after them."
    if tune.prompt is not None and (not isinstance(tune.prompt, Prompt) or not tune.prompt.template.strip()):
        yield "model.prompt must be a Prompt with a template."
    for name in ("window", "delta_window"):
        window = getattr(tune, name)
        for field in ("history", "maturity", "embargo") if window is not None else ():
            value = getattr(window, field)
            if (field, value) != ("embargo", None) and any(duration_mistakes(value, field)):
                yield f"model.{name}.{field} {value!r} is no duration such as '12h'."
    for field, (least, most) in _BOUNDS.items():
        if not least <= getattr(tune, field) <= most:
            yield f"model.{field} is {getattr(tune, field)}; it must be from {least} to {most}."
    for field, least, most in (("count", 1, 1_000), ("repeats", 1, 1_000), ("seed", 0, 2**63 - 1)):
        if tune.canaries is not None and not least <= getattr(tune.canaries, field) <= most:
            yield f"model.canaries.{field} is {getattr(tune.canaries, field)}; it must be from {least} to {most}."
    if tune.candidates:
        yield from candidate_mistakes(tune.candidates)
    for field, (least, most) in _PREFERENCE_BOUNDS.items() if tune.preferences else ():
        if not least <= getattr(tune.preferences, field) <= most:
            yield f"model.preferences.{field} is {getattr(tune.preferences, field)}; it must be from {least} to {most}."
    if tune.precision not in PRECISIONS:
        yield f"model.precision {tune.precision!r} is none of {', '.join(PRECISIONS)}."


def candidate_mistakes(declared: Candidates) -> Iterator[str]:
    """Yields the mistakes of candidates of a training, one sentence each."""
    for name, values in declared.settings.items():
        if name not in _TRIED:
            yield f"candidates: {name!r} cannot be tried; {', '.join(_TRIED)} can."
            continue
        least, most = _BOUNDS[name]
        whole = name in ("rank", "alpha", "batch")
        for value in values:
            if not least <= value <= most or (whole and value != int(value)):
                yield f"candidates: {name} is {value:g}; it must be {'whole, ' * whole}from {least:g} to {most:g}."
    count = math.prod(len(set(values)) for values in declared.settings.values())
    if not 1 <= count <= MOST_CANDIDATES:
        yield f"candidates: {count} are {'none' if not count else 'too many'}; try 1 to {MOST_CANDIDATES}."
    if declared.budget is not None:
        yield from duration_mistakes(declared.budget, "candidates.budget")
    if not 0.05 <= declared.held_out <= 0.5:
        yield f"candidates.held_out is {declared.held_out}; it must be from 0.05 to 0.5."


def _target_mistakes(application: Application, tune: FineTune) -> Iterator[str]:
    """Yields the properties of the output of which nothing says what should have been written, and targets that are
    not needed."""
    outcome: Any = application.outcome
    properties = tuple((application.output or {}).get("properties", {}))
    known = [getattr(one, "property", None) for one in (outcome, *application.more_outcomes)]
    for name in properties if None not in known else ():
        if name not in known and name not in tune.targets:
            yield f"model.targets lacks {name!r}: what should have been written there?"
    for name in tune.targets:
        if name not in properties or name == outcome.property:
            yield f"model.targets: {name!r} is no property beside the outcome's."


def _gate_mistakes(gates: Any, keys: tuple[str, ...], known: Sequence[str], *, labelled: bool) -> Iterator[str]:
    if wrong := list(type_mistakes(gates, Gates, "gates")):
        yield from wrong
        return
    for field in ("valid_share", "false_share", "injected_share", "leaked_share"):
        value = getattr(gates, field)
        if value is not None and not 0 <= value <= 1:
            yield f"gates.{field} is {value}; it must be from 0 to 1, or None."
    for name in ("parity", "opportunity"):
        value = getattr(gates, name)
        if value is msgspec.UNSET:
            continue
        if not 0 <= value <= 1:
            yield f"gates.{name} is {value}; it must be from 0 to 1."
        elif not gates.slices or not labelled:
            yield f"gates.{name} compares what slices are said to be: declare gates.slices, and a label as outcome."
    if gates.sampled is not msgspec.UNSET and not 4 <= gates.sampled <= MOST_SAMPLED:
        yield f"gates.sampled is {gates.sampled}; from 4 to {MOST_SAMPLED} requests may be asked."
    for key in gates.slices:
        if key not in keys and "." not in key:
            yield f"gates.slices: entity has no key {key!r}; it has {', '.join(keys) or 'none'}."
    for name in gates.regressions:
        if not set_name(name):
            yield f"gates.regressions: {name!r} is no name of a set; it has lower-case letters, digits, - and _."
    for name, bounds in gates.metrics.items():
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "without an outcome there is none"
            yield f"gates.metrics: {name!r} is no metric of the application; {there}."
        better = bounds.advantage is not None or bounds.sure_advantage is not None
        if better and name.rpartition(".")[2] == "calibration_error":
            yield f"gates.metrics[{name!r}]: who forecasts the labels' shares errs by nothing in it; bound its value."
        for field in MetricGate.__struct_fields__:
            value = getattr(bounds, field)
            if value is not None and not math.isfinite(value):
                yield f"gates.metrics[{name!r}].{field} is {value}; it must be a number, or None."


def _ungated_mistakes(ungated: str | GateExemption) -> Iterator[str]:
    if ungated == "":
        return
    if wrong := list(type_mistakes(ungated, GateExemption, "ungated")):
        yield from wrong
    elif isinstance(ungated, GateExemption) and not ungated.reason.strip():
        yield "ungated must say why releases go live without gates."


def _rollout_mistakes(rollout: Rollout) -> Iterator[str]:
    if not 0 <= rollout.shadow <= 1:
        yield f"rollout.shadow is a share from 0 to 1, not {rollout.shadow}."
    if any(not 0 < step <= 50 for step in rollout.canary) or list(rollout.canary) != sorted(set(rollout.canary)):
        yield (
            f"rollout.canary are rising per cents from 1 to 50 (as many users again are the control), "
            f"not {list(rollout.canary)}."
        )
    for field in ("alpha", "beta"):
        if not 0 < getattr(rollout, field) < 0.5:
            yield f"rollout.{field} is a chance between 0 and 0.5, not {getattr(rollout, field)}."
    if rollout.harm <= 1:
        yield f"rollout.harm is a ratio above 1, not {rollout.harm}."
    for field in ("floor", "quality_margin"):
        if not 0 < getattr(rollout, field) < 1:
            yield f"rollout.{field} is between 0 and 1, not {getattr(rollout, field)}."
    for field in ("step_time", "patience"):
        value = getattr(rollout, field)
        if (field, value) != ("step_time", None) and any(duration_mistakes(value, field)):
            yield f"rollout.{field} {value!r} is no duration such as '10m'."
    if rollout.shadow_pairs < 0 or rollout.step_units < 0:
        yield "rollout.shadow_pairs and rollout.step_units are counts."
    if rollout.cost_margin is not msgspec.UNSET and not 0 < rollout.cost_margin <= 1:
        yield f"rollout.cost_margin is above 0 and at most 1, not {rollout.cost_margin}."
    if rollout.shadow_pairs > 0 and rollout.shadow == 0:
        yield "rollout.shadow_pairs needs a share of requests in rollout.shadow."


def _evidence_mistakes(application: Application, *, outcomes: bool) -> Iterator[str]:
    """Mistakes of evidence that a rollout waits for and nothing will give."""
    rollout = application.rollout
    declared = [one.name for one in application.signals if isinstance(one, Signal)]
    for name in rollout.signals or ():
        if name not in (*declared, THUMBS.name):
            known = ", ".join(dict.fromkeys((*declared, THUMBS.name)))
            yield f"rollout.signals: no signal is named {name!r}; there are {known}."
    if rollout.signals and (not rollout.canary or len(set(rollout.signals)) < len(rollout.signals)):
        yield "rollout.signals are different ones, sent by users of a canary: declare rollout.canary."
    if rollout.metric is not msgspec.UNSET:
        yield from _shadow_metric_mistakes(application, rollout.metric)
    elif rollout.shadow_pairs > 0 and not outcomes:
        yield (
            "rollout.shadow_pairs are compared by an outcome, and none is declared, so that no release would ever "
            "leave the shadow: declare an outcome, name a function among metrics in rollout.metric, or leave the "
            "shadow out."
        )


def _shadow_metric_mistakes(application: Application, name: str) -> Iterator[str]:
    """Mistakes of the metric that decides in shadow, one sentence each."""
    if application.rollout.shadow_pairs == 0:
        yield "rollout.metric compares the pairs of a shadow: declare rollout.shadow and rollout.shadow_pairs."
    try:
        functions = {one.name: one for one in own_metrics(application.metrics)}
    except (InvalidInputError, TypeError):
        return  # said of the metrics themselves
    if name in {one.name for one in judge_metrics(application.metrics)}:
        yield (
            f"rollout.metric: {name!r} is a judge model's, which people's scores correct in the mean and not answer by "
            "answer: name a function, and bound the judge in gates.metrics."
        )
    elif name not in functions:
        usable = [one for one, metric in functions.items() if not needs_outcome(metric)]
        yield f"rollout.metric: no function among metrics is named {name!r}; there are {', '.join(usable) or 'none'}."
    elif needs_outcome(functions[name]):
        yield f"rollout.metric: {name!r} compares with an outcome; leave it out, and the first outcome decides."
