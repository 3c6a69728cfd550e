"""Answers of an evaluation that people are asked to score, so that a judge model can be corrected by them."""

from __future__ import annotations

import msgspec

from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.scores import decode_rows
from antiphon.learning.workbench.asking import text_of
from antiphon.services.learning.workbench import Workbench
from antiphon.services.project.store import Store


class AnswerToScore(msgspec.Struct, frozen=True):
    """An answer of an evaluation that somebody is asked to score.

    Its first fields are those of an annotation: a line with a ``value`` goes back by ``antiphon prompts annotate``.

    Attributes:
        value: empty, to be filled in.
        question, text: ``None`` where they were erased. What a judge said is not told: a person's score corrects it.
    """

    prediction: str
    kind: str
    criterion: str
    value: str
    question: str | None
    text: str | None


def to_score(
    workbench: Workbench, scope: Scope, who: Principal, evaluation: str, size: int, criterion: str | None = None
) -> list[AnswerToScore]:
    """Answers of an evaluation or a safety report that this person has not scored by a criterion, drawn by a hash of
    their rows: any number of the first is a random sample, and other releases on the same rows get the same ones.

    Args:
        criterion: that of the application's judge metric by default.

    Raises:
        NotFoundError: there is no such evaluation, or its rows were erased.
        ForbiddenError: policy keeps its answers from this principal.
        InvalidInputError: the application has no judge metric, or several, and no criterion is named.
    """
    store = workbench.store
    reports = store.safety_reports if evaluation.startswith("safety_") else store.evaluations
    found = reports.get(scope, evaluation)
    bundle = workbench.bundle(scope, found.release)
    judges = [] if bundle is None else [one.criterion() for one in bundle.application.judge_metrics or ()]
    if criterion is None and len(judges) != 1:
        raise InvalidInputError(
            f"The application {found.application} has {len(judges)} judge metrics.",
            where="criterion",
            next_step=f"Name what is scored: {', '.join(judges) or 'any word, such as helpful'}.",
        )
    criterion = criterion or judges[0]
    stored = decode_rows(store.blobs.get(scope, found.rows_blob))
    drawn = sorted(
        (row for row in (*stored.rows, *stored.live) if row.prediction is not None),
        key=lambda row: (content_hash(["score", row.example]), str(row.prediction)),
    )
    if not drawn:
        raise NotFoundError(
            f"{evaluation} has no answers to score.", where=evaluation, next_step="See `antiphon evaluations list`."
        )
    scored = {
        one.prediction
        for one in store.annotations.of_predictions(scope, [str(row.prediction) for row in drawn])
        if (one.kind, one.criterion, one.annotator) == ("rubric", criterion, who.id)
    }
    shown: list[AnswerToScore] = []
    for row in (one for one in drawn if one.prediction not in scored):
        if len(shown) == size:
            break
        receipt = workbench.records.require_prediction(scope, who, str(row.prediction))
        question, text = _question(store, receipt), text_of(receipt, store.blobs)
        shown.append(AnswerToScore(receipt.prediction, "rubric", criterion, "", question, text))
    return shown


def _question(store: Store, receipt: Receipt) -> str | None:
    try:
        return None if receipt.question_blob is None else store.blobs.get(receipt.scope, receipt.question_blob).decode()
    except NotFoundError:
        return None
