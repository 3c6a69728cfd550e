"""Reuse of stored answers: by the application's declared rule, or by an identical prompt."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from antiphon.catalog.serving.answers import StoredAnswer
from antiphon.core.clock import parse_duration
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.guards import FunctionGuard, GroundedGuard
from antiphon.definitions.on_demand import InputValue
from antiphon.serving.answering.context import AnswerContext
from antiphon.serving.answering.generation import GenerationSpec
from antiphon.serving.answering.guards.evidence import Evidence


def question_hash(question: str | None, inputs: Mapping[str, InputValue] | None = None) -> str:
    """Hash by which a stored answer is found: of the question's words and the request's inputs."""
    words = (question or "").strip()
    return content_hash([words, inputs] if inputs else words.encode())[:32]


def prompt_key(
    spec: GenerationSpec,
    application: ApplicationSpec,
    fingerprint: str,
    namespace: str = "",
    evidence: Evidence | None = None,
) -> str:
    """The same key gives the same served text: everything that decides it, the guards' inputs too.

    Args:
        fingerprint: of the printed figures.
        namespace: keeps its answers to itself (an arm of a rollout); without one, every release shares them.
        evidence: the request, where a guard judges by it.
    """
    decides = [spec, application.guards, application.figures, application.output_schema, fingerprint]
    further = [part for part in (namespace, application.locale or None, evidence) if part]
    return content_hash([*decides, *further])[:32]


def prompt_key_of(context: AnswerContext, spec: GenerationSpec) -> str | None:
    """The key under which the answer is stored; ``None`` for plain models and where nothing is stored."""
    if context.plain or context.cache_namespace is None:
        return None
    application = context.application
    judged = any(isinstance(guard, GroundedGuard | FunctionGuard) for guard in application.guards)
    evidence = context.evidence if judged else None
    return prompt_key(spec, application, context.reading.fingerprint, context.prompt_namespace, evidence)


def may_serve(stored: StoredAnswer, rule: Reuse, prints_fingerprint: str, as_of: datetime) -> bool:
    """Tells whether the rule lets this stored answer be served at ``as_of``."""
    if rule.mode == "always":
        return True
    if rule.mode == "fingerprint":
        return stored.fingerprint == prints_fingerprint
    if rule.mode == "age" and rule.max_age is not None:
        return as_of - stored.as_of <= parse_duration(rule.max_age)
    return False
