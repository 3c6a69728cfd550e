"""Metrics of numbers and texts, beside other libraries, and that forecasters which ignore what is asked have none of
their advantage."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn import metrics as oracle

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.evaluation.metrics import advantages, differences, intervals, measure, read_rows
from antiphon.learning.evaluation.numbers import NumberAnswers
from antiphon.learning.evaluation.texts import TextAnswers, score_text

MINUTES = OutcomeShape("minutes", "number", "minutes", low=0, high=120)
REPLY = (
    "please restart the router then wait two minutes before you try again our team has found the cause of the outage "
    "and refunds the invoice within five days thank you for your patience the printer needs new paper"
)
WORDS = REPLY.split()


def numbers(rows: int, seed: int, say: Callable[[random.Random, float], float]) -> NumberAnswers:
    draw = random.Random(seed)
    truths = [draw.uniform(0, 120) for _ in range(rows)]
    return NumberAnswers.read([(repr(say(draw, truth)), repr(truth)) for truth in truths], MINUTES.span)


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(6, 16)))


def texts(rows: int, seed: int, say: Callable[[random.Random, str], str]) -> TextAnswers:
    draw = random.Random(seed)
    references = [sentence(draw) for _ in range(rows)]
    return TextAnswers.read([(say(draw, reference), reference) for reference in references])


def partly(draw: random.Random, reference: str) -> str:
    """Half of the words of the reference, others in between."""
    return " ".join(word if draw.random() < 0.5 else draw.choice(WORDS) for word in reference.split())


def test_errors_of_numbers_agree_with_another_library() -> None:
    found = numbers(300, 1, lambda draw, truth: truth + draw.gauss(0, 20))
    measured = measure(found)
    assert measured["mae"] == pytest.approx(oracle.mean_absolute_error(found.truth, found.said))
    assert measured["rmse"] == pytest.approx(oracle.root_mean_squared_error(found.truth, found.said))
    middle = oracle.mean_absolute_error(found.truth, np.full(300, np.median(found.truth)))
    assert advantages(found)["mae"].value == pytest.approx(middle - measured["mae"])


def test_the_trivial_forecaster_says_the_median_of_each_draw() -> None:
    generator = np.random.default_rng(6)
    for rows in (7, 8):
        found = numbers(rows, rows, lambda draw, truth: 50.0)
        places = generator.integers(0, rows, (50, rows))
        trivial = found.trivial(np.array([np.bincount(one, minlength=rows) for one in places], float))
        drawn = [found.truth[one] for one in places]
        medians = [np.full(rows, np.median(truth)) for truth in drawn]
        for name, of in (("mae", oracle.mean_absolute_error), ("rmse", oracle.root_mean_squared_error)):
            assert trivial[name] == pytest.approx(list(map(of, drawn, medians)))


def test_rouge_l_agrees_with_another_library_and_chrf_with_itself_on_texts_of_any_script() -> None:
    draw, scorer = random.Random(2), RougeScorer(["rougeL"], use_stemmer=False)
    for _ in range(200):
        said, reference = sentence(draw), sentence(draw)
        assert score_text(said, reference)["rouge_l"] == pytest.approx(scorer.score(reference, said)["rougeL"].fmeasure)
    assert score_text("Der Drucker geht nicht.", "Der Drucker geht nicht.")["chrf"] == 1.0
    assert score_text("プリンター", "プリンタ")["chrf"] > 0.8
    assert score_text("プリンターが故障", "プリンターが故障")["rouge_l"] == 1.0
    assert score_text("", "something") == {"chrf": 0.0, "rouge_l": 0.0, "exact_match": 0.0, "length_gap": 1.0}
    assert score_text("!", "?")["rouge_l"] == 0.0


@pytest.mark.parametrize("seed", [3, 4, 5])
@pytest.mark.parametrize(
    ("name", "say"),
    [
        ("constant", lambda draw, truth: 60.0),
        ("median", lambda draw, truth: 58.7),
        ("random", lambda draw, truth: draw.uniform(0, 120)),
        ("random near the middle", lambda draw, truth: draw.gauss(60, 3)),
    ],
)
def test_numbers_that_ignore_what_is_asked_have_no_sure_advantage(
    seed: int, name: str, say: Callable[[random.Random, float], float]
) -> None:
    assert advantages(numbers(200, seed, say))["mae"].low <= 0
    useful = numbers(200, seed, lambda draw, truth: truth + draw.gauss(0, 25))
    assert advantages(useful)["mae"].low > 0


@pytest.mark.parametrize("seed", [3, 4, 5])
@pytest.mark.parametrize(
    ("name", "say"),
    [
        ("constant", lambda draw, reference: "Thank you for your patience, our team has found the cause."),
        ("empty", lambda draw, reference: ""),
        ("random", lambda draw, reference: sentence(draw)),
        ("everything", lambda draw, reference: " ".join(WORDS)),
    ],
)
def test_texts_that_ignore_what_is_asked_have_no_sure_advantage(
    seed: int, name: str, say: Callable[[random.Random, str], str]
) -> None:
    assert advantages(texts(120, seed, say))["chrf"].low <= 0
    useful = advantages(texts(120, seed, partly))
    assert useful["chrf"].low > 0
    assert useful["rouge_l"].low > 0


def test_two_forecasters_are_compared_on_identical_rows() -> None:
    better = texts(80, 6, lambda draw, reference: reference)
    worse = texts(80, 6, lambda draw, reference: reference[: len(reference) // 2])
    gap = differences(better, worse)
    assert gap["chrf"].low > 0
    assert gap["length_gap"].high < 0
    with pytest.raises(InvalidInputError, match="different rows"):
        differences(better, texts(80, 7, lambda draw, reference: reference))
    with pytest.raises(InvalidInputError, match="different rows"):
        differences(better, numbers(80, 6, lambda draw, truth: truth))


def test_an_interval_holds_its_value_and_comes_out_the_same() -> None:
    found = texts(60, 8, partly)
    first = intervals(found)
    assert first == intervals(found)
    assert all(one.low <= one.value <= one.high for one in first.values())


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no number to score"):
        read_rows(MINUTES, [({}, "soon", "12")])
    with pytest.raises(InvalidInputError, match="no number to score"):
        read_rows(MINUTES, [])
    assert list(NumberAnswers.read([("500", "0")], 120.0).losses()) == [1.0]
