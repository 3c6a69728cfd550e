"""Derives what a run read and made from its arguments, its result and its steps. Pure: one rule a workflow.

A run that failed or was canceled has the inputs that its arguments name, and the outputs that its steps had made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from antiphon.definitions.assets import AssetPart
from antiphon.durable.run import Run, StepRecord
from antiphon.services.lineage.values import AssetKind, AssetReference, RunReferences
from antiphon.services.workflows import (
    APPLY,
    BACKFILL,
    DATASET,
    DRIFT,
    EVALUATE,
    EXPORT,
    GATES,
    NOTIFY,
    OPENAI_BATCH,
    OPTIMIZE,
    PLAYBOOK,
    REBUILD,
    REFRESH,
    REGRESSIONS,
    SKEW,
    TABLE_JOB,
    TRAIN,
    TRY,
    USER_WORKFLOWS,
)

_MATERIALIZE, _GATE, _KEEP, _BUILD = "materialize ", "gate ", "keep ", "build "
_Rule = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], RunReferences]
"""Of arguments, result and results of steps by their names."""


def references_of(run: Run, steps: Sequence[StepRecord] = ()) -> RunReferences:
    """The references of a run. Of a workflow that is not known there are none.

    Args:
        steps: of the run; without them those are left out that only a step names.
    """
    if run.workflow in USER_WORKFLOWS.values():
        return _user_workflow(run.arguments)
    rule = _RULES.get(run.workflow)
    if rule is None:
        return RunReferences("")
    return rule(run.arguments, run.result or {}, {step.name: step.result for step in steps})


def _user_workflow(arguments: Mapping[str, Any]) -> RunReferences:
    """Names the inputs that it was ordered with but views, of which the catalog knows the snapshots."""
    name, order = str(arguments["workflow"]), arguments.get("part")
    if order is None:
        return RunReferences(name)
    inputs = [
        reference
        for key, version in sorted(order["inputs"].items())
        if (reference := _input(key, version, order["part"][1])) is not None
    ]
    return RunReferences(name, tuple(inputs), _named("workflow", [name]))


def _input(key: str, version: str, partition: str) -> AssetReference | None:
    """The reference of an input of a workflow, by its key in the graph of assets and its version."""
    kind, _, name = key.partition("/")
    match kind:
        case "workflow":
            return AssetReference("workflow", name)
        case "answers":
            return AssetReference("answers", name.partition("/")[0])
        case "file":
            return AssetReference("file", str(AssetPart(name, partition) if "{" in name else name))
        case "release" | "model" | "evaluation" | "dataset":
            return AssetReference(kind, version)
    return None


def _refresh(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    views = [str(view) for view in arguments["views"]]
    made = _passed(views, steps)
    inputs = [AssetReference("source", made.get(view, view)) for view in views]
    subject = "+".join(sorted(view.partition("@")[0] for view in views))
    outputs = _named("snapshot", made.values())
    moment = (steps.get("pin") or {}).get("as_of") or arguments.get("as_of")
    return RunReferences(subject, tuple(inputs), outputs, moment=None if moment is None else _instant(moment))


def _passed(views: Sequence[str], steps: Mapping[str, Any]) -> dict[str, str]:
    """Definition versions to the snapshots that passed their gates."""
    found = {}
    for view in views:
        made, judged = steps.get(f"{_MATERIALIZE}{view}"), steps.get(f"{_GATE}{view}")
        if made and judged and "id" in made and judged["outcome"] != "blocked":
            found[view] = str(made["id"])
    return found


def _backfill(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    views = [str(view) for view in arguments["views"]]
    kept = [name.removeprefix(_KEEP) for name, outcome in steps.items() if _kept(name, outcome)]
    made = [steps[f"{_MATERIALIZE}{name}"]["id"] for name in kept if steps.get(f"{_MATERIALIZE}{name}")]
    subject = "+".join(sorted(view.partition("@")[0] for view in views))
    outputs, inputs = _named("snapshot", made), tuple(AssetReference("source", view) for view in views)
    return RunReferences(subject, inputs, outputs, moment=_instant(arguments["until"]))


def _kept(step: str, result: Any) -> bool:
    return step.startswith(_KEEP) and result != "blocked"


def _dataset(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    spec = arguments["spec"]
    application, views = str(spec["application"]), sorted(spec["views"].items())
    read = _named("view", (f"{view}@{version}" for view, version in views))
    answers = _named("answers", [application] if "receipts" in spec["origins"] else [])
    outputs = _named("dataset", [result.get("dataset")])
    return RunReferences(application, (*read, *answers), outputs, moment=_instant(spec["cutoff"]))


def _apply(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    refreshed = _refresh(arguments, result, steps)
    activated = set(result.get("activated", ()))
    live = [one["release"] for one in arguments["activations"] if one["application"] in activated]
    outputs = (*refreshed.outputs, *_named("release", live))
    subject = "+".join(sorted(one["application"] for one in arguments["activations"])) or refreshed.subject
    return RunReferences(subject, refreshed.inputs, outputs, moment=refreshed.moment)


def _train(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    application = str(arguments["application"])
    pinned, plan = steps.get("pin") or {}, steps.get("plan") or {}
    read = {f"{view}@{version}" for spec in plan.values() for view, version in spec["views"].items()}
    datasets = [made for name, made in steps.items() if name.startswith(_BUILD)]
    seen = arguments.get("preferences") or any("receipts" in spec["origins"] for spec in plan.values())
    inputs = (
        *_named("view", sorted(read)),
        *_named("answers", [application] if seen else []),
        *_named("model", [pinned.get("parent")]),
        *_named("evaluation", [pinned.get("before")]),
    )
    forgetting = result.get("forgetting") or {}
    models = [one for one in steps.get("register versions") or () if one]
    outputs = (
        *_named("dataset", datasets),
        *_named("model", [*models, result.get("model")]),
        *_named("release", [result.get("release")]),
        *_named("evaluation", [result.get("evaluation"), forgetting.get("evaluation")]),
    )
    cutoff = pinned.get("cutoff") or arguments.get("cutoff")
    return RunReferences(application, inputs, outputs, moment=None if cutoff is None else _instant(cutoff))


def _rebuild(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    model = _named("model", [arguments["model"]])
    return RunReferences(_application(str(arguments["model"])), model, model if result.get("equal") else ())


def _gates(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    chosen, on = steps.get("choose the evaluation set") or {}, str(result.get("on") or "")
    # The set is looked for also where it is too small to be asked.
    dataset = [] if chosen.get("why") else [chosen.get("dataset")]
    kind: AssetKind = "evaluation" if on.startswith("eval_") else "safety-report"
    inputs = (*_named("release", [arguments["release"], arguments["instead_of"]]), *_named("dataset", dataset))
    return RunReferences(str(arguments["application"]), inputs, _named(kind, [on]), arguments.get("ordered_by"))


def _table_job(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    job = _named("job", [arguments["job"]])
    return RunReferences("", job, job)


def _batch(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    job = _named("job", [arguments["batch"]])
    return RunReferences("", job, job)


def _skew(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    return RunReferences("features", outputs=_named("report", ["skew"] if result else []))


def _drift(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    names = sorted(result.get("reports", {}) or steps.get("applications") or ())
    reports = [f"drift/{name}" for name in sorted(result.get("reports", {}))]
    return RunReferences("outcomes", _named("answers", names), _named("report", reports))


def _evaluate(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    dataset = [steps.get("choose the evaluation set")]
    inputs = (*_named("release", [arguments["release"]]), *_named("dataset", dataset))
    outputs = _named("evaluation", [result.get("evaluation")])
    return RunReferences(str(arguments["application"]), inputs, outputs)


def _trial(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    order = arguments["order"]
    inputs = (*_named("release", [order.get("release")]), *_named("answers", [order["application"]]))
    return RunReferences(str(order["application"]), inputs, _named("trial", [result.get("trial")]))


def _regressions(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    named = str(arguments["set"])
    inputs = (*_named("release", [arguments["order"]["release"]]), *_named("regression-set", [named]))
    return RunReferences(named.partition("@")[0], inputs, _named("regression-run", [result.get("regression_run")]))


def _search(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    order = arguments["order"]
    inputs = (*_named("release", [order.get("release")]), *_named("regression-set", [order["set"]]))
    return RunReferences(str(order["set"]), inputs)


def _notify(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    return RunReferences(str(arguments["channel"]))


def _playbook(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    return RunReferences(str(arguments["playbook_run"]).rpartition(".")[2])


def _export(arguments: Mapping[str, Any], result: Mapping[str, Any], steps: Mapping[str, Any]) -> RunReferences:
    work = arguments["work"]
    kind, _, name = str(work["asset"]).partition("/")
    versions = [str(one["id"]) for one in steps.get("choose") or ()]
    finished = [version for version in versions if f"finish {version}" in steps]
    inputs = {
        "view": _named("snapshot", versions),
        "dataset": _named("dataset", versions),
        "answers": _named("answers", [f"{name.partition('/')[0]}@{version}" for version in versions]),
        "predictions": _named("answers", [name]),
    }[kind]
    outputs = _named("export", [f"{arguments['export']}@{version}" for version in finished])
    return RunReferences(str(arguments["export"]), inputs, outputs)


_RULES: dict[str, _Rule] = {
    REFRESH: _refresh,
    BACKFILL: _backfill,
    DATASET: _dataset,
    APPLY: _apply,
    TRAIN: _train,
    REBUILD: _rebuild,
    GATES: _gates,
    TABLE_JOB: _table_job,
    OPENAI_BATCH: _batch,
    SKEW: _skew,
    DRIFT: _drift,
    EVALUATE: _evaluate,
    TRY: _trial,
    REGRESSIONS: _regressions,
    OPTIMIZE: _search,
    NOTIFY: _notify,
    EXPORT: _export,
    PLAYBOOK: _playbook,
}


def _named(kind: AssetKind, ids: Iterable[Any]) -> tuple[AssetReference, ...]:
    """References to the ids that are there, each once, in their order."""
    return tuple(dict.fromkeys(_each(kind, ids)))


def _each(kind: AssetKind, ids: Iterable[Any]) -> Iterator[AssetReference]:
    for id in ids:
        if id:
            yield AssetReference(kind, str(id))


def _application(model: str) -> str:
    return model.rpartition(".")[0]


def _instant(moment: str | datetime) -> datetime:
    return moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
