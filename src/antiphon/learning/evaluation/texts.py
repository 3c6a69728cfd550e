"""Metrics of answers that are a text, beside a reference: what a person wrote, or would have.

Trivial forecasters are texts that do not depend on the request: some constant ones (the texts that were said most, and
some of the references) and the answers to other rows. Answers that are the same whatever is asked, or drawn at random,
are no better than the answers to other rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.ids import content_hash
from antiphon.learning.evaluation.metric import Floats, Metric, means

ROTATIONS = 3
"""Answers to so many other rows stand beside each reference."""
CONSTANTS = 3
"""Constant texts of each of two kinds: those that were said most, and references."""

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class RowComparison:
    """A way to compare an answer with its reference.

    Attributes:
        metrics: by name; each is a mean over rows. of: the metrics of one row: answer and reference, as texts.
        deciding: the metric that decides in shadow, whose best value is 1.
    """

    metrics: Mapping[str, Metric[TextAnswers]]
    of: Callable[[str, str], dict[str, float]]
    deciding: str


@dataclass(frozen=True)
class TextAnswers:
    """Texts that were said, scored against their references.

    Attributes:
        scoring: how. truth: the references.
        scores: metric to the score of each row.
        baselines: makes the same of trivial forecasters: metric to rows × (rotations, then constants).
        chosen: the rows that are meant, of those that there are baselines of.
    """

    scoring: RowComparison
    truth: tuple[str, ...]
    scores: Mapping[str, Floats]
    baselines: Callable[[], Mapping[str, Floats]]
    chosen: Any = field(default_factory=lambda: slice(None))

    @classmethod
    def read(cls, rows: Sequence[tuple[str, str]], scoring: RowComparison | None = None) -> TextAnswers:
        """The answers of rows of (text that was said, reference).

        Raises:
            InvalidInputError: there is no row.
            SetupError: the extra ``texts`` is not installed.
        """
        if not rows:
            raise InvalidInputError("There is no text to score.", where="rows")
        by = scoring or TEXT
        scores = _columns([by.of(said, reference) for said, reference in rows])
        return cls(by, tuple(reference for _, reference in rows), scores, cache(lambda: _baselines(rows, by)))

    @classmethod
    def scored(cls, scores: Sequence[Mapping[str, float]], truth: Sequence[str], scoring: RowComparison) -> TextAnswers:
        """Answers that were scored before, at least one, without trivial forecasters."""
        return cls(scoring, tuple(truth), _columns(scores), dict)

    @property
    def metrics(self) -> Mapping[str, Metric[Any]]:
        """The metrics of these rows, by name."""
        return self.scoring.metrics

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.scores.values())))

    def at(self, chosen: Any) -> TextAnswers:
        """The rows at these places, each as often as it is named."""
        places = np.arange(len(self.truth))[self.chosen][chosen]
        return replace(self, scores={name: each[chosen] for name, each in self.scores.items()}, chosen=places)

    def trivial(self, weights: Floats) -> Mapping[str, Floats]:
        """Each metric of the trivial forecaster that is best in it on the same rows."""
        best: dict[str, Floats] = {}
        for name, columns in self.baselines().items():
            drawn = columns[self.chosen]
            candidates = np.column_stack([drawn[:, :ROTATIONS].mean(axis=1), drawn[:, ROTATIONS:]])
            found = means(weights, candidates)
            best[name] = found.max(axis=1) if self.metrics[name].higher else found.min(axis=1)
        return best

    def losses(self) -> Floats:
        """The distance of each row's deciding metric from 1."""
        return 1.0 - self.scores[self.scoring.deciding]

    def same_truth(self, others: TextAnswers) -> bool:
        """Tells whether other rows have the same references."""
        return self.truth == others.truth


def score_text(said: str, reference: str) -> dict[str, float]:
    """Every metric of one text beside its reference, by name; raises ``SetupError`` without the extra ``texts``.

    ``chrf``: F-score of character n-grams up to 6 of any script, recall counting twice, from 0 to 1 (Popović, WMT
    2015), by sacrebleu. ``rouge_l``: F1 of the longest common subsequence of words in lower case (Lin, 2004).
    ``exact_match``: 1 where they are the same but for white space at the ends. ``length_gap``: difference of the
    numbers of words over the larger one.
    """
    chrf, subsequence = _libraries()
    ours, theirs = _WORDS.findall(said.lower()), _WORDS.findall(reference.lower())
    longest = max(len(ours), len(theirs))
    common = subsequence(ours, theirs) if longest else 0
    return {
        "chrf": chrf(said, [reference]).score / 100,
        "rouge_l": 2 * common / (len(ours) + len(theirs)) if longest else float(said.strip() == reference.strip()),
        "exact_match": float(said.strip() == reference.strip()),
        "length_gap": abs(len(ours) - len(theirs)) / longest if longest else 0.0,
    }


def _baselines(rows: Sequence[tuple[str, str]], scoring: RowComparison) -> dict[str, Floats]:
    """The scores of texts that do not depend on the request, each of them a column."""
    said, references = [text for text, _ in rows], [reference for _, reference in rows]
    most = [text for text, _ in Counter(said).most_common(CONSTANTS)]
    some = sorted(dict.fromkeys(references), key=lambda text: content_hash(["constant", text]))[:CONSTANTS]
    # Rows beside each other are often alike, so that the others are taken from all over.
    steps = [max(1, len(rows) * (place + 1) // (ROTATIONS + 1)) for place in range(ROTATIONS)]
    shifted = [said[-step:] + said[:-step] for step in steps]
    constant = [[text] * len(rows) for text in dict.fromkeys([*most, *some])]
    scored = [_columns(list(map(scoring.of, column, references))) for column in (*shifted, *constant)]
    return {name: np.column_stack([column[name] for column in scored]) for name in scoring.metrics}


def _columns(scores: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    return {name: np.asarray([one[name] for one in scores], np.float64) for name in scores[0]}


@cache
def _libraries() -> tuple[Any, Any]:
    try:
        from rapidfuzz.distance import LCSseq
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise SetupError(
            "Texts are compared with references by sacrebleu and rapidfuzz, which are not installed.",
            next_step="Install them: pip install 'antiphon[texts]'.",
        ) from error
    return CHRF().sentence_score, LCSseq.similarity


def mean_of(name: str) -> Callable[[TextAnswers, Floats], Floats]:
    """The metric that is the mean of a score over the rows."""
    return lambda answers, weights: means(weights, answers.scores[name])


TEXT = RowComparison(
    {
        "chrf": Metric("chrf", mean_of("chrf"), True, "reference"),
        "rouge_l": Metric("rouge_l", mean_of("rouge_l"), True, "reference"),
        "exact_match": Metric("exact_match", mean_of("exact_match"), True, "reference"),
        "length_gap": Metric("length_gap", mean_of("length_gap"), False, "reference"),
    },
    score_text,
    "chrf",
)
