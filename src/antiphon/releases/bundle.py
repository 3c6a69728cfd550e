"""The bundle: everything an answer is made from, as one immutable value with one hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Bundle, ModelPin
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec


class FieldChange(msgspec.Struct, frozen=True):
    """One field that differs; ``field`` is a path such as ``application.decoding.temperature``.

    ``before`` is ``None`` for a field that was added, ``after`` for one that was removed.
    """

    field: str
    before: Any
    after: Any


def build(application: ApplicationSpec, model: ModelPin, policy_digest: str) -> Bundle:
    """Pin an application to a model's weights and to the policy it was checked against; raises ``InvalidInputError``
    when the pin is of another model than the application names."""
    if model.name != application.model:
        raise InvalidInputError(
            f"The application names the model {application.model!r}, the pin is of {model.name!r}.",
            where=f"application {application.name}",
            next_step="Pin the model that the application names.",
        )
    return Bundle(application=application, model=model, policy_digest=policy_digest)


def diff(before: Bundle, after: Bundle) -> tuple[FieldChange, ...]:
    """Every field that differs, by path. Lists are compared by position, maps by key."""
    return tuple(_differences("", msgspec.to_builtins(before), msgspec.to_builtins(after)))


def summary(changes: Sequence[FieldChange], most: int = 5) -> str:
    """The changes in words, short ones with their values: ``model.name (a → b), application.prompt.template``."""
    if not changes:
        return "nothing"
    words = [_change_in_words(change) for change in changes[:most]]
    rest = len(changes) - most
    return ", ".join(words) + (f" and {rest} more" if rest > 0 else "")


def _change_in_words(change: FieldChange) -> str:
    if change.before is None or change.after is None:
        return f"{change.field} {'added' if change.before is None else 'removed'}"
    before, after = (" ".join(str(value).split()) for value in (change.before, change.after))
    return f"{change.field} ({before} → {after})" if len(before) + len(after) <= 60 else change.field


def _differences(path: str, before: Any, after: Any) -> Iterator[FieldChange]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _differences(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for position in range(max(len(before), len(after))):
            old = before[position] if position < len(before) else None
            new = after[position] if position < len(after) else None
            yield from _differences(f"{path}[{position}]", old, new)
    elif before != after or type(before) is not type(after):
        yield FieldChange(path, before, after)
