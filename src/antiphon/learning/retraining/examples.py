"""Renders a dataset's rows as training examples: the served prompt and the completion to learn.

Invariant: an example's prompt is byte for byte the prompt that serving renders for the same features, entity, question
and model, or that it served, where the row names that one; its completion is one that the engine could write (see
``completions``). So what is trained is what is served. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from antiphon.core.errors import FeatureUnavailableError, InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import FineTune
from antiphon.engine.api.messages import ModelDescription
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.learning.retraining.completions import completion
from antiphon.serving.answering import prompts
from antiphon.serving.features.reading import apply_contracts
from antiphon.training.examples import Example

_HASH_BITS = 64


class RenderedExamples(msgspec.Struct, frozen=True):
    """Examples in the rows' order.

    ``refused`` counts rows that serving would have refused (a rejecting freshness contract), ``unwritten`` those of
    which nothing can be learned: the output cannot say what is known (a reference is longer than the property, say),
    ``erased`` those whose served prompt was erased since.
    """

    examples: tuple[Example, ...]
    refused: int
    unwritten: int = 0
    erased: int = 0


def fine_tune_of(application: ApplicationSpec) -> FineTune:
    """Returns the application's declaration of fine-tuning; raises ``InvalidInputError`` when there is none, or no
    outcome to learn from."""
    tune = declared_tuning(application)
    if application.outcome is None:
        raise InvalidInputError(
            f"The application {application.name} has no outcome to learn from.",
            where=f"application {application.name}",
            next_step="Declare outcome=Outcome(...) and run `antiphon apply`. What people preferred can be learned: "
            f"`antiphon train {application.name} --preferences`.",
        )
    return tune


def declared_tuning(application: ApplicationSpec) -> FineTune:
    """As :func:`fine_tune_of`, whatever it learns from."""
    if application.fine_tune is None:
        raise InvalidInputError(
            f"The application {application.name} does not declare how its model is fine-tuned.",
            where=f"application {application.name}",
            next_step='Declare model=FineTune(base="smollm2-135m", ...) and run `antiphon apply`.',
        )
    return application.fine_tune


def served_application(application: ApplicationSpec, version: str) -> ApplicationSpec:
    """The application as a release of its fine-tuned model has it: that model, told what it was trained on."""
    tune = declared_tuning(application)
    return msgspec.structs.replace(application, model=version, prompt=tune.prompt or application.prompt)


def render_all(
    rows: Iterable[DatasetRow],
    application: ApplicationSpec,
    model: ModelDescription,
    text_of: Callable[[str], bytes],
    *,
    old: bool = False,
) -> RenderedExamples:
    """Every row as an example; ``old`` marks replayed ones. Raises ``InvalidInputError`` as :func:`render`.

    Args:
        text_of: the UTF-8 bytes of a text by its SHA-256; raises ``NotFoundError`` once it is erased.
    """
    rendered: list[Example] = []
    refused = erased = 0
    for row in rows:
        try:
            prompt = None if row.prompt_blob is msgspec.UNSET else text_of(row.prompt_blob).decode()
        except NotFoundError:
            erased += 1
            continue
        try:
            rendered.append(render(row, application, model, prompt=prompt, old=old))
        except FeatureUnavailableError:
            refused += 1
    examples = tuple(example for example in rendered if example.parts)
    return RenderedExamples(examples, refused, len(rendered) - len(examples), erased)


def render(
    row: DatasetRow,
    application: ApplicationSpec,
    model: ModelDescription,
    *,
    prompt: str | None = None,
    old: bool = False,
) -> Example:
    """One row as an example, without any part where nothing of it can be learned.

    Args:
        application: as it is declared; what a fine-tuned model is told is taken from its ``fine_tune``.
        model: the base model as the engine describes it, for its chat template.
        prompt: the one that the row was served with; ``None`` renders it from the row.

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
    if prompt is None:
        prompt = prompts.chat(model, prompts.turns(served, prompts.render(served.prompt.template, names, where)))
    whole = application.shapes[0].form != "label" or is_whole(row.example, tune)
    parts = completion(row, application, model, {**names, "label": row.label}, whole=whole)
    return Example(id=row.example, prompt=prompt, parts=parts, old=old)


def is_whole(example: str, tune: FineTune) -> bool:
    """Selects by hash the examples that are trained to the end of the output, so that a rebuilt set has the same."""
    digest = content_hash(f"{tune.seed}|whole|{example}".encode())
    return int(digest[: _HASH_BITS // 4], 16) < tune.whole_share * (1 << _HASH_BITS)
