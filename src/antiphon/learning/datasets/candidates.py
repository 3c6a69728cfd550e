"""Candidate examples of a dataset and the rule that lets them in: pure, so that it can be tested by enumeration.

Invariant: a candidate that is let in has its moment inside ``(first, last]`` and no later than its label, and its
label was known, and had its declared time to become known, by the cutoff.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.core.clock import microseconds
from antiphon.core.ids import content_hash
from antiphon.definitions.on_demand import InputType, InputValue

Origin = Literal["history", "receipts"]


class Candidate(msgspec.Struct, frozen=True):
    """A question whose answer is known; instants in microseconds.

    Attributes:
        example: names it: a hash of what it is, never of where or when it was read.
        entity: values of the spec's entity keys, in their order.
        label: the value of the first outcome; ``further`` those of the others, in the specification's order.
        question: what the user asked, where the specification keeps it.
        prompt_blob: SHA-256 of the prompt that it was served with, where the specification pins one and it can be
            learned from; ``unlearned`` says why not.
        inputs: of a row of history, what on-demand features are made from, in the order of :func:`inputs_of`.
    """

    example: str
    moment: int
    entity: tuple[str, ...]
    label: str | None
    label_at: int
    origin: Origin
    prediction: str | None = None
    release: str | None = None
    inputs: tuple[InputValue, ...] = ()
    question: str | None = None
    further: tuple[str | None, ...] = ()
    prompt_blob: str | None = None
    unlearned: str | None = None


def example_id(*identity: object) -> str:
    """The name of an example: a hash of its entity and moment, and of what tells it from others of the same."""
    return f"ex_{content_hash([one for one in identity if one is not None])[:26]}"


def inputs_of(spec: DatasetSpec) -> dict[str, InputType]:
    """Columns of the outcome table that on-demand features read, with their types; entity keys aside."""
    types: dict[str, InputType] = {}
    for view in spec.on_demand:
        types.update(view.inputs)
    return {name: declared for name, declared in sorted(types.items()) if name not in spec.entity_keys}


def choose(candidates: Iterable[Candidate], spec: DatasetSpec) -> tuple[list[Candidate], dict[str, int]]:
    """Let candidates in by the spec's window, and draw at most ``spec.examples`` of them.

    Returns them in the order of ``example``, and the reasons why others were dropped, counted.

    A prediction's own row stands for the history's row of the same entity and moment: its features are those that
    were served. The draw takes the smallest SHA-256 of seed and example, so it does not depend on anything else.
    """
    first, last, cutoff = (microseconds(moment) for moment in (spec.first, spec.last, spec.cutoff))
    maturity = round(spec.maturity_seconds * 1_000_000)
    dropped: Counter[str] = Counter()
    entered: list[Candidate] = []
    for candidate in candidates:
        reason = None
        if not first < candidate.moment <= last:
            reason = "outside-window"
        elif candidate.label_at < candidate.moment:
            reason = "before-moment"
        elif candidate.moment + maturity > cutoff:
            reason = "immature"
        elif candidate.label_at > cutoff:
            reason = "after-cutoff"
        elif candidate.label is None or not spec.shape.admits(candidate.label):
            reason = "unknown-label"
        elif spec.served and candidate.prompt_blob is None:
            reason = candidate.unlearned or "no-served-prompt"
        if reason is None:
            entered.append(_matured(candidate, spec, cutoff))
        else:
            dropped[reason] += 1
    single = _without_duplicates(entered)
    dropped["duplicate"] = len(entered) - len(single)
    drawn = sorted(single, key=lambda one: hashlib.sha256(f"{spec.seed}|{one.example}".encode()).digest())
    drawn = drawn[: spec.examples]
    dropped["sampled-out"] = len(single) - len(drawn)
    kept = sorted(drawn, key=lambda candidate: candidate.example)
    return kept, {reason: count for reason, count in dropped.items() if count}


def _matured(candidate: Candidate, spec: DatasetSpec, cutoff: int) -> Candidate:
    """A candidate without the further outcomes whose own delay ends after the cutoff."""
    if not candidate.further or all(shape.delay is None for shape in spec.further):
        return candidate
    ripe = [candidate.moment + round((shape.delay or 0.0) * 1_000_000) <= cutoff for shape in spec.further]
    known = tuple(value if old else None for value, old in zip(candidate.further, ripe, strict=True))
    return msgspec.structs.replace(candidate, further=known)


def _without_duplicates(candidates: Sequence[Candidate]) -> list[Candidate]:
    served = {(one.entity, one.moment, one.question) for one in candidates if one.origin == "receipts"}
    single: dict[str, Candidate] = {}
    for one in candidates:
        if one.origin == "history" and (one.entity, one.moment, one.question) in served:
            continue
        known = single.get(one.example)
        if known is None or (one.label_at, one.prediction or "") < (known.label_at, known.prediction or ""):
            single[one.example] = one
    return list(single.values())
