"""Outcomes: what later turned out to be true of a prediction.

Invariants: every outcome that arrives is kept with what became of it; at most one label of a prediction is joined,
the first, and no later one changes it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.core.scope import Scope

OutcomeKind = Literal["label", "thumbs", "correction", "text"]
OutcomeStatus = Literal["joined", "late", "duplicate", "contradictory", "unknown"]


class Outcome(msgspec.Struct, frozen=True):
    """One outcome and what became of it.

    Attributes:
        id: the sender's, or a hash of its content: the same outcome sent twice is one.
        prediction: the prediction it belongs to; ``None`` when it is ``unknown``.
        release, role, as_of, probability: of that prediction; the probability it gave to the positive label.
        value: the label, ``up`` or ``down``, the corrected text, the remark.
        positive: whether the label is the positive one; ``None`` unless it is a label.
        available_at: event time at which it was known.
        status: ``joined`` counts; ``late`` came after the window; ``duplicate`` says what is known; ``contradictory``
            says otherwise than the joined one; ``unknown`` names no prediction (yet).
        entity: the prediction's entity keys, for slices.
    """

    id: str
    scope: Scope
    application: str
    kind: OutcomeKind
    status: OutcomeStatus
    value: str
    available_at: datetime
    created_at: datetime
    prediction: str | None = None
    release: str | None = None
    role: str | None = None
    as_of: datetime | None = None
    probability: float | None = None
    positive: bool | None = None
    entity: dict[str, str] = {}
    principal: str = ""
