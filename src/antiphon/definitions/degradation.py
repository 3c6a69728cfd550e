"""Fallbacks of an application whose engine cannot answer: other engines in order, then a stored answer, or none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from antiphon.definitions.feature import duration_mistakes

MAIN = "main"
"""The name of the engine under ``[engine]``; others are under ``[engines.NAME]``."""

TARGET = re.compile(r"[a-z][a-z0-9-]*(/\S+)?\Z")
"""``ENGINE`` or ``ENGINE/MODEL``."""


def engine_process(engine: str) -> str:
    """Name of an engine's process and of its socket."""
    return "engine" if engine == MAIN else f"engine-{engine}"


class WhenUnavailable(msgspec.Struct, frozen=True):
    """Answer that is served when no engine answers.

    ``refuse``: nothing. ``precomputed``: the newest stored answer of the release about the entity and question, even
    if figures have changed since. ``previous_release``: that, and where there is none the newest one of the release
    before. A stored answer is served with the word that it is degraded, its age and its release.

    Attributes:
        max_age: an older answer (by event time) is not served; ``None``: any.
    """

    serve: Literal["refuse", "precomputed", "previous_release"] = "refuse"
    max_age: str | None = None


class Target(msgspec.Struct, frozen=True):
    """One engine and one of its models."""

    engine: str
    model: str


def target_of(named: str, model: str) -> Target:
    """``ENGINE`` or ``ENGINE/MODEL`` as a target; without a model, the same ``model`` on that engine."""
    engine, _, other = named.partition("/")
    return Target(engine, other or model)


def degradation_mistakes(fallback: object, rule: object) -> Iterator[str]:
    """Yields the mistakes of a declared fallback chain and rule, a sentence each."""
    if not isinstance(fallback, tuple) or not all(isinstance(one, str) for one in fallback):
        yield "fallback must be a list of texts, ENGINE or ENGINE/MODEL each."
    else:
        for one in fallback:
            if not TARGET.match(one):
                yield f"fallback: {one!r} is not ENGINE or ENGINE/MODEL, such as 'standby' or 'standby/llama-3'."
        if len(set(fallback)) < len(fallback):
            yield "fallback names an engine and model twice."
    if not isinstance(rule, WhenUnavailable):
        yield "when_unavailable must be 'refuse', 'precomputed', 'previous_release' or a WhenUnavailable."
        return
    if rule.serve not in ("refuse", "precomputed", "previous_release"):
        yield f"when_unavailable: {rule.serve!r} is none of 'refuse', 'precomputed' and 'previous_release'."
    if rule.max_age is not None:
        yield from duration_mistakes(rule.max_age, "when_unavailable.max_age")
        if rule.serve == "refuse":
            yield "when_unavailable: max_age is for stored answers, and 'refuse' serves none."
