"""When a stored answer may be served: the application's declared rule, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from antiphon.catalog.answers import StoredAnswer
from antiphon.core.clock import parse_duration
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.on_demand import InputValue
from antiphon.serving.answering.generation import Asked
from antiphon.serving.features.printing import fingerprint


def question_hash(question: str | None, inputs: Mapping[str, InputValue] | None = None) -> str:
    """How a stored answer is found by its question and what was said beside it."""
    asked = (question or "").strip()
    return content_hash([asked, inputs] if inputs else asked.encode())[:32]


def prompt_key(asked: Asked, application: ApplicationSpec, prints: dict[str, str | None], namespace: str = "") -> str:
    """The same key gives the same served text: everything that decides it, the guards' inputs too.

    A ``namespace`` keeps its answers to itself (an arm of a rollout); without one, every release shares them.
    """
    decides = [asked, application.guards, application.figures, application.output_schema, fingerprint(prints)]
    return content_hash([*decides, namespace] if namespace else decides)[:32]


def may_serve(stored: StoredAnswer, rule: Reuse, prints_fingerprint: str, as_of: datetime) -> bool:
    """Whether the rule lets this stored answer stand in for a new one at ``as_of``."""
    if rule.mode == "always":
        return True
    if rule.mode == "fingerprint":
        return stored.fingerprint == prints_fingerprint
    if rule.mode == "age" and rule.max_age is not None:
        return as_of - stored.as_of <= parse_duration(rule.max_age)
    return False
