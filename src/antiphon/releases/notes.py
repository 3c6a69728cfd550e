"""Release notes: moves of the live pointer in plain sentences, with the text that differs, and a form for outsiders.

Nothing is written for them. They are told from pointers and bundles, which only grow, so a note never changes. The
public form says when something changed and of which kind, and holds no text of a prompt, no name of a model, release or
person.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.releases.releases import Activation, Release, Releases
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.compatibility import compare
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.prompt import Prompt
from antiphon.releases import bundle as bundles
from antiphon.releases.bundle import FieldChange

Kind = Literal["instructions", "model", "features", "output", "policy", "rules"]

PolicyText = Callable[[str], str | None]
"""The text of the policies with a digest; ``None`` when they are not known."""

ViewOf = Callable[[str, str], FeatureViewSpec | None]
"""A definition version of a view; ``None`` when it is not known."""

_NAMES: dict[Kind, str] = {
    "instructions": "instructions",
    "model": "model",
    "features": "data it reads",
    "output": "form of its answers",
    "policy": "rules of access",
    "rules": "settings",
}
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("application.prompt", "instructions"),
    ("application.fine_tune.prompt", "instructions"),
    ("application.model", "model"),
    ("application.fine_tune", "model"),
    ("model", "model"),
    ("application.features", "features"),
    ("application.on_demand", "features"),
    ("application.figures", "features"),
    ("application.tags", "features"),
    ("application.entity_keys", "features"),
    ("application.output_schema", "output"),
    ("application.classes", "output"),
    ("application.decoding", "output"),
    ("policy_digest", "policy"),
)
"""Beginnings of fields to what they are about; any other field is a setting."""


class NotedChange(msgspec.Struct, frozen=True):
    """A difference of one kind in a sentence, with the lines that differ: ``-`` from before, ``+`` of the new text."""

    kind: Kind
    sentence: str
    lines: tuple[str, ...] = ()


class ReleaseNote(msgspec.Struct, frozen=True):
    """One move of an application's live pointer.

    Attributes:
        id: unique in a tenant's environment, ``APPLICATION/SEQUENCE``.
        action: ``first``, ``changed`` or ``rolled_back``.
        changes: what is otherwise than before it; none for the first release.
    """

    id: str
    application: str
    at: datetime
    action: Literal["first", "changed", "rolled_back"]
    release: str
    number: int
    principal: str
    reason: str
    sentence: str
    changes: tuple[NotedChange, ...]


class PublicNote(msgspec.Struct, frozen=True):
    """A note as outside users may read it."""

    id: str
    application: str
    at: datetime
    sentence: str


class ReleaseNotes:
    """Reads the notes of applications.

    Args:
        policy_text, view: of the texts that differ; without them a change is told and not shown.
    """

    def __init__(self, releases: Releases, policy_text: PolicyText | None = None, view: ViewOf | None = None) -> None:
        self._releases = releases
        self._policy_text = policy_text or (lambda digest: None)
        self._view = view or (lambda name, version: None)

    def of(self, scope: Scope, application: str, limit: int | None = None) -> list[ReleaseNote]:
        """Notes of an application, latest first; none for one that was never live."""
        history = self._releases.history(scope, application)
        first = 0 if limit is None else max(0, len(history) - limit)
        releases: dict[str, Release] = {}
        for move in history[max(0, first - 1) :]:
            if move.release not in releases:
                releases[move.release] = self._releases.get(scope, move.release)
        return [
            self._note(move, releases, history[number - 1] if number else None)
            for number, move in reversed(list(enumerate(history)))
            if number >= first
        ]

    def _note(self, move: Activation, releases: dict[str, Release], before: Activation | None) -> ReleaseNote:
        release, old = releases[move.release], None if before is None else releases[before.release]
        changes = () if old is None else tuple(self._changes(old, release))
        action: Literal["first", "changed", "rolled_back"] = (
            "first" if old is None else "rolled_back" if move.action == "rollback" else "changed"
        )
        return ReleaseNote(
            id=f"{move.application}/{move.sequence}",
            application=move.application,
            at=move.at,
            action=action,
            release=release.id,
            number=release.number,
            principal=move.principal,
            reason=move.reason,
            sentence=_sentence(action, release, old, changes),
            changes=changes,
        )

    def _changes(self, old: Release, new: Release) -> Iterator[NotedChange]:
        found: dict[Kind, list[FieldChange]] = {}
        for change in bundles.diff(old.bundle, new.bundle):
            found.setdefault(_kind(change.field), []).append(change)
        before, after = old.bundle.application, new.bundle.application
        for kind in _NAMES:
            if kind not in found:
                continue
            fields = bundles.summary(found[kind])
            if kind == "instructions":
                yield NotedChange(
                    kind, "The instructions changed.", _lines(_instructions(before), _instructions(after))
                )
            elif kind == "model":
                names = old.bundle.model.name, new.bundle.model.name
                same = "The model's settings changed" if names[0] == names[1] else "The model changed"
                yield NotedChange(kind, f"{same}: {fields}.", _lines(*names) if names[0] != names[1] else ())
            elif kind == "features":
                sentences = tuple(self._view_sentences(before, after)) or (f"The features changed: {fields}.",)
                yield NotedChange(kind, " ".join(sentences))
            elif kind == "output":
                schemas = before.output_schema or "", after.output_schema or ""
                yield NotedChange(kind, f"The form of the answers changed: {fields}.", _lines(*map(_broken, schemas)))
            elif kind == "policy":
                digests = old.bundle.policy_digest, new.bundle.policy_digest
                texts = [text for text in map(self._policy_text, digests) if text is not None]
                lines = _lines(*texts) if len(texts) == len(digests) else ()
                yield NotedChange(kind, "The policies changed that it was made under.", lines)
            else:
                yield NotedChange(kind, f"Settings changed: {fields}.")

    def _view_sentences(self, before: ApplicationSpec, after: ApplicationSpec) -> Iterator[str]:
        for name in sorted({*before.features, *after.features}):
            old, new = before.features.get(name), after.features.get(name)
            if old == new:
                continue
            if old is None or new is None:
                yield f"It {'now reads' if old is None else 'no longer reads'} {name}."
                continue
            specs = self._view(name, old), self._view(name, new)
            said = compare(specs[0], specs[1]).sentences if specs[0] is not None and specs[1] is not None else ()
            yield f"{name}: {'; '.join(said)}." if said else f"{name} is computed in another way."


def public(notes: Sequence[ReleaseNote]) -> list[PublicNote]:
    """The public form of notes."""
    return [PublicNote(note.id, note.application, note.at, _public_sentence(note)) for note in notes]


def _kind(field: str) -> Kind:
    for beginning, kind in _KINDS:
        if field == beginning or field.startswith((f"{beginning}.", f"{beginning}[")):
            return kind
    return "rules"


def _sentence(action: str, release: Release, old: Release | None, changes: Sequence[NotedChange]) -> str:
    if old is None:
        return f"Release {release.number} is the first one to answer."
    what = _listed([_NAMES[change.kind] for change in changes])
    if action == "rolled_back":
        return f"Went back from release {old.number} to release {release.number}" + (
            f", and so its {what}." if what else "."
        )
    return f"Release {release.number} took the place of release {old.number}: its {what or 'name alone'} changed."


def _public_sentence(note: ReleaseNote) -> str:
    if note.action == "first":
        return f"{note.application} is available."
    if note.action == "rolled_back":
        return f"{note.application} is as it was before its latest change."
    what = _listed([_NAMES[change.kind] for change in note.changes])
    return f"The {what} of {note.application} changed." if what else f"{note.application} was renewed."


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _instructions(application: ApplicationSpec) -> str:
    tuned = application.fine_tune.prompt if application.fine_tune is not None else None
    return "\n".join(_prompt_text(prompt) for prompt in (application.prompt, tuned) if prompt is not None)


def _prompt_text(prompt: Prompt) -> str:
    examples = [f"{said}\n{answer}" for said, answer in prompt.examples]
    return "\n".join((prompt.system, *examples, prompt.template))


def _broken(schema: str) -> str:
    """A schema with a line for each part, so that lines differ and not the whole."""
    return msgspec.json.format(schema, indent=2) if schema else ""


def _lines(before: str, after: str) -> tuple[str, ...]:
    """The lines that differ between two texts, each with its sign."""
    compared = difflib.ndiff(before.splitlines(), after.splitlines())
    return tuple(f"{line[0]} {line[2:]}" for line in compared if line[0] in "-+")
