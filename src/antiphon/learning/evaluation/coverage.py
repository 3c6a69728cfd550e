"""Coverage of an application: which of its slices, behaviors and parts of templates evaluations exercise.

A pure function of what is recorded anyway. What is not exercised is named: nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from antiphon.catalog.learning.evaluations import Evaluation, SuiteSummary
from antiphon.catalog.learning.regressions import RegressionCase
from antiphon.definitions.application import ApplicationSpec
from antiphon.learning.evaluation.gates import ENOUGH
from antiphon.learning.evaluation.safety.probes import SUITES

NAMED = 12
"""Missing parts that are named; further ones are counted."""


class CoverageLine(msgspec.Struct, frozen=True):
    """One kind of part: how many of ``all`` parts were ``exercised``, and names of those that were not."""

    what: str
    exercised: int
    all: int
    missing: tuple[str, ...] = ()


def coverage(
    application: ApplicationSpec,
    evaluation: Evaluation | None,
    suites: Sequence[SuiteSummary],
    cases: Mapping[str, Sequence[RegressionCase]] = {},
) -> tuple[CoverageLine, ...]:
    """The coverage of an application by an evaluation, safety suites and regression sets; a kind without parts has no
    line.

    Labels of the outcome count with a row of them or a case that expects them, slices with enough rows to be judged
    (``gates.ENOUGH``), guards, figures and output properties where whole outputs were asked for, as every case does,
    safety behaviors (suites) with a probe that reached the model, and of regression sets those that were run.

    Args:
        cases: that were run, by the name of their set; a set that was not run has none.
    """
    run = [case for of_set in cases.values() for case in of_set]
    whole = bool(run) or (evaluation is not None and evaluation.whole_rows > 0)
    properties = (application.schema or {}).get("properties", {})
    shapes = () if evaluation is None else application.shapes
    scored = {shape.property for shape in shapes if shape.property is not None}
    labels = dict({} if evaluation is None else evaluation.labels)
    scored_property = None if application.shape is None else application.shape.property
    for expectation in (one for case in run for one in case.expect if one.kind == "label"):
        if scored_property is not None and expectation.property == scored_property:
            labels[expectation.value] = labels.get(expectation.value, 0) + 1
    sliced = {} if evaluation is None else {f"{one.key} {one.value}": one.rows for one in evaluation.slices}
    return tuple(
        line
        for line in (
            _line("labels of the outcome", application.labels, {name for name, rows in labels.items() if rows}),
            _line("slices with enough rows", sliced, {name for name, rows in sliced.items() if rows >= ENOUGH}),
            _line("output properties", properties, properties if whole else scored),
            _line("guards", [guard.label for guard in application.guards], _labels(application) if whole else ()),
            _line("figures of the template", _figures(application), _figures(application) if whole or scored else ()),
            _line("regression sets", cases, {name for name, of_set in cases.items() if of_set}),
            _line("safety behaviors", SUITES, {suite.name for suite in suites if suite.probes}),
        )
        if line is not None
    )


def _line(what: str, parts: Iterable[str], exercised: Iterable[str]) -> CoverageLine | None:
    named, met = tuple(dict.fromkeys(parts)), set(exercised)
    if not named:
        return None
    missing = [part for part in named if part not in met]
    more = (f"{len(missing) - NAMED} more",) if len(missing) > NAMED else ()
    return CoverageLine(what, len(named) - len(missing), len(named), (*missing[:NAMED], *more))


def _labels(application: ApplicationSpec) -> list[str]:
    return [guard.label for guard in application.guards]


def _figures(application: ApplicationSpec) -> list[str]:
    return [figure.feature for figure in application.figures]
