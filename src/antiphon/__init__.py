"""Antiphon: batch and online generation as two halves of one system.

Everything a ``definitions.py`` needs is here; each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Application": ("application", "Application"),
    "Conversation": ("conversation", "Conversation"),
    "Decoding": ("application", "Decoding"),
    "Documents": ("documents", "Documents"),
    "Retrieval": ("documents", "Retrieval"),
    "Entity": ("entity", "Entity"),
    "Figure": ("application", "Figure"),
    "CitationGuard": ("guards", "CitationGuard"),
    "ContentGuard": ("guards", "ContentGuard"),
    "FigureGuard": ("guards", "FigureGuard"),
    "FunctionGuard": ("guards", "FunctionGuard"),
    "GroundedGuard": ("guards", "GroundedGuard"),
    "JudgeGuard": ("guards", "JudgeGuard"),
    "PIIGuard": ("guards", "PIIGuard"),
    "PatternGuard": ("guards", "PatternGuard"),
    "SchemaGuard": ("guards", "SchemaGuard"),
    "Freshness": ("application", "Freshness"),
    "Canaries": ("learning", "Canaries"),
    "Candidates": ("learning", "Candidates"),
    "FineTune": ("learning", "FineTune"),
    "Preferences": ("learning", "Preferences"),
    "Gates": ("learning", "Gates"),
    "MetricGate": ("learning", "MetricGate"),
    "Outcome": ("learning", "Outcome"),
    "Prompt": ("prompt", "Prompt"),
    "Quality": ("quality", "Quality"),
    "Reuse": ("application", "Reuse"),
    "Rollout": ("learning", "Rollout"),
    "GateExemption": ("learning", "GateExemption"),
    "SLO": ("application", "SLO"),
    "WhenUnavailable": ("degradation", "WhenUnavailable"),
    "Source": ("source", "Source"),
    "PostgresTable": ("following", "PostgresTable"),
    "NatsSubject": ("following", "NatsSubject"),
    "FileDrop": ("following", "FileDrop"),
    "ToolBounds": ("tools", "ToolBounds"),
    "http_tool": ("tools", "http_tool"),
    "tool": ("tools", "tool"),
    "TrainingWindow": ("learning", "TrainingWindow"),
    "col": ("expression", "col"),
    "count": ("feature", "count"),
    "distinct": ("feature", "distinct"),
    "embed": ("feature", "embed"),
    "EmbeddingModel": ("embedding", "EmbeddingModel"),
    "expect": ("expect", ""),
    "feature_view": ("feature_view", "feature_view"),
    "first": ("feature", "first"),
    "last": ("feature", "last"),
    "max": ("feature", "max_"),
    "mean": ("feature", "mean"),
    "min": ("feature", "min_"),
    "frequency": ("feature", "frequency"),
    "GrantedView": ("granted", "GrantedView"),
    "greatest": ("functions", "greatest"),
    "Input": ("on_demand", "Input"),
    "least": ("functions", "least"),
    "JudgeMetric": ("own_metrics", "JudgeMetric"),
    "metric": ("own_metrics", "metric"),
    "metrics": ("shipped_metrics", ""),
    "now": ("functions", "now"),
    "one_hot": ("on_demand", "one_hot"),
    "on_demand": ("on_demand", "on_demand"),
    "on_demand_view": ("on_demand", "on_demand_view"),
    "quantile": ("feature", "quantile"),
    "Signal": ("signals", "Signal"),
    "request": ("functions", "request"),
    "std": ("feature", "std"),
    "sum": ("feature", "sum_"),
    "target": ("feature", "target"),
    "when": ("functions", "when"),
    "Evaluate": ("schedules", "Evaluate"),
    "Export": ("export_schedules", "Export"),
    "Playbook": ("playbooks", "Playbook"),
    "PlaybookStep": ("playbooks", "PlaybookStep"),
    "Precompute": ("schedules", "Precompute"),
    "Objective": ("objectives", "Objective"),
    "Schedule": ("schedules", "Schedule"),
    "workflow": ("workflows", "workflow"),
    "Retrain": ("schedules", "Retrain"),
    "Watch": ("watches", "Watch"),
    "Window": ("windows", "Window"),
    "cron": ("triggers", "cron"),
    "drift": ("triggers", "drift"),
    "forgetting": ("triggers", "forgetting"),
    "every": ("triggers", "every"),
    "outcomes": ("triggers", "outcomes"),
    "published": ("triggers", "published"),
    "requests": ("triggers", "requests"),
    "misses": ("triggers", "misses"),
    "expected": ("triggers", "expected"),
    "stale": ("triggers", "stale"),
    "files": ("workflows", "files"),
    "daily": ("partitions", "daily"),
    "keyed": ("partitions", "keyed"),
}
__all__ = [  # noqa: RUF022 -- the order of the vocabulary
    "Entity", "Source", "PostgresTable", "NatsSubject", "FileDrop", "feature_view", "count", "sum", "mean", "min",
    "max", "std", "last", "first", "distinct", "quantile", "frequency", "target", "embed", "EmbeddingModel", "col",
    "when", "least", "greatest",
    "on_demand_view", "Input", "on_demand", "one_hot", "request", "now",
    "Application", "Prompt", "Decoding", "Figure", "Freshness", "Reuse", "SLO", "Conversation",
    "tool", "http_tool", "ToolBounds",
    "FigureGuard", "ContentGuard", "PatternGuard", "SchemaGuard", "PIIGuard", "GroundedGuard", "CitationGuard",
    "FunctionGuard", "JudgeGuard", "WhenUnavailable",
    "Outcome", "Signal", "metric", "metrics", "JudgeMetric", "FineTune", "Canaries", "Candidates", "Preferences",
    "TrainingWindow", "Gates", "MetricGate", "Rollout", "GateExemption", "Quality", "expect", "GrantedView",
    "Documents", "Retrieval",
    "Schedule", "Objective", "workflow", "Retrain", "Precompute", "Evaluate", "Export", "Watch", "Playbook",
    "PlaybookStep", "Window",
    "every", "cron", "outcomes", "requests", "misses", "expected", "drift", "published", "forgetting", "stale",
    "files", "daily", "keyed",
]  # fmt: skip

if TYPE_CHECKING:
    from antiphon.definitions import expect
    from antiphon.definitions import shipped_metrics as metrics
    from antiphon.definitions.application import (
        SLO,
        Application,
        Decoding,
        Figure,
        Freshness,
        Reuse,
    )
    from antiphon.definitions.conversation import Conversation
    from antiphon.definitions.degradation import WhenUnavailable
    from antiphon.definitions.documents import Documents, Retrieval
    from antiphon.definitions.embedding import EmbeddingModel
    from antiphon.definitions.entity import Entity
    from antiphon.definitions.export_schedules import Export
    from antiphon.definitions.expression import col
    from antiphon.definitions.feature import count, distinct, embed, first, frequency, last, mean, quantile, std, target
    from antiphon.definitions.feature import max_ as max
    from antiphon.definitions.feature import min_ as min
    from antiphon.definitions.feature import sum_ as sum
    from antiphon.definitions.feature_view import feature_view
    from antiphon.definitions.following import FileDrop, NatsSubject, PostgresTable
    from antiphon.definitions.functions import greatest, least, now, request, when
    from antiphon.definitions.granted import GrantedView
    from antiphon.definitions.guards import (
        CitationGuard,
        ContentGuard,
        FigureGuard,
        FunctionGuard,
        GroundedGuard,
        JudgeGuard,
        PatternGuard,
        PIIGuard,
        SchemaGuard,
    )
    from antiphon.definitions.learning import (
        Canaries,
        Candidates,
        FineTune,
        GateExemption,
        Gates,
        MetricGate,
        Outcome,
        Preferences,
        Rollout,
        TrainingWindow,
    )
    from antiphon.definitions.objectives import Objective
    from antiphon.definitions.on_demand import Input, on_demand, on_demand_view, one_hot
    from antiphon.definitions.own_metrics import JudgeMetric, metric
    from antiphon.definitions.partitions import daily, keyed
    from antiphon.definitions.playbooks import Playbook, PlaybookStep
    from antiphon.definitions.prompt import Prompt
    from antiphon.definitions.quality import Quality
    from antiphon.definitions.schedules import Evaluate, Precompute, Retrain, Schedule
    from antiphon.definitions.signals import Signal
    from antiphon.definitions.source import Source
    from antiphon.definitions.tools import ToolBounds, http_tool, tool
    from antiphon.definitions.triggers import (
        cron,
        drift,
        every,
        expected,
        forgetting,
        misses,
        outcomes,
        published,
        requests,
        stale,
    )
    from antiphon.definitions.watches import Watch
    from antiphon.definitions.windows import Window
    from antiphon.definitions.workflows import files, workflow
    from antiphon.services.export.frames import open_project as open  # noqa: F401


def __getattr__(name: str) -> Any:
    if name == "open":  # not declared with, but looked at with: a notebook's way into a project
        return import_module("antiphon.services.export.frames").open_project
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'antiphon' has no attribute {name!r}") from None
    home = import_module(f"antiphon.definitions.{module}")
    found = getattr(home, attribute) if attribute else home
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
