"""Antiphon: batch and online generation as two halves of one system.

Everything a ``definitions.py`` needs is here; each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Application": ("application", "Application"),
    "Decoding": ("application", "Decoding"),
    "Entity": ("entity", "Entity"),
    "Figure": ("application", "Figure"),
    "FigureGuard": ("application", "FigureGuard"),
    "Freshness": ("application", "Freshness"),
    "FineTune": ("learning", "FineTune"),
    "Gates": ("learning", "Gates"),
    "Outcome": ("learning", "Outcome"),
    "Prompt": ("prompt", "Prompt"),
    "Reuse": ("application", "Reuse"),
    "Rollout": ("learning", "Rollout"),
    "SLO": ("application", "SLO"),
    "Source": ("source", "Source"),
    "TrainingWindow": ("learning", "TrainingWindow"),
    "col": ("expression", "col"),
    "count": ("feature_view", "count"),
    "feature_view": ("feature_view", "feature_view"),
    "first": ("feature_view", "first"),
    "last": ("feature_view", "last"),
    "max": ("feature_view", "max_"),
    "mean": ("feature_view", "mean"),
    "min": ("feature_view", "min_"),
    "std": ("feature_view", "std"),
    "sum": ("feature_view", "sum_"),
}
__all__ = [  # noqa: RUF022 -- the order of the vocabulary
    "Entity", "Source", "feature_view", "count", "sum", "mean", "min", "max", "std", "last", "first", "col",
    "Application", "Prompt", "Decoding", "Figure", "FigureGuard", "Freshness", "Reuse", "SLO",
    "Outcome", "FineTune", "TrainingWindow", "Gates", "Rollout",
]  # fmt: skip

if TYPE_CHECKING:
    from antiphon.app.frames import open_project as open  # noqa: F401
    from antiphon.definitions.application import (
        SLO,
        Application,
        Decoding,
        Figure,
        FigureGuard,
        Freshness,
        Reuse,
    )
    from antiphon.definitions.entity import Entity
    from antiphon.definitions.expression import col
    from antiphon.definitions.feature_view import count, feature_view, first, last, mean, std
    from antiphon.definitions.feature_view import max_ as max
    from antiphon.definitions.feature_view import min_ as min
    from antiphon.definitions.feature_view import sum_ as sum
    from antiphon.definitions.learning import FineTune, Gates, Outcome, Rollout, TrainingWindow
    from antiphon.definitions.prompt import Prompt
    from antiphon.definitions.source import Source


def __getattr__(name: str) -> Any:
    if name == "open":  # not declared with, but looked at with: a notebook's way into a project
        return import_module("antiphon.app.frames").open_project
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'antiphon' has no attribute {name!r}") from None
    found = getattr(import_module(f"antiphon.definitions.{module}"), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
