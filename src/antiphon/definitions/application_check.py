"""Checks of a declared application, made without running it; and its frozen value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core import json_schemas
from antiphon.core.errors import InvalidDefinitionsError, InvalidInputError
from antiphon.definitions.application import (
    SLO,
    Application,
    ApplicationSpec,
    Decoding,
    Figure,
    Freshness,
    Reuse,
)
from antiphon.definitions.conversation import Conversation, conversation_mistakes
from antiphon.definitions.degradation import degradation_mistakes
from antiphon.definitions.documents import Documents, Retrieval
from antiphon.definitions.entity import Entity
from antiphon.definitions.feature import duration_mistakes
from antiphon.definitions.feature_view import FeatureView
from antiphon.definitions.granted import GrantedView, model_owner, prompt_name
from antiphon.definitions.guards_check import guard_mistakes, locale_mistakes
from antiphon.definitions.learning import Gates, Outcome, Rollout
from antiphon.definitions.learning_check import learning_mistakes, outcome_of, type_mistakes
from antiphon.definitions.objects import is_objects
from antiphon.definitions.on_demand import OnDemandView
from antiphon.definitions.own_metrics import judge_metrics, own_metrics
from antiphon.definitions.prompt import Prompt
from antiphon.definitions.source import Source
from antiphon.definitions.template import template_reads
from antiphon.definitions.tools import ToolBounds, tool_mistakes

_TEMPLATE_GLOBALS = frozenset({"range", "dict", "namespace", "joiner", "cycler"})
Views = dict[str, FeatureView | GrantedView | OnDemandView]
_VIEWS = (FeatureView, GrantedView, OnDemandView)
_PARTS: dict[str, type] = {
    "prompt": Prompt,
    "decoding": Decoding,
    "reuse": Reuse,
    "slo": SLO,
    "rollout": Rollout,
    "gates": Gates,
}


def application_spec(application: Application, root: Path | None = None) -> ApplicationSpec:
    """The frozen value of an application; raises ``InvalidDefinitionsError`` when it, or a view it uses, has
    mistakes."""
    problems = [f"{application.place}: {text}" for text in application_mistakes(application)]
    if problems:
        raise InvalidDefinitionsError(problems)
    views = [view.spec(root) for view in application.features if isinstance(view, FeatureView)]
    granted = {view.name: view.spec for view in application.features if isinstance(view, GrantedView)}
    tags = {f"{view.name}.{feature}": said for view in views for feature, said in view.tags.items()}
    tags |= {f"{name}.{feature}": said for name, spec in granted.items() if spec for feature, said in spec.tags.items()}
    retrievals = tuple(one.spec(root) for one in application.retrievals)
    retrieved = {one.documents.name: one.documents.spec(root) for one in application.retrievals}
    tags |= {f"{name}.{feature}": said for name, spec in retrieved.items() for feature, said in spec.tags.items()}
    as_declared = {name: said for name, said in vars(application).items() if name in ApplicationSpec.__struct_fields__}
    made = {
        "features": {view.name: view.definition_version for view in views}
        | {name: spec.definition_version if spec else "" for name, spec in granted.items()},
        "entity_keys": _entity_keys(application),
        "output_schema": None if application.output is None else msgspec.json.encode(application.output).decode(),
        "classes": _classes(application.output),
        "freshness": {_view_name(view): contract for view, contract in application.freshness.items()},
        "outcome": outcome_of(application, root),
        "ungated": application.ungated or msgspec.UNSET,
        "more_outcomes": application.more_outcomes or msgspec.UNSET,
        "own_metrics": own_metrics(application.metrics) or msgspec.UNSET,
        "judge_metrics": judge_metrics(application.metrics) or msgspec.UNSET,
        "signals": application.signals or msgspec.UNSET,
        "locale": msgspec.UNSET if application.locale == "en" else application.locale,
        "conversation": msgspec.UNSET if application.conversation is None else application.conversation,
        "tools": application.tools or msgspec.UNSET,
        "tool_bounds": msgspec.UNSET if application.tool_bounds is None else application.tool_bounds,
        "on_demand": tuple(view.spec() for view in application.features if isinstance(view, OnDemandView)),
        "tags": tags,
        "retrievals": retrievals or msgspec.UNSET,
    }
    return ApplicationSpec(**as_declared | made)


def application_mistakes(application: Application) -> Iterator[str]:
    """Yields the mistakes of an application, a sentence each; its views and entities are checked by themselves."""
    label = f"application {application.name!r}"
    for text in _mistakes(application):
        yield f"{label}: {text}"


def _mistakes(application: Application) -> Iterator[str]:
    name = application.name
    if not isinstance(name, str) or not name or not name.replace("-", "").isalnum() or name != name.lower():
        yield "a name is lower-case letters, digits and hyphens."
    if not isinstance(application.model, str) or not application.model:
        yield f"model must be the name of a model or a FineTune, not {application.model!r}."
    if not isinstance(application.purpose, str) or not application.purpose.strip():
        yield "purpose must say what it is for."
    views: Views = {view.name: view for view in application.features if isinstance(view, _VIEWS)}
    for view in application.features:
        if isinstance(view, Documents):
            yield f"features: {view.name!r} is Documents; name it in a Retrieval of retrievals=[…]."
        elif not isinstance(view, _VIEWS):
            yield f"features: {view!r} is not a feature view."
    if len(set(map(prompt_name, views))) < sum(isinstance(view, _VIEWS) for view in application.features):
        yield "features names a view twice, or two that are named alike in templates."
    if application.fine_tune is not None and any(isinstance(view, GrantedView) for view in views.values()):
        yield "a model is not fine-tuned on granted views, whose history is their owner's."
    if application.fine_tune is not None and model_owner(str(application.model)) is not None:
        yield "a granted model answers and is not fine-tuned: its weights are its owner's."
    yield from _on_demand_mistakes(application, views)
    for entity in application.entities:
        if not isinstance(entity, Entity):
            yield f"entities: {entity!r} is not an Entity."
    broken = set()
    for part, expected in _PARTS.items():
        for text in type_mistakes(getattr(application, part), expected, part):
            broken.add(part)
            yield text
    if application.output is not None:
        if (found := json_schemas.mistake(application.output)) is not None:
            yield f"output: {found}."
        elif application.output.get("type") != "object":
            yield "output must be a JSON schema of type object."
    yield from _figure_mistakes(application, views)
    if "prompt" not in broken:
        yield from _template_mistakes(application, views, application.prompt.template, "prompt.template", extra=())
        if not application.prompt.template.strip():
            yield "prompt.template is empty."
    yield from _retrieval_mistakes(application)
    yield from _guard_mistakes(application, views)
    yield from _freshness_mistakes(application, views)
    if application.conversation is not None:
        wrong = list(type_mistakes(application.conversation, Conversation, "conversation"))
        yield from wrong
        if not wrong and "prompt" not in broken:
            yield from conversation_mistakes(application.conversation, _reads_question(application.prompt))
    yield from tool_mistakes(application.tools, application.tool_bounds or ToolBounds())
    yield from degradation_mistakes(application.fallback, application.when_unavailable)
    if "decoding" not in broken:
        yield from _decoding_mistakes(application.decoding)
    if "reuse" not in broken:
        yield from _reuse_mistakes(application.reuse)
    if "slo" not in broken:
        for field in ("ttft_p99", "latency_p99", "tpot_p99"):
            if (bound := getattr(application.slo, field)) is not None:
                yield from duration_mistakes(bound, f"slo.{field}")
        if application.slo.tokens is not msgspec.UNSET and application.slo.tokens < 1:
            yield f"slo.tokens is a number of tokens from 1, not {application.slo.tokens}."
        slowdown = application.slo.slowdown
        if slowdown is not None and not (isinstance(slowdown, int | float) and 0 <= slowdown <= 10):
            yield f"slo.slowdown: {slowdown!r} is not a share between 0 and 10, such as 0.1."
    if not broken & {"rollout", "gates"}:
        yield from learning_mistakes(application, _entity_keys(application))
        for name in application.gates.slices if isinstance(application.gates, Gates) else ():
            if "." in name:
                yield from _unknown_feature(views, name, "gates.slices")
    yield from _fine_tune_template_mistakes(application, views)


def _retrieval_mistakes(application: Application) -> Iterator[str]:
    """Names of retrievals are one each, and their queries read the request alone."""
    names: set[str] = set()
    for one in application.retrievals:
        if not isinstance(one, Retrieval):
            yield f"retrievals: {one!r} is not a Retrieval."
            continue
        wrong = list(one.mistakes())
        yield from (f"retrieval {one.name!r}: {text}" for text in wrong)
        if wrong:
            continue
        if one.name in names:
            yield f"retrieval {one.name!r}: two have this name; give each one of its own."
        names.add(one.name)
        parts = {"query": one.query} | {f"filters[{name!r}]": value for name, value in one.filters.items()}
        for part, text in parts.items():
            yield from _query_mistakes(application, text, f"retrieval {one.name!r}, {part}")


def _query_mistakes(application: Application, text: str, label: str) -> Iterator[str]:
    try:
        reads = template_reads(text)
    except InvalidInputError as error:
        yield f"{label}, {error.where}: {error.what}"
        return
    for name in sorted(reads.names - {"question", "entity", "inputs"} - _TEMPLATE_GLOBALS):
        yield f"{label} reads {name!r}; it sees question, entity and inputs."
    keys = _entity_keys(application)
    for key, _ in reads.entity_keys:
        if key not in keys:
            yield f"{label}: entity has no key {key!r}; it has {', '.join(keys) or 'none'}."


def _reads_question(prompt: Prompt) -> bool:
    try:
        return "question" in template_reads(prompt.template).names
    except InvalidInputError:  # Its syntax is another mistake.
        return True


def _fine_tune_template_mistakes(application: Application, views: Views) -> Iterator[str]:
    """Templates of a fine-tuned model see what the application's prompt sees, those of its targets the label too."""
    tune = application.fine_tune
    if tune is None:
        return
    if isinstance(tune.prompt, Prompt) and isinstance(tune.prompt.template, str):
        yield from _template_mistakes(application, views, tune.prompt.template, "model.prompt.template", extra=())
    for name, text in tune.targets.items() if isinstance(tune.targets, dict) else ():
        if isinstance(text, str):
            yield from _template_mistakes(application, views, text, f"model.targets[{name!r}]", extra=("label",))


def _on_demand_mistakes(application: Application, views: Views) -> Iterator[str]:
    """Inputs of one name have one type, and what is read is a stored feature of the application."""
    types: dict[str, object] = {}
    defaults: dict[str, object] = {}
    for view in views.values():
        if not isinstance(view, OnDemandView) or list(view.mistakes()):
            continue
        spec = view.spec()
        for name, declared in spec.inputs.items():
            if types.setdefault(name, declared) != declared:
                yield f"the input {name!r} is a {types[name]} in one view and a {declared} in {spec.name!r}."
            default = (spec.defaults or {}).get(name, msgspec.UNSET)
            if defaults.setdefault(name, default) != default:
                yield f"the input {name!r} has another default in {spec.name!r} than in another view."
        for name in sorted(spec.reads()):
            yield from _unknown_feature(views, name, f"view {spec.name!r}")
            if isinstance(views.get(name.partition(".")[0]), OnDemandView):
                yield f"view {spec.name!r}: {name} is computed on demand as well; write its expression out."
    for outcome in (application.outcome, *application.more_outcomes):
        if isinstance(outcome, Outcome) and (outcome.name or outcome.property) in types:
            yield f"the input {outcome.name or outcome.property!r} has the name of the outcome, which is not known yet."
    for key in _entity_keys(application):
        if types.get(key, "text") != "text":
            yield f"the input {key!r} is the entity key of that name, which is a text, not a {types[key]}."


def _figure_mistakes(application: Application, views: Views) -> Iterator[str]:
    seen: set[str] = set()
    for figure in application.figures:
        wrong = list(type_mistakes(figure, Figure, "figure"))
        yield from wrong
        if wrong:
            continue
        yield from _unknown_feature(views, figure.feature, f"figure {figure.feature!r}")
        if figure.feature in seen:
            yield f"figure {figure.feature!r} is declared twice."
        seen.add(figure.feature)
        if not math.isfinite(figure.step) or figure.step < 0:
            yield f"figure {figure.feature!r}: step must be 0 or a positive number, not {figure.step!r}."
        if not math.isfinite(figure.scale) or figure.scale == 0:
            yield f"figure {figure.feature!r}: scale must be a number other than 0, not {figure.scale!r}."


def _unknown_feature(views: Views, name: str, label: str) -> Iterator[str]:
    view, _, feature = name.partition(".")
    if view not in views:
        yield f"{label}: the application has no view {view!r}; it has {', '.join(sorted(views)) or 'none'}."
    elif feature not in views[view].body:
        yield f"{label}: the view {view!r} has no feature {feature!r}; it has {', '.join(views[view].body)}."
    elif getattr(views[view].body[feature], "aggregation", None) == "embed":
        yield f"{label}: {name} is a vector, which is looked up by its neighbors and not read here."


def _template_mistakes(
    application: Application, views: Views, text: str, label: str, extra: tuple[str, ...]
) -> Iterator[str]:
    try:
        reads = template_reads(text)
    except InvalidInputError as error:
        yield f"{label}, {error.where}: {error.what}"
        return
    figures = {figure.feature for figure in application.figures if isinstance(figure, Figure)}
    by_prompt_name = {prompt_name(view): view for view in views}
    seen = ("entity", "question", "features", *(("retrieved",) if application.retrievals else ()), *extra)
    for name in sorted(reads.names - {*seen} - _TEMPLATE_GLOBALS):
        yield f"{label} reads {name!r}; it sees {', '.join(seen)}."
    retrieved = {one.name for one in application.retrievals if isinstance(one, Retrieval)}
    for name, line in dict.fromkeys(reads.retrieved):
        if name not in retrieved:
            known = ", ".join(sorted(retrieved)) or "none"
            yield f"{label}, line {line}: there is no retrieval {name!r}; there is {known}."
    for whole, line in reads.whole:
        yield f"{label}, line {line}: name one feature, features.VIEW.FEATURE, instead of {whole!r}."
    for view, feature, line in dict.fromkeys(reads.features):
        name = f"{by_prompt_name.get(view, view)}.{feature}"
        unknown = list(_unknown_feature(views, name, f"{label}, line {line}"))
        yield from unknown
        if not unknown and name not in figures:
            yield f"{label}, line {line}: {name} has no Figure that says how it is printed."
    keys = _entity_keys(application)
    for key, line in dict.fromkeys(reads.entity_keys):
        if key not in keys:
            yield f"{label}, line {line}: entity has no key {key!r}; it has {', '.join(keys) or 'none'}."


def _guard_mistakes(application: Application, views: Views) -> Iterator[str]:
    labels: set[str] = set()
    for guard in application.guards:
        if wrong := list(guard_mistakes(guard, application.output)):
            yield from wrong
            continue
        if guard.label in labels:
            yield f"guard: two are named {guard.label!r}; give each a name."
        labels.add(guard.label)
        label = f"guard {guard.label}, fallback"
        yield from _template_mistakes(application, views, guard.fallback, label, extra=("output",))
    yield from locale_mistakes(application.locale, application.guards)


def _freshness_mistakes(application: Application, views: Views) -> Iterator[str]:
    documents = {
        view.name for one in application.retrievals if isinstance(view := getattr(one, "documents", 0), Documents)
    }
    for view, contract in application.freshness.items():
        name = _view_name(view)
        if name in documents:
            if getattr(contract, "when_stale", None) not in ("flag", "reject"):
                yield f"freshness of {name!r}: documents are retrieved as published; take flag or reject."
        elif name not in views:
            yield f"freshness: the application has no view {name!r}; it has {', '.join(sorted(views)) or 'none'}."
        elif isinstance(views[name], OnDemandView):
            yield f"freshness: {name!r} is computed when something is asked; contracts are for the views it reads."
        wrong = list(type_mistakes(contract, Freshness, f"freshness of {name!r}"))
        yield from wrong
        if not wrong:
            yield from duration_mistakes(contract.max_age, f"freshness of {name!r}: max_age")
            yield from duration_mistakes(contract.within, f"freshness of {name!r}: within")
            if isinstance(views.get(name), GrantedView) and contract.when_stale in ("previous", "recompute"):
                yield f"freshness of {name!r}: a granted view is read as published; take flag, default or reject."
            if contract.when_stale == "recompute" and contract.min_source_quality > 0:
                yield (
                    f"freshness of {name!r}: the quality of a source is not known now, so recompute cannot keep "
                    "min_source_quality; take previous."
                )
            source = getattr(views.get(name), "source", None)
            if contract.when_stale == "recompute" and isinstance(source, Source) and is_objects(source.options["path"]):
                yield (
                    f"freshness of {name!r}: its source's objects would be fetched for every request; take previous."
                )
            if not 0 <= contract.min_source_quality <= 1:
                yield f"freshness of {name!r}: min_source_quality is a share from 0 to 1."


def _decoding_mistakes(decoding: Decoding) -> Iterator[str]:
    if decoding.max_tokens < 1:
        yield f"decoding.max_tokens must be at least 1, not {decoding.max_tokens}."
    if not 0 <= decoding.temperature <= 10:
        yield f"decoding.temperature must be from 0 to 10, not {decoding.temperature}."
    if not 0 < decoding.top_p <= 1:
        yield f"decoding.top_p must be above 0 and at most 1, not {decoding.top_p}."


def _reuse_mistakes(reuse: Reuse) -> Iterator[str]:
    if reuse.mode == "age" and reuse.max_age is None:
        yield "reuse by age needs max_age."
    if not 0 <= reuse.refreshed <= 10_000:
        yield f"reuse.refreshed is a number of entities from 0 to 10000, not {reuse.refreshed}."
    elif reuse.refreshed and reuse.mode == "never":
        yield "reuse.refreshed keeps stored answers new, and the mode 'never' serves none; take 'fingerprint'."
    if reuse.max_age is not None:
        yield from duration_mistakes(reuse.max_age, "reuse.max_age")


def _entity_keys(application: Application) -> tuple[str, ...]:
    entities = [entity for entity in application.entities if isinstance(entity, Entity)]
    entities += [
        view.entity
        for view in application.features
        if isinstance(view, (FeatureView, GrantedView)) and isinstance(view.entity, Entity)
    ]
    return tuple(dict.fromkeys(key for entity in entities for key in entity.keys))


def _classes(schema: dict[str, Any] | None) -> tuple[str, ...]:
    properties = (schema or {}).get("properties", {})
    return tuple(
        name
        for name, part in properties.items()
        if isinstance(part, dict) and part.get("enum") and all(isinstance(label, str) for label in part["enum"])
    )


def _view_name(view: object) -> str:
    return view.name if isinstance(view, _VIEWS) else str(view)
