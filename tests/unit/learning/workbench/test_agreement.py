from __future__ import annotations

import numpy as np
import pytest
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.learning.annotations import Annotation, AnnotationKind, annotation_id
from antiphon.learning.workbench.agreement import SCORES, Contradiction, agreements, kappa


def said(
    prediction: str, annotator: str, value: str, kind: AnnotationKind = "label", criterion: str = "urgency"
) -> Annotation:
    id = annotation_id(prediction, annotator, kind, criterion)
    return Annotation(id, DEV, prediction, "triage", annotator, kind, value, NOON, criterion)


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import cohen_kappa_score

    draw = np.random.default_rng(seed)
    labels = ["low", "normal", "urgent"]
    first = draw.choice(labels, 60)
    second = np.where(draw.random(60) < 0.6, first, draw.choice(labels, 60))
    pairs = [(str(one), str(other)) for one, other in zip(first, second, strict=True)]
    assert kappa(pairs) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    scores = [(str(draw.integers(1, 6)), str(draw.integers(1, 6))) for _ in range(40)]
    expected = cohen_kappa_score(*zip(*scores, strict=True), weights="quadratic", labels=list(SCORES))
    assert kappa(scores, SCORES) == pytest.approx(expected, abs=1e-12)


def test_where_chance_explains_everything_there_is_no_kappa() -> None:
    assert kappa([("low", "low")] * 3) is None
    assert kappa([("low", "urgent"), ("urgent", "low")]) == -1.0


def test_contradictions_are_shown_and_not_averaged() -> None:
    annotations = [
        said("p1", "ada", "low"), said("p1", "bob", "urgent"), said("p2", "ada", "low"), said("p2", "bob", "low"),
        said("p3", "ada", "low"), said("p1", "cy", "low"), said("p1", "ada", "4", "rubric", "tone"),
        said("p1", "ada", "Better so.", "correction", ""), said("p1", "bob", "Or so.", "correction", ""),
    ]  # fmt: skip
    found = {one.annotators: one for one in agreements(annotations)}
    assert set(found) == {("ada", "bob"), ("ada", "cy"), ("bob", "cy")}
    assert found["ada", "bob"].contradictions == (Contradiction("p1", "low", "urgent"),)
    assert (found["ada", "bob"].predictions, found["ada", "bob"].same) == (2, 1)
    assert found["ada", "cy"].contradictions == ()
    assert agreements([]) == ()
