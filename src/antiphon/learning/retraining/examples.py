"""Renders a dataset's rows as training examples: the served prompt and the completion to learn.

Invariant: an example's prompt is byte for byte the prompt that serving renders for the same features, entity and
model, and its completion is spaced as the engine's grammar writes it. So what is trained is what is served.

Of the completion only what the model decides is learned: the label and the texts. What the grammar forces has weight
0. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from antiphon.core.errors import FeatureUnavailableError, InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import FineTune
from antiphon.engine.api.messages import ModelDescription
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.serving.answering import prompts
from antiphon.serving.features.reading import apply_contracts
from antiphon.training.examples import Example, Part

_HASH_BITS = 64


class RenderedExamples(msgspec.Struct, frozen=True):
    """Examples in the rows' order, and how many rows serving would have refused (a rejecting freshness contract)."""

    examples: tuple[Example, ...]
    refused: int


def fine_tune_of(application: ApplicationSpec) -> FineTune:
    """Returns the application's declaration of fine-tuning; raises ``InvalidInputError`` when there is none, or no
    outcome to learn from."""
    if application.fine_tune is None:
        raise InvalidInputError(
            f"The application {application.name} does not declare how its model is fine-tuned.",
            where=f"application {application.name}",
            next_step='Declare model=FineTune(base="smollm2-135m", ...) and run `antiphon apply`.',
        )
    if application.outcome is None:
        raise InvalidInputError(
            f"The application {application.name} has no outcome to learn from.",
            where=f"application {application.name}",
            next_step="Declare outcome=Outcome(...) and run `antiphon apply`.",
        )
    return application.fine_tune


def served_application(application: ApplicationSpec, version: str) -> ApplicationSpec:
    """The application as a release of its fine-tuned model has it: that model, told what it was trained on."""
    tune = fine_tune_of(application)
    return msgspec.structs.replace(application, model=version, prompt=tune.prompt or application.prompt)


def render_all(
    rows: Iterable[DatasetRow], application: ApplicationSpec, model: ModelDescription, *, old: bool = False
) -> RenderedExamples:
    """Every row as an example; ``old`` marks replayed ones. Raises ``InvalidInputError`` as :func:`render`."""
    examples: list[Example] = []
    refused = 0
    for row in rows:
        try:
            examples.append(render(row, application, model, old=old))
        except FeatureUnavailableError:
            refused += 1
    return RenderedExamples(tuple(examples), refused)


def render(row: DatasetRow, application: ApplicationSpec, model: ModelDescription, *, old: bool = False) -> Example:
    """One row as an example.

    Args:
        application: as it is declared; what a fine-tuned model is told is taken from its ``fine_tune``.
        model: the base model as the engine describes it, for its chat template.

    Raises:
        FeatureUnavailableError: serving refuses to answer from this row's features.
        InvalidInputError: a template fails, a target is no value of its property, or the label is none of the
            outcome's.
    """
    tune = fine_tune_of(application)
    served = served_application(application, application.model)
    where = f"application {application.name}, model.prompt"
    read = apply_contracts(row.features if served.versions else None, served, row.moment)
    names = prompts.variables(served, read.prints, row.entity, row.question)
    prompt = prompts.chat(model, prompts.turns(served, prompts.render(served.prompt.template, names, where)))
    whole = is_whole(row.example, tune)
    parts = completion(application, tune, {**names, "label": row.label}, row.label, whole=whole)
    return Example(id=row.example, prompt=prompt, parts=parts, old=old)


def is_whole(example: str, tune: FineTune) -> bool:
    """Selects by hash the examples that are trained to the end of the output, so that a rebuilt set has the same."""
    digest = content_hash(f"{tune.seed}|whole|{example}".encode())
    return int(digest[: _HASH_BITS // 4], 16) < tune.whole_share * (1 << _HASH_BITS)


def completion(
    application: ApplicationSpec, tune: FineTune, names: Mapping[str, Any], label: str, *, whole: bool
) -> tuple[Part, ...]:
    """The completion to learn, as parts in the order of the output's properties.

    Args:
        names: what a target's template sees: the prompt's variables and ``label``.
        whole: to the end of the output; otherwise no further than the label.

    Raises:
        InvalidInputError: see :func:`render`.
    """
    schema = application.schema or {}
    properties: Mapping[str, Any] = schema.get("properties", {})
    outcome = application.outcome
    if outcome is None or outcome.property not in properties:
        raise InvalidInputError(
            f"The application {application.name} has no outcome to learn from.",
            where=f"application {application.name}",
            next_step="Declare outcome=Outcome(...) naming a property of the output.",
        )
    parts: list[Part] = []
    forced = "{"
    for place, (name, shape) in enumerate(properties.items()):
        forced += f"{', ' if place else ''}{json.dumps(name, ensure_ascii=False)}: "
        if name == outcome.property:
            labels = [str(each) for each in shape.get("enum", ())]
            if label not in labels:
                raise InvalidInputError(
                    f"The label {label!r} is none of {', '.join(labels)}.",
                    where=f"outcome {name}",
                    next_step="Mend the outcome's source, or the enum of the output.",
                )
            parts += [Part(forced + '"', 0.0), Part(_inner(label), 1.0, label=True)]
            forced = '"'
            if not whole:
                return tuple(parts)
            continue
        written = _target(application, tune, name, shape, names)
        if written.startswith('"'):
            # The model ends a text itself, so that the closing quote is learned with it.
            parts += [Part(forced + '"', 0.0), Part(written[1:], tune.text_weight)]
        else:
            parts += [Part(forced, 0.0), Part(written, tune.text_weight)]
        forced = ""
    return (*parts, Part(forced + "}", 0.0))


def _target(
    application: ApplicationSpec, tune: FineTune, name: str, shape: Mapping[str, Any], names: Mapping[str, Any]
) -> str:
    where = f"application {application.name}, model.targets[{name!r}]"
    template = tune.targets.get(name)
    if template is None:
        raise InvalidInputError(
            f"Nothing says what should be written as {name!r}.", where=where, next_step="Add a template for it."
        )
    text = prompts.render(template, names, where).strip()
    if shape.get("type") == "string" or (shape.get("enum") and all(isinstance(one, str) for one in shape["enum"])):
        longest = shape.get("maxLength")
        if longest is not None and len(text) > longest:
            raise InvalidInputError(
                f"The target has {len(text)} characters, the property at most {longest}: {text[:60]!r}…",
                where=where,
                next_step="Shorten the template, or raise maxLength.",
            )
        return json.dumps(text, ensure_ascii=False)
    try:
        return json.dumps(msgspec.json.decode(text), ensure_ascii=False)
    except msgspec.DecodeError:
        raise InvalidInputError(f"The target {text[:60]!r} is no JSON value.", where=where) from None


def _inner(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
