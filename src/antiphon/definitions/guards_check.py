"""Checks of declared guards, made without running them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from antiphon.core import json_schemas
from antiphon.definitions.degradation import TARGET
from antiphon.definitions.guards import (
    PII_KINDS,
    AnyGuard,
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
from antiphon.definitions.learning_check import type_mistakes

_FUNCTION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*\Z")
_DEFINITIONS = "antiphon_project_definitions"


def guard_mistakes(guard: Any, output: Any) -> Iterator[str]:
    """Yields the mistakes of one guard, a sentence each; ``output`` is the application's schema, if it has one."""
    if not isinstance(guard, get_args(AnyGuard)):
        yield f"guards: {guard!r} is not a guard."
        return
    if wrong := list(type_mistakes(guard, type(guard), "guard")):
        yield from wrong
        return
    label = f"guard {guard.label}"
    yield from _property_mistakes(guard, output, label)
    if not 0 <= guard.retries <= 10:
        yield f"{label}: retries must be from 0 to 10, not {guard.retries}."
    if guard.outcome == "template" and not guard.fallback:
        yield f"{label}: the action 'template' needs a fallback."
    if guard.fallback and guard.outcome != "template":
        yield f"{label}: the action {guard.outcome!r} uses no fallback."
    yield from (f"{label}: {text}" for text in _kind_mistakes(guard))


def _property_mistakes(guard: AnyGuard, output: Any, label: str) -> Iterator[str]:
    properties = output.get("properties") if isinstance(output, dict) else None
    if not guard.property:
        if output is not None and guard.outcome == "template":
            yield f"{label}: a template stands in for a property; name it."
        return
    if not isinstance(properties, dict) or guard.property not in properties:
        yield f"{label}: the output has no property {guard.property!r}."
    elif isinstance(guard, FigureGuard) or guard.outcome == "template":
        declared = properties[guard.property]
        if isinstance(declared, dict) and declared.get("type") != "string":
            yield f"{label}: the output's property {guard.property!r} is not of type string."


def _kind_mistakes(guard: AnyGuard) -> Iterator[str]:
    if isinstance(guard, ContentGuard):
        if not (guard.forbidden or guard.required):
            yield "it names neither forbidden nor required phrases."
        if not all(one.strip() for one in (*guard.forbidden, *guard.required)):
            yield "a phrase is empty."
    elif isinstance(guard, PatternGuard):
        yield from _pattern_mistakes(guard.pattern)
    elif isinstance(guard, SchemaGuard):
        if (found := json_schemas.mistake(guard.schema)) is not None:
            yield f"{found}."
        elif not guard.schema:
            yield "schema is empty: everything meets it."
    elif isinstance(guard, PIIGuard):
        for kind in guard.kinds:
            if kind not in PII_KINDS:
                yield f"{kind!r} is no kind of personal data; there are {', '.join(PII_KINDS)}."
        if not guard.kinds:
            yield "kinds is empty."
    elif isinstance(guard, GroundedGuard | CitationGuard):
        if not 0 <= guard.share <= 1:
            yield f"share is from 0 to 1, not {guard.share}."
    elif isinstance(guard, FunctionGuard):
        if not _FUNCTION.match(guard.function):
            yield f"function must be 'module:function', not {guard.function!r}."
        elif guard.function.startswith(f"{_DEFINITIONS}:"):
            yield "the function must be in a module of its own, which gateways and workers import."
        if not 0 < guard.timeout <= 10:
            yield f"timeout is in seconds, above 0 and at most 10, not {guard.timeout}."
    elif isinstance(guard, JudgeGuard):
        if not (guard.rubric.strip() and guard.version.strip()):
            yield "a judge needs a rubric and its version."
        if guard.engine and not TARGET.match(guard.engine):
            yield f"engine {guard.engine!r} is not ENGINE or ENGINE/MODEL."
        if not 0 < guard.timeout <= 60:
            yield f"timeout is in seconds, above 0 and at most 60, not {guard.timeout}."


def _pattern_mistakes(pattern: str) -> Iterator[str]:
    import regex

    try:
        compiled = regex.compile(pattern, regex.VERSION1)
    except regex.error as error:
        yield f"pattern: {error}."
        return
    if not pattern or compiled.match("") is not None:
        yield "pattern matches the empty text, and so every text."


def locale_mistakes(locale: Any, guards: Sequence[Any]) -> Iterator[str]:
    """Yields the mistake of an application's locale; words of its language must be readable where figures are
    guarded."""
    from babel import Locale, UnknownLocaleError

    try:
        language = Locale.parse(locale.replace("-", "_")).language
    except (UnknownLocaleError, ValueError, TypeError, AttributeError):
        yield f"locale: {locale!r} is no locale, such as 'de' or 'fr_CA'."
        return
    if language != "en" and any(isinstance(guard, FigureGuard) for guard in guards):
        try:
            import icu4py.messageformat  # noqa: F401
        except ImportError:
            yield f"locale {locale!r}: reading its numbers in words needs the extra: pip install 'antiphon[locales]'."
