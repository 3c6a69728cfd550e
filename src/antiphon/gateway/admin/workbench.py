"""The prompt workbench over HTTP: prompt versions, trials, annotations, regression sets.

Trials and runs ask the engine for long: they are ordered, and the worker makes them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, get_args

import msgspec

from antiphon.catalog.learning.annotations import Annotation, AnnotationKind
from antiphon.catalog.learning.regressions import (
    Expectation,
    ExpectationKind,
    RegressionRun,
    SetVersion,
    Split,
)
from antiphon.core.errors import InvalidInputError
from antiphon.gateway.admin.shapes import ApplicationQuery, RunLine, read, read_all
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.learning.workbench.agreement import Agreement
from antiphon.learning.workbench.comparison import Comparison
from antiphon.learning.workbench.optimizer import OptimizedPrompt
from antiphon.learning.workbench.regressions import CaseLine
from antiphon.learning.workbench.submission import AnnotationSubmission
from antiphon.services.learning.workbench import PreferenceCounts, PromptVersion
from antiphon.services.learning.workbench_orders import OptimizationOrder, RegressionOrder, TrialOrder


class TrialQuery(msgspec.Struct, frozen=True):
    """Selects trials."""

    application: str | None = None
    limit: Few = 50


class TrialLine(msgspec.Struct, frozen=True):
    """A trial in a list; ``identical``: answers that are production's byte for byte."""

    id: str
    application: str
    release: str
    prompt: str
    sample: str
    identical: int
    author: str
    created_at: datetime


class TrialList(msgspec.Struct, frozen=True):
    """Latest first."""

    trials: tuple[TrialLine, ...]


class ComparisonQuery(msgspec.Struct, frozen=True):
    """The other side: a trial, a release (its newest trial), or ``live``: what users got."""

    against: str = "live"


class TrialComparison(msgspec.Struct, frozen=True):
    """A trial beside another or beside what users got, and what annotators preferred."""

    comparison: Comparison
    preferences: PreferenceCounts


class OptimizationDetail(msgspec.Struct, frozen=True):
    """A search that was ordered; ``result`` once it has succeeded."""

    run: RunLine
    application: str
    order: OptimizationOrder
    result: OptimizedPrompt | None


class PromptVersionList(msgspec.Struct, frozen=True):
    """The newest first."""

    versions: tuple[PromptVersion, ...]


class AnnotationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An annotation of the prediction; see ``antiphon prompts annotate``."""

    kind: AnnotationKind
    value: str
    criterion: str = ""
    other: str | None = None
    note: str = ""


class AnnotationList(msgspec.Struct, frozen=True):
    """Oldest first."""

    annotations: tuple[Annotation, ...]


class AgreementList(msgspec.Struct, frozen=True):
    """By kind and criterion, each pair of annotators."""

    agreements: tuple[Agreement, ...]


class CaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A case of the prediction's request; without ``expect`` what is known of the prediction suggests one."""

    set: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    expect: tuple[Expectation, ...] = ()
    split: Split = "visible"
    note: str = ""


class CaseResponse(msgspec.Struct, frozen=True):
    """The case, and the version of the set that it is in."""

    case: str
    set: str
    version: int
    expect: tuple[Expectation, ...]


class RegressionSetList(msgspec.Struct, frozen=True):
    """The newest version of each set, by name."""

    sets: tuple[SetVersion, ...]


class RegressionSetDetail(msgspec.Struct, frozen=True):
    """A set's newest version with its cases (without those that were erased) and its latest runs."""

    version: SetVersion
    cases: tuple[CaseLine, ...]
    runs: tuple[RegressionRun, ...]


@operation("GET", "/admin/prompts/{application}", "Prompt versions of an application, with their requests.", "read")
def _versions(call: OperationCall) -> PromptVersionList:
    return PromptVersionList(tuple(call.services.learning.workbench.versions(call.scope, call.path["application"])))


@operation("GET", "/admin/prompts/{application}/agreement", "Agreement of annotators, with contradictions.", "read")
def _agreement(call: OperationCall) -> AgreementList:
    require_whole(call, call.path["application"])
    return AgreementList(call.services.learning.workbench.agreement(call.scope, call.path["application"]))


@operation("GET", "/admin/trials", "List trials of releases and drafts, latest first.", "read")
def _trials(call: OperationCall, query: TrialQuery) -> TrialList:
    found = call.services.learning.trials.list(call.scope, query.application, limit=query.limit)
    return TrialList(read_all(found, TrialLine))


@operation("POST", "/admin/trials", "Order a trial of a release or of a changed prompt.", None, status=202)
def _order_trial(call: OperationCall, body: TrialOrder) -> RunLine:
    return read(call.services.learning.workbench_orders.place_trial(call.scope, call.principal, body), RunLine)


@operation("GET", "/admin/trials/{trial}", "A trial beside what users got, or beside another.", "read")
def _comparison(call: OperationCall, query: ComparisonQuery) -> TrialComparison:
    workbench = call.services.learning.workbench
    require_whole(call, call.services.learning.trials.get(call.scope, call.path["trial"]).application)
    found = workbench.comparison(call.scope, query.against, call.path["trial"])
    return TrialComparison(found, workbench.preferences(call.scope, found))


@operation(
    "POST", "/admin/prompts/{application}/optimizations", "Order a search for a better system text.", None, status=202
)
def _order_optimization(call: OperationCall, body: OptimizationOrder) -> RunLine:
    orders = call.services.learning.workbench_orders
    return read(orders.place_optimization(call.scope, call.principal, call.path["application"], body), RunLine)


@operation("GET", "/admin/optimizations/{run}", "A search for a better system text, and what it found.", "read")
def _optimization(call: OperationCall) -> OptimizationDetail:
    found = call.services.learning.workbench_orders.optimization(call.scope, call.path["run"])
    require_whole(call, found.application)
    return OptimizationDetail(read(found.run, RunLine), found.application, found.order, found.result)


@operation("GET", "/admin/predictions/{prediction}/annotations", "Every annotator's say about a prediction.", "read")
def _annotations(call: OperationCall) -> AnnotationList:
    prediction = call.path["prediction"]
    call.services.access.records.require_prediction(call.scope, call.principal, prediction)
    return AnnotationList(tuple(call.services.learning.workbench.annotations(call.scope, prediction)))


@operation("POST", "/admin/predictions/{prediction}/annotations", "Annotate a prediction.", None)
def _annotate(call: OperationCall, body: AnnotationRequest) -> Annotation:
    sent = AnnotationSubmission(
        call.path["prediction"], body.kind, body.value, body.criterion, other=body.other, note=body.note
    )
    return call.services.learning.workbench.annotate(call.scope, call.principal, sent)


@operation("POST", "/admin/predictions/{prediction}/case", "Turn a prediction into a regression case.", None)
def _add_case(call: OperationCall, body: CaseRequest) -> CaseResponse:
    version, case = call.services.learning.regressions.add_case(
        call.scope, call.principal, call.path["prediction"], body.set, body.expect, split=body.split, note=body.note
    )
    return CaseResponse(case.id, version.name, version.version, case.expect)


@operation("GET", "/admin/regressions", "List regression sets.", "read")
def _sets(call: OperationCall, query: ApplicationQuery) -> RegressionSetList:
    sets = call.services.learning.regression_sets
    return RegressionSetList(
        tuple(sets.version(call.scope, name) for name in sets.names(call.scope, query.application))
    )


@operation("GET", "/admin/regressions/{set}", "A regression set with its cases and latest runs.", "read")
def _set(call: OperationCall) -> RegressionSetDetail:
    learning = call.services.learning
    version = learning.regression_sets.version(call.scope, call.path["set"])
    require_whole(call, version.application)
    runs = learning.regression_sets.runs(call.scope, version.name, limit=10)
    return RegressionSetDetail(version, tuple(learning.regressions.lines(version)), tuple(runs))


@operation("POST", "/admin/regressions/{set}/runs", "Order a run of a release on a set.", None, status=202)
def _order_run(call: OperationCall, body: RegressionOrder) -> RunLine:
    orders = call.services.learning.workbench_orders
    return read(orders.place_run(call.scope, call.principal, call.path["set"], body), RunLine)


def require_whole(call: OperationCall, application: str) -> None:
    """Let policy decide about values of all entities of an application together; ``ForbiddenError`` if it denies."""
    call.services.access.records.require_application(call.scope, call.principal, application)


def expectation(kind: str, value: str, name: str) -> Expectation:
    """An expectation as a form has it; raises ``InvalidInputError`` for one of no kind."""
    kinds = get_args(ExpectationKind)
    if kind not in kinds:
        raise InvalidInputError(
            f"{kind!r} is nothing to expect.", where="expect", next_step=f"Choose {', '.join(kinds)}."
        )
    blank = kind == "schema"
    return read(
        {"kind": kind, "value": "" if blank else value, "property": name if kind in ("label", "metric") else ""},
        Expectation,
    )


def kind_of(text: str) -> AnnotationKind:
    """The kind of an annotation as a form has it; raises ``InvalidInputError`` for one of no kind."""
    for kind in get_args(AnnotationKind):
        if kind == text:
            found: AnnotationKind = kind
            return found
    raise InvalidInputError(
        f"{text!r} is no kind.", where="kind", next_step=f"Choose {', '.join(get_args(AnnotationKind))}."
    )


def split_of(text: str) -> Split:
    """A split as a form has it; raises ``InvalidInputError`` for one of no name."""
    if text not in ("visible", "held-out"):
        raise InvalidInputError(f"{text!r} is no split.", where="split", next_step="Choose visible or held-out.")
    return "visible" if text == "visible" else "held-out"
