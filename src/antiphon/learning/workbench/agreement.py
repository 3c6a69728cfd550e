"""Agreement of annotators: Cohen's kappa by pairs, and every case in which two of them contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import msgspec
import numpy as np

from antiphon.catalog.learning.annotations import Annotation

SCORES = ("1", "2", "3", "4", "5")


class Contradiction(msgspec.Struct, frozen=True):
    """Two annotators' says about one prediction that differ."""

    prediction: str
    first: str
    second: str


class Agreement(msgspec.Struct, frozen=True):
    """Agreement of two annotators on one kind and criterion.

    Attributes:
        annotators: both, in order of their names.
        predictions: that both annotated; ``same``: with the same value.
        kappa: chance-corrected, 1 at best; of scores with quadratic weights. ``None`` where chance alone explains
            all of it: both always said the same one thing.
    """

    kind: str
    criterion: str
    annotators: tuple[str, str]
    predictions: int
    same: int
    kappa: float | None
    contradictions: tuple[Contradiction, ...]


def agreements(annotations: Iterable[Annotation]) -> tuple[Agreement, ...]:
    """The agreement of every pair of annotators on every kind and criterion that they share predictions of.
    Corrections are texts of one's own and have none."""
    said: dict[tuple[str, str], dict[str, dict[tuple[str, str | None], str]]] = {}
    for one in annotations:
        if one.kind != "correction":
            about = said.setdefault((one.kind, one.criterion), {}).setdefault(one.annotator, {})
            about[one.prediction, one.other] = one.value
    found = []
    for (kind, criterion), by_annotator in sorted(said.items()):
        for first, second in combinations(sorted(by_annotator), 2):
            ours, theirs = by_annotator[first], by_annotator[second]
            shared = sorted(ours.keys() & theirs.keys(), key=str)
            if not shared:
                continue
            pairs = [(ours[one], theirs[one]) for one in shared]
            found.append(
                Agreement(
                    kind=kind,
                    criterion=criterion,
                    annotators=(first, second),
                    predictions=len(shared),
                    same=sum(one == other for one, other in pairs),
                    kappa=kappa(pairs, SCORES if kind == "rubric" else ()),
                    contradictions=tuple(
                        Contradiction(one[0], *pair)
                        for one, pair in zip(shared, pairs, strict=True)
                        if len({*pair}) > 1
                    ),
                )
            )
    return tuple(found)


def kappa(pairs: Sequence[tuple[str, str]], scale: Sequence[str] = ()) -> float | None:
    """Cohen's kappa of two annotators ("A coefficient of agreement for nominal scales", 1960); on a scale with
    quadratic weights ("Weighted kappa", 1968).

    Args:
        pairs: what both said, of each thing. scale: all values in their order; empty: the values have none.
    """
    values = list(scale) or sorted({value for pair in pairs for value in pair})
    places = {value: place for place, value in enumerate(values)}
    counts = np.zeros((len(values), len(values)))
    for first, second in pairs:
        counts[places[first], places[second]] += 1
    distance = np.subtract.outer(np.arange(len(values)), np.arange(len(values))).astype(np.float64)
    weights = distance**2 if scale else (distance != 0).astype(np.float64)
    chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    expected = float((weights * chance).sum())
    return None if expected == 0 else 1.0 - float((weights * counts).sum()) / expected
