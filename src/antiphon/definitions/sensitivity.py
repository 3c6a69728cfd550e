"""Sensitivity of features and the purposes they may be used for: inputs of policies.

Invariant: tags are no part of what a feature means. They change no definition version, and so no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import msgspec

Sensitivity = Literal["public", "internal", "confidential", "restricted"]

UNTAGGED: Sensitivity = "internal"
"""Sensitivity of a feature that declares none."""

OPTIONS = ("sensitivity", "purposes")


class Tags(msgspec.Struct, frozen=True):
    """Sensitivity and purposes of one feature. ``purposes`` is ``None`` when it may serve any purpose."""

    sensitivity: Sensitivity = UNTAGGED
    purposes: tuple[str, ...] | None = None


def tags_of(view: Mapping[str, Any], source: Mapping[str, Any], features: Iterable[str]) -> dict[str, Tags]:
    """Tags of each feature of a view; empty when neither the view nor its source declares any.

    A view's own sensitivity of a feature goes before its source's; the purposes of both must allow a use.

    Args:
        view, source: their options, without mistakes.
    """
    if not any(options.get(name) is not None for options in (view, source) for name in OPTIONS):
        return {}
    own, below = view.get("sensitivity"), source.get("sensitivity")
    limits = [tuple(options["purposes"]) for options in (source, view) if options.get("purposes") is not None]
    purposes = None if not limits else tuple(sorted(set(limits[0]).intersection(*limits[1:])))
    return {
        feature: Tags((own.get(feature) if isinstance(own, Mapping) else own) or below or UNTAGGED, purposes)
        for feature in features
    }


def tag_mistakes(options: Mapping[str, Any], features: Iterable[str] | None) -> Iterator[str]:
    """Yields the mistakes of the tags of a view, or of a source (which has no ``features``), a sentence each."""
    levels = ", ".join(get_args(Sensitivity))
    declared = options.get("sensitivity")
    if isinstance(declared, Mapping) and features is not None:
        known = set(features)
        for feature, level in declared.items():
            if feature not in known:
                yield f"sensitivity names {feature!r}, which is no feature of it."
            if level not in get_args(Sensitivity):
                yield f"sensitivity of {feature!r} is {level!r}; it is one of {levels}."
    elif declared is not None and declared not in get_args(Sensitivity):
        yield f"sensitivity is {declared!r}; it is one of {levels}."
    purposes = options.get("purposes")
    if purposes is None:
        return
    if isinstance(purposes, str) or not isinstance(purposes, (list, tuple)):
        yield f"purposes must be a list of texts, not {purposes!r}."
    elif not all(isinstance(purpose, str) and purpose.strip() for purpose in purposes):
        yield "purposes must be texts that say what the features may be used for."
    elif not purposes:
        yield "purposes is empty, so that nothing could use them; leave it out when they may serve any purpose."
