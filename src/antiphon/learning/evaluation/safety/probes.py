"""Probes of the safety suites, and the files that hold them: one JSON object a line.

The suites of the package are in ``suites``; a project adds its own in ``safety/*.jsonl`` beside its definitions. No
guard reads either. Invariant: which half a probe is in follows from its suite and id alone, so that adding a probe
moves no other one from the half that is looked at into the half that gates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import content_hash

SuiteName = Literal["injection", "leakage", "pii", "toxicity"]
PlaceKind = Literal["question", "feature", "document", "input", "entity", "tool"]
SuccessKind = Literal[
    "target", "marker", "figures", "schema", "secret", "instructions", "neighbor", "planted", "personal", "toxic",
    "pattern",
]  # fmt: skip

SUITES: tuple[SuiteName, ...] = get_args(SuiteName)
PLACES: tuple[PlaceKind, ...] = get_args(PlaceKind)
FOLDER = "safety"
"""Folder of a project's own probes, beside its definitions."""
SALT = "held out 373"
"""Of 400 salts the one that halves the package's categories and languages most evenly: to within six probes."""
LONGEST = 8_000
"""Characters of a probe's text."""
MOST_SHOWN = 20
"""Mistakes of a file that its error lists."""

KINDS: dict[SuiteName, tuple[SuccessKind, ...]] = {
    "injection": ("target", "marker", "figures", "schema", "pattern"),
    "leakage": ("secret", "instructions", "neighbor", "pattern"),
    "pii": ("planted", "personal", "pattern"),
    "toxicity": ("toxic", "pattern"),
}
"""Kinds of success that a probe of each suite may count."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}\Z")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z")


class SafetyProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One text that a sound application withstands.

    Attributes:
        id: unique within its suite.
        category: by which results are shown, such as ``delimiters``.
        language: of the text, BCP 47.
        source: taxonomy or report that the category is taken from.
        text: ``{target}`` stands for a value that the answer does not have by itself, ``{property}`` for the name of
            the property that has it, ``{marker}`` for a word that no honest answer has.
        success: kinds of success that count.
        places: kinds of places in which it is tried; none: every one.
        pattern: regular expression, for the kind ``pattern``: a match in the answer that is not in the honest one.
    """

    id: str
    suite: SuiteName
    category: str
    language: str
    source: str
    text: str
    success: tuple[SuccessKind, ...]
    places: tuple[PlaceKind, ...] = ()
    pattern: str | None = None

    @property
    def held_out(self) -> bool:
        """``True`` for the half that gates and that development does not look at."""
        return int(content_hash([SALT, self.suite, self.id])[:8], 16) % 2 == 0

    def fits(self, place: str) -> bool:
        """Tests whether it is tried in a place (``feature.VIEW.FEATURE``, ``question`` …)."""
        return not self.places or place.partition(".")[0] in self.places


@cache
def shipped() -> tuple[SafetyProbe, ...]:
    """The probes of the package."""
    folder = resources.files("antiphon.learning.evaluation.safety").joinpath("suites")
    found: list[SafetyProbe] = []
    for name in SUITES:
        content = folder.joinpath(f"{name}.jsonl").read_bytes()
        probes, mistakes = parse(content, f"{name}.jsonl", found)
        if mistakes:
            raise InvalidInputError(mistakes[0], where="suites")
        found += probes
    return tuple(found)


def project_probes(folder: Path, known: Sequence[SafetyProbe] | None = None) -> tuple[SafetyProbe, ...]:
    """The probes of a project's files, in the order of their names; none without the folder.

    Raises:
        InvalidInputError: a line is no probe, or an id is taken; every mistake with file and line.
    """
    found: list[SafetyProbe] = []
    mistakes: list[str] = []
    before = tuple(shipped() if known is None else known)
    for path in sorted(folder.glob("*.jsonl")):
        probes, wrong = parse(_content(path), str(path), (*before, *found))
        found += probes
        mistakes += wrong
    _refuse(mistakes)
    return tuple(found)


def read_probes(path: Path) -> tuple[SafetyProbe, ...]:
    """The probes of one file; raises ``InvalidInputError`` with every mistake and its line."""
    probes, mistakes = parse(_content(path), str(path), shipped())
    _refuse(mistakes)
    return probes


def parse(
    content: bytes, name: str, known: Iterable[SafetyProbe] = ()
) -> tuple[tuple[SafetyProbe, ...], tuple[str, ...]]:
    """The probes of a file's bytes, and its mistakes, each with the file and the line; blank lines are passed over."""
    decoder = msgspec.json.Decoder(SafetyProbe)
    taken = {(probe.suite, probe.id): "the package or another file" for probe in known}
    probes, mistakes = list[SafetyProbe](), list[str]()
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            probe = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            mistakes.append(f"{place}: {error}.")
            continue
        wrong = [*_mistakes(probe)]
        key = (probe.suite, probe.id)
        if key in taken:
            wrong.append(f"the id {probe.id!r} is taken by {taken[key]}")
        taken.setdefault(key, f"line {number}")
        mistakes += [f"{place}: {said}." for said in wrong]
        if not wrong:
            probes.append(probe)
    return tuple(probes), tuple(mistakes)


def _mistakes(probe: SafetyProbe) -> Iterator[str]:
    if not _ID.match(probe.id):
        yield f"the id {probe.id!r} is no short word of lower-case letters, digits, dots and hyphens"
    if not _LANGUAGE.match(probe.language):
        yield f"the language {probe.language!r} is no tag such as 'en' or 'pt-BR'"
    for field in ("category", "source", "text"):
        if not getattr(probe, field).strip():
            yield f"{field} is empty"
    if len(probe.text) > LONGEST:
        yield f"the text has {len(probe.text):,} characters, at most {LONGEST:,} may be"
    if not probe.success:
        yield "success is empty: nothing would count"
    for kind in probe.success:
        if kind not in KINDS[probe.suite]:
            yield f"success {kind!r} is none of the suite {probe.suite}: {', '.join(KINDS[probe.suite])}"
    if ("pattern" in probe.success) != (probe.pattern is not None):
        yield "the success 'pattern' and a pattern belong together"
    if probe.pattern is not None:
        try:
            re.compile(probe.pattern)
        except re.error as error:
            yield f"the pattern does not compile: {error}"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"The file cannot be read: {error.strerror}.", where=str(path)) from error


def _refuse(mistakes: Sequence[str]) -> None:
    if not mistakes:
        return
    shown = list(mistakes[:MOST_SHOWN])
    if len(mistakes) > MOST_SHOWN:
        shown.append(f"and {len(mistakes) - MOST_SHOWN} more")
    listed = "\n  ".join(shown)
    raise InvalidInputError(
        f"{len(mistakes)} mistake(s) in the safety probes:\n  {listed}",
        next_step="\nMend them and run `antiphon evaluations check` again.",
    )
