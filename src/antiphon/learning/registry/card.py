"""The model card: a model's origin, training data, measures and their limits.

A card is a value (JSON) and a page: one HTML file that needs nothing else, with no script, readable in light and dark,
by keyboard and by a screen reader. Form: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.learning.evaluations import Bin, Evaluation, IntervalEstimate, SuiteSummary, counted
from antiphon.catalog.learning.models import ModelVersion, TrainedCandidate
from antiphon.catalog.learning.regressions import RegressionCase
from antiphon.catalog.learning.safety import SafetyReport
from antiphon.catalog.releases.releases import Release
from antiphon.definitions.learning import in_words
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.evaluation.coverage import CoverageLine, coverage
from antiphon.learning.evaluation.gates import ENOUGH
from antiphon.learning.evaluation.metrics import TRIVIAL, title


class CardRelease(msgspec.Struct, frozen=True):
    """One release that serves the model."""

    id: str
    number: int
    stage: str
    model: str
    weights_sha256: str | None
    content_hash: str
    author: str
    rationale: str
    created_at: datetime


class CardDataset(msgspec.Struct, frozen=True):
    """One dataset and what for; ``dataset`` is ``None`` when the catalog has it no more."""

    use: str
    id: str
    dataset: Dataset | None


class CardCandidate(msgspec.Struct, frozen=True):
    """A recipe that was tried, and what it reached on the examples that chose: ``None`` where it was not measured."""

    candidate: TrainedCandidate
    reached: float | None


class ModelCard(msgspec.Struct, frozen=True):
    """The content of a model card.

    Attributes:
        name: the model version's id, or that of a base model with the release it is served by.
        version: ``None`` for a base model as shipped.
        outcome: the first that the newest release declares.
        evaluation: the newest one of the newest release that was evaluated whole; ``earlier`` the others.
        suites: results of the safety suites, of that evaluation, or of a ``safety`` report that is newer or stands
            alone.
        limits: what the figures do not say, one sentence each.
        ungated: the declared reason for which releases pass no gates.
        coverage: what of the application its evaluation exercises.
        candidates: every recipe that was tried beside this one, and this one.
    """

    name: str
    application: str
    purpose: str
    owner: str
    outcome: OutcomeShape | None
    version: ModelVersion | None
    aliases: tuple[str, ...]
    releases: tuple[CardRelease, ...]
    datasets: tuple[CardDataset, ...]
    evaluation: Evaluation | None
    earlier: tuple[Evaluation, ...]
    safety: SafetyReport | None
    suites: tuple[SuiteSummary, ...]
    limits: tuple[str, ...]
    made_at: datetime
    ungated: str | None = None
    coverage: tuple[CoverageLine, ...] = ()
    candidates: tuple[CardCandidate, ...] = ()


def model_card(
    name: str,
    *,
    version: ModelVersion | None,
    releases: Sequence[Release],
    aliases: Sequence[str],
    datasets: Sequence[CardDataset],
    evaluations: Sequence[Evaluation],
    safety: SafetyReport | None = None,
    candidates: Sequence[CardCandidate] = (),
    cases: Mapping[str, Sequence[RegressionCase]] = {},
    made_at: datetime,
) -> ModelCard:
    """The card of a model version, or of a release of a base model; releases that serve it and evaluations newest
    first, ``safety`` the newest report, ``cases`` those that its newest release was run on, by regression set."""
    newest = releases[0].bundle.application if releases else None
    evaluation = telling(evaluations)
    return ModelCard(
        name=name,
        application=version.application if version is not None else (newest.name if newest is not None else ""),
        purpose=newest.purpose if newest is not None else "",
        owner=newest.owner if newest is not None else "",
        outcome=newest.shape if newest is not None else None,
        version=version,
        aliases=tuple(aliases),
        releases=tuple(_line(release) for release in releases),
        datasets=tuple(datasets),
        evaluation=evaluation,
        earlier=tuple(one for one in evaluations if one != evaluation),
        safety=safety,
        suites=(suites := _suites(evaluation, safety)),
        limits=tuple(_limits(version, evaluation, datasets, suites)),
        made_at=made_at,
        ungated=newest.ungated.reason if newest is not None and newest.ungated else None,
        coverage=() if newest is None else coverage(newest, evaluation, suites, cases),
        candidates=tuple(candidates),
    )


def telling(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """Of evaluations, newest first, the newest one that tried safety suites, else that asked for whole outputs: one
    that was made only to compare another release with says little. ``None`` when there is none at all."""
    tried = next((one for one in evaluations if one.safety), None)
    return tried or next((one for one in evaluations if one.whole_rows), evaluations[0] if evaluations else None)


def _suites(evaluation: Evaluation | None, safety: SafetyReport | None) -> tuple[SuiteSummary, ...]:
    of_evaluation = () if evaluation is None else evaluation.safety
    if safety is None or (evaluation is not None and of_evaluation and evaluation.created_at >= safety.created_at):
        return of_evaluation
    return safety.suites


def as_html(card: ModelCard) -> str:
    """The page."""
    text: str = _template().render(
        **msgspec.structs.asdict(card),
        card=card,
        plot=reliability_plot(card.evaluation.reliability) if card.evaluation is not None else None,
        curve=loss_curve(card.version.losses) if card.version is not None else None,
        style=_style(),
        tiles=_tiles(card.outcome),
        trivial=TRIVIAL["label" if card.outcome is None else card.outcome.form],
        deciding=_deciding(card),
        in_words=in_words,
        chosen_by="" if card.outcome is None else card.outcome.deciding_title,
    )
    return text


def _tiles(shape: OutcomeShape | None) -> tuple[str, ...]:
    """The metrics that a card begins with."""
    if shape is None or shape.form == "label":
        return ("auc", "brier") if shape is None or shape.positive else ("macro_f1", "brier")
    if shape.form == "correction":
        return ("field_f1", "output_match")
    return ("mae", "rmse") if shape.form == "number" else ("chrf", "rouge_l")


def _deciding(card: ModelCard) -> str | None:
    """The metric by whose distance slices are shown, where it was measured."""
    name = "brier" if card.outcome is None else card.outcome.deciding
    return name if card.evaluation is not None and name in card.evaluation.metrics else None


def content_security_policy() -> str:
    """The policy to serve a card's page under: nothing but its own style sheet, by its hash."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


class ReliabilityPoint(msgspec.Struct, frozen=True):
    """A point of a plot, in its own units of 0 to 300."""

    x: float
    y: float
    size: float
    words: str


def reliability_plot(bins: Sequence[Bin], truth: str = "observed") -> tuple[ReliabilityPoint, ...]:
    """Forecast against share of positives, which ``truth`` names in words; a dot's area is its share of rows."""
    most = max((one.rows for one in bins), default=1)
    return tuple(
        ReliabilityPoint(
            x=round(300 * one.forecast, 1),
            y=round(300 * (1 - one.observed), 1),
            size=round(3 + 11 * (one.rows / most) ** 0.5, 1),
            words=f"forecast {one.forecast:.2f}, {truth} {one.observed:.2f}, {one.rows} rows",
        )
        for one in bins
    )


def loss_curve(losses: Sequence[tuple[int, float]]) -> str | None:
    """The training loss as the points of a line, ``None`` for fewer than two."""
    if len(losses) < 2:
        return None
    first, last = losses[0][0], losses[-1][0]
    highest = max(loss for _, loss in losses) or 1.0
    return " ".join(
        f"{300 * (step - first) / max(last - first, 1):.1f},{100 - 96 * loss / highest:.1f}" for step, loss in losses
    )


def _line(release: Release) -> CardRelease:
    pin = release.bundle.model
    return CardRelease(
        id=release.id,
        number=release.number,
        stage=release.stage,
        model=pin.name,
        weights_sha256=pin.weights_sha256,
        content_hash=release.content_hash,
        author=release.author,
        rationale=release.rationale,
        created_at=release.created_at,
    )


def _limits(
    version: ModelVersion | None,
    evaluation: Evaluation | None,
    datasets: Sequence[CardDataset],
    suites: Sequence[SuiteSummary],
) -> list[str]:
    said = []
    tried = sum(suite.probes for suite in suites)
    if tried:
        said.append(
            f"{tried} safety probes were tried. Withstanding them shows that known weaknesses are absent, no more; "
            "toxic words are found by a lexicon, cruelty in polite words is not."
        )
    if version is not None:
        said.append(
            f"It knows what its examples show and what {version.base} knew; nothing else was added, and nothing was "
            "taken away."
        )
    if evaluation is None:
        return [*said, "It was not evaluated: nothing here says how well it does."]
    tested = next((line.dataset for line in datasets if line.id == evaluation.dataset and line.dataset), None)
    if tested is not None:
        said.append(
            f"It was measured on {evaluation.rows:,} rows from {tested.spec.first:%Y-%m-%d} to "
            f"{tested.spec.last:%Y-%m-%d}. How it does at other times is not known until outcomes arrive."
        )
    drawn = (
        f"the rows of {evaluation.clusters} users or entities, each as one" if evaluation.clusters else "single rows"
    )
    said.append(
        f"Intervals draw {drawn}. Where these depend on each other in another way (one storm, many flights) they are "
        "too narrow."
    )
    small = [one for one in evaluation.slices if one.rows < ENOUGH]
    if small:
        said.append(f"{len(small)} slices have fewer than {ENOUGH} rows: they are shown and not judged.")
    if evaluation.whole_rows:
        said.append(
            "False statements are counted of numbers and their roles; claims in words alone are not read. "
            f"{evaluation.whole_rows:,} texts were."
        )
    return [*said, "Latency is that of batch priority with several rows at once, not what a user waits."]


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("antiphon.learning.registry", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        interval=_interval,
        share=_percent,
        measure=_measured,
        moment=lambda at: f"{at:%Y-%m-%d %H:%M} UTC",
        counted=counted,
        metric=title,
    )
    return environment.get_template("model_card.html")


@cache
def _style() -> str:
    templates = resources.files("antiphon.learning.registry").joinpath("templates")
    return templates.joinpath("model_card.css").read_text(encoding="utf-8")


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def _interval(value: IntervalEstimate | None) -> str:
    return "–" if value is None else f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def _measured(value: IntervalEstimate | None) -> str:
    return "not measured" if value is None else f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f})"
