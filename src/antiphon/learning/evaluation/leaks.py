"""Finds rows of an evaluation set that a release has seen: its model in training, or its prompt in the examples. Pure.

A row is the same as another that was asked the same: question, features, and of the entity what the template reads; all
of the entity where the rows keep no question. A question counts also where the release's own template leaves it out:
what the model was trained on showed it, and without it every row would look alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.template import TemplateReads, template_reads
from antiphon.learning.datasets.reader import DatasetRow

IN_TRAINING = "in-training"
IN_EXAMPLES = "in-examples"

_TELLING = 12
"""Characters of a question from which on it is looked for inside of an example; a shorter one is the whole example."""


def row_identities(application: ApplicationSpec, rows: Iterable[DatasetRow]) -> frozenset[str]:
    """The identities of rows that a model was trained on."""
    reads = template_reads(application.prompt.template)
    return frozenset(_identity(reads, row) for row in rows)


def seen_rows(application: ApplicationSpec, rows: Iterable[DatasetRow], trained: Collection[str]) -> dict[str, str]:
    """Rows that the release has seen: by example, the reason.

    Args:
        trained: identities of what its model was trained on.
    """
    reads = template_reads(application.prompt.template)
    shown = [_words(user) for user, _ in application.prompt.examples] if "question" in reads.names else []
    found = {}
    for row in rows:
        if trained and _identity(reads, row) in trained:
            found[row.example] = IN_TRAINING
        elif row.question and any(_stands_in(_words(row.question), text) for text in shown):
            found[row.example] = IN_EXAMPLES
    return found


def _identity(reads: TemplateReads, row: DatasetRow) -> str:
    question = row.question or None
    keys = {key for key, _ in reads.entity_keys}
    whole = question is None or ("entity" in reads.names and not keys)
    entity = {key: value for key, value in row.entity.items() if whole or key in keys}
    values = {name: feature.value for name, feature in row.features.values.items()}
    # Without the label: the rows that are left would be those with an unusual one.
    return content_hash([question and _words(question), entity, values])


def _stands_in(question: str, example: str) -> bool:
    if len(question) < _TELLING:
        return question == example
    return re.search(rf"(?<!\w){re.escape(question)}(?!\w)", example) is not None


def _words(text: str) -> str:
    return " ".join(text.casefold().split())
