"""An outcome to be declared, and what scores a rollout's pairs by it."""

from __future__ import annotations

import json
from typing import Any

from tests.harness.embedders import WORDS

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipts import Receipts
from antiphon.definitions.learning import Outcome
from antiphon.learning.evaluation.pairs import OutcomeValues, PairScorer
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.serving.user_functions import UserFunctions

LATE: dict[str, Any] = {
    "output_schema": json.dumps(
        {"type": "object", "properties": {"late": {"enum": ["on time", "late"]}}, "required": ["late"]}
    ),
    "classes": ("late",),
    "outcome": Outcome("late", positive="late"),
}
"""Fields of an application that says whether something is late."""


def pair_scorer(
    database: Database, values: OutcomeValues | None = None, functions: UserFunctions | None = None
) -> PairScorer:
    """Scores pairs by the outcomes of a catalog, or by these values, or by metrics whose functions may be imported."""
    texts = Blobs(database)
    return PairScorer(
        values or Outcomes(database).values, Receipts(database), texts, Releases(database), Conversations(database),
        AnswerScorer(texts, embedders=WORDS, functions=functions or UserFunctions()),
    )  # fmt: skip
