"""The check of an output by its schema and every guard: of a whole text, and of the beginning that may be shown.

Invariants:
- A beginning is shown when every guard has let it pass, whatever follows. It ends where a sentence or a property does.
- What a guard said about a text is not asked again in the same request, so a shown property cannot fail later.
- Reasons never repeat personal data where the application guards against it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.guards import (
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
from antiphon.serving.answering.guards import citations, figures, patterns, pii, sentences
from antiphon.serving.answering.guards.evidence import Evidence
from antiphon.serving.answering.guards.functions import function_reason
from antiphon.serving.answering.guards.groundedness import ungrounded
from antiphon.serving.answering.guards.outputs import PropertyReader, mismatches, parsed, words_of
from antiphon.serving.answering.narrowing import KEPT
from antiphon.serving.user_functions import UserFunctions

Judge = Callable[[JudgeGuard, str], Awaitable[str | None]]
"""Asks a judge model for the reason not to let a text pass."""

Beginning = Literal["passes", "waits", "fails"]
"""The beginning of a text passes, may pass once more of the text is known, or does not pass before the end."""

_NEXT = "\n\ue000"
"""Stands for the name of the property that follows in an output's words: a character of no text's."""

_LISTED = 3
"""Most reasons that a receipt repeats of one guard."""


class Violation(msgspec.Struct, frozen=True):
    """A reason that keeps a text from being shown; without a guard it is the output schema's."""

    guard: AnyGuard | None
    reason: str


class OutputCheck:
    """Checks the texts of one request.

    Args:
        application: whose schema and guards are held.
        functions: of guards in Python.
        judge: asks judge models.
    """

    def __init__(
        self, application: ApplicationSpec, evidence: Evidence, functions: UserFunctions, judge: Judge
    ) -> None:
        self._application = application
        self._evidence = evidence
        self._functions = functions
        self._judge = judge
        self._said: dict[tuple[AnyGuard, str], tuple[str, ...]] = {}

    async def violations(self, text: str, reason: str) -> tuple[Violation, ...]:
        """Find what keeps a whole text from being served; ``reason`` is that of the generation's end."""
        application, output, found = self._application, None, list[Violation]()
        if application.output_schema is not None:
            output = parsed(text)
            if output is None:
                return (Violation(None, "it was cut off" if reason == "length" else "it is not JSON"),)
            for place, mismatch in mismatches(application.schema or {}, output).items():
                found.append(Violation(self._template_of(place), mismatch))
        for guard in application.guards:
            if any(one.guard == guard for one in found):
                continue
            value = text if application.output_schema is None else output
            if isinstance(output, dict) and guard.property:
                if guard.property not in output:
                    found.append(Violation(guard, f"it has no {guard.property}"))
                    continue
                value = output[guard.property]
            if reasons := await self.reasons(guard, value):
                found.append(Violation(guard, "; ".join(reasons[:_LISTED])))
        return self._redacted(found, text if application.output_schema is None else words_of(output))

    async def reasons(self, guard: AnyGuard, value: Any) -> tuple[str, ...]:
        """Reasons of one guard that keep a whole value from being shown."""
        if isinstance(guard, SchemaGuard):
            judged = parsed(value) if isinstance(value, str) and not guard.property else value
            return tuple(mismatches(guard.schema, judged).values())
        text = value if isinstance(value, str) else words_of(value)
        if (guard, text) not in self._said:
            self._said[guard, text] = tuple(await self._judged(guard, text))
        return self._said[guard, text]

    async def _judged(self, guard: AnyGuard, text: str) -> list[str]:
        evidence = self._evidence
        if isinstance(guard, FunctionGuard):
            request = {**msgspec.structs.asdict(evidence), "features": evidence.prints}
            said = await function_reason(self._functions, guard.function, text, request, guard.timeout)
            return [] if said is None else [said]
        if isinstance(guard, JudgeGuard):
            said = await self._judge(guard, text)
            return [] if said is None else [said]
        try:
            return self._found(guard, text)
        except TimeoutError:
            return [f"its pattern took longer than {patterns.SECONDS:g} s"]

    def _found(self, guard: AnyGuard, text: str) -> list[str]:
        """Reasons of a guard that is a pure function of text and evidence."""
        evidence, application = self._evidence, self._application
        if isinstance(guard, FigureGuard):
            keys, earlier = evidence.entity.values(), [turn.prints for turn in evidence.earlier]
            return figures.violations(
                text, application.figures, evidence.prints, keys, application.text_locale, earlier
            )
        if isinstance(guard, ContentGuard):
            read = patterns.as_read(text).text
            return [f"it says {one!r}" for one in guard.forbidden if _has(read, one)] + [
                f"it does not say {one!r}" for one in guard.required if not _has(read, one)
            ]
        if isinstance(guard, PatternGuard):
            matched = bool(patterns.search(guard.pattern, text, ended=True).found)
            said = "does not match" if guard.required else "matches"
            return [] if matched == guard.required else [f"it {said} {guard.pattern!r}"]
        if isinstance(guard, PIIGuard):
            counts = pii.recognize(text, guard.kinds, guard.allowed).counts
            return [f"it has {count} × {kind}" for kind, count in counts.items()]
        if isinstance(guard, CitationGuard):
            return citations.violations(text, evidence.retrieved, guard.share, required=guard.required)
        assert isinstance(guard, GroundedGuard)
        return ungrounded(text, (*evidence.documents(), *guard.documents), guard.share)

    def _template_of(self, place: str) -> AnyGuard | None:
        """The guard whose template mends a property that does not meet the schema."""
        mending = (one for one in self._application.guards if one.property == place and one.outcome == "template")
        return next(mending, None) if place else None

    def _redacted(self, found: list[Violation], text: str) -> tuple[Violation, ...]:
        """The violations, with nothing in their reasons that guarded personal data of the text consists of."""
        kinds = {kind for guard in self._application.guards if isinstance(guard, PIIGuard) for kind in guard.kinds}
        if not (found and kinds):
            return tuple(found)
        secret = pii.recognize(text, sorted(kinds)).texts
        return tuple(Violation(one.guard, pii.redacted(one.reason, secret)) for one in found)

    async def beginning(self, guard: AnyGuard, text: str, end: int) -> Beginning:
        """Tells whether a guard lets ``text[:end]`` pass, whatever follows ``text``."""
        if guard.whole or isinstance(guard, SchemaGuard | JudgeGuard):
            return "fails"
        if isinstance(guard, ContentGuard | PatternGuard | PIIGuard):
            try:
                return self._searched(guard, text, end)
            except TimeoutError:
                return "fails"
        if isinstance(guard, CitationGuard):
            if guard.share:  # what a sentence is cited for may stand behind it
                return "fails"
            wrong = citations.violations(text[:end], self._evidence.retrieved, 0.0, required=False)
            return "fails" if wrong else "passes"
        return "fails" if await self.reasons(guard, text[:end]) else "passes"

    def _searched(self, guard: ContentGuard | PatternGuard | PIIGuard, text: str, end: int) -> Beginning:
        if isinstance(guard, PIIGuard):
            findings = pii.recognize(text, guard.kinds, guard.allowed, ended=False)
            found, passed = findings.texts, findings.passed
        elif isinstance(guard, PatternGuard):
            result = patterns.search(guard.pattern, text, ended=False)
            found, passed = ((), end) if guard.required else (result.found, result.passed)
        else:
            read = patterns.as_read(text)
            result = patterns.search(patterns.phrases(guard.forbidden), read.text, ended=False)
            found, passed = result.found, read.back(result.passed, len(text))
        return "passes" if passed >= end else "fails" if found else "waits"


class StreamGate:
    """The beginning of one attempt's text that may be shown, as the text comes.

    Args:
        holding: guards that hold a text back; others only flag it.
    """

    def __init__(self, check: OutputCheck, application: ApplicationSpec, holding: tuple[AnyGuard, ...]) -> None:
        self._check = check
        self._schema = application.schema
        self._holding = holding
        self._reader = PropertyReader()
        self._text = ""
        self._properties = 0
        self._stopped = False
        self.end = 0
        """Number of characters that may be shown."""

    async def feed(self, text: str) -> None:
        """Take the text that came, and move ``end``."""
        self._text += text
        if self._stopped:
            return
        if self._schema is None:
            await self._sentences()
        elif not set(self._schema) - KEPT:  # a schema that relates its properties is met by the whole alone
            self._reader.feed(text)
            await self._written()

    async def _sentences(self) -> None:
        for end in sentences.ends(self._text, self.end):
            for guard in self._holding:
                if (passing := await self._check.beginning(guard, self._text, end)) != "passes":
                    self._stopped = passing == "fails"
                    return
            self.end = end

    async def _written(self) -> None:
        for place in range(self._properties, len(self._reader.properties)):
            written = self._reader.properties[place]
            if not self._meets_schema(written.name, written.value):
                return
            before = {one.name: one.value for one in self._reader.properties[: place + 1]}
            seen = words_of(before)
            for guard in self._holding:
                if guard.property == written.name and await self._check.reasons(guard, written.value):
                    return
                if not guard.property and await self._check.beginning(guard, seen + _NEXT, len(seen)) != "passes":
                    return
            self._properties, self.end = place + 1, written.end

    def _meets_schema(self, name: str, value: Any) -> bool:
        from referencing.exceptions import Unresolvable  # Not above: it takes a tenth of a process's start.

        schema = self._schema or {}
        declared = schema.get("properties", {})
        if name not in declared:
            return False
        rest = {key: part for key, part in schema.items() if key in ("$defs", "$schema")}
        try:
            return not mismatches({**rest, "type": "object", "properties": {name: declared[name]}}, {name: value})
        except Unresolvable:  # a reference to another property: the whole is judged at its end
            return False


def _has(read: str, phrase: str) -> bool:
    return bool(patterns.search(patterns.phrases((phrase,)), read, ended=True).found)
