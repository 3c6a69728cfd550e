"""The story of learning as table, sentences and page; and the bad release that the story makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from examples.flight_desk.learning import measure, report, story

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.definitions import project
from antiphon.serving.answering import prompts

DEFINITIONS = Path(story.__file__).parents[1] / "definitions.py"
PRINTS = {
    "congestion.delay_2h": "25",
    "weather.wind": "10",
    "carrier_history.late_share": "20",
    "route_history.late_share": None,
}


def judgement(sequence: int, decision: str) -> dict[str, Any]:
    """One judgement, as the gateway tells it."""
    metric = {"name": "invalid", "safe": 0.4}
    return {
        "decision": decision, "sentence": f"Sentence <{sequence}>.", "metrics": [metric],
        "harm": 0.0 if sequence == 1 else 159.1, "harm_bound": 100.0, "safe_bound": 20.0,
    }  # fmt: skip


def told(*, learned: bool = True) -> report.Told:
    names = (measure.UNTUNED, measure.TUNED, measure.DAWN, measure.REGRESSION, measure.BASE_RATE)
    names += (measure.LEARNED,) if learned else ()
    trained = {"model": "desk.v1", "stage": "draft", "examples": {"new": 9, "replayed": 0}}
    judgements = [judgement(1, "hold"), judgement(2, "roll_back")]
    phases = (
        story.Phase("train on history", 148.2, trained),
        story.Phase("first release", 99.0, {"state": "rolled_back", "questions": 37, "judgements": []}),
        story.Phase("collect outcomes", 10.0, {"questions": 80, "outcomes": {"joined": 70}}),
        story.Phase("bad release", 9.0, {"state": "rolled_back", "questions": 9, "judgements": judgements}),
        story.Phase("roll back and forth", 9.0, {"questions": 31, "failed": 0, "answered_by": {"a": 12, "b": 19}}),
    )  # fmt: skip
    return report.Told(
        story.Story(phases, {"joined": 70}),
        measure.Measured(
            flights=300,
            late=0.24,
            forecasters=tuple(
                measure.Forecaster(name, IntervalEstimate(0.6, 0.5, 0.7), IntervalEstimate(0.2, 0.1, 0.3)) for name in
                names
            ),
            differences={
                "fine-tuned − untuned": IntervalEstimate(0.15, 0.05, 0.27),
                "fresh − dawn features": IntervalEstimate(0.03, -0.04, 0.1),
            },
            notices=(measure.Notices(measure.TUNED, 60, 83.3, 0.0),),
            tokens={},
        ),
    )  # fmt: skip


@pytest.mark.parametrize("learned", [True, False])
def test_the_page_needs_nothing_else_and_escapes_what_it_shows(tmp_path: Path, learned: bool) -> None:
    page = tmp_path / "learning.html"
    report.write(told(learned=learned), page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "Sentence &lt;2&gt;." in text
    assert "<script" not in text
    assert (measure.LEARNED in text) is learned
    assert "rolled back after 37 questions" in text


def test_a_gain_that_the_sample_does_not_show_is_not_claimed() -> None:
    shown, not_shown = report.verdict(told())[:2]
    assert "does not show" not in shown
    assert "the sample does not show a gain" in not_shown


def test_the_table_and_the_summary_hold_every_phase() -> None:
    for phase in told().story.phases:
        assert phase.name in report.table(told())
    assert msgspec.json.decode(msgspec.json.encode(report.summary(told())))["outcomes"] == {"joined": 70}


def test_the_bad_release_states_the_wind_as_the_delay_and_has_no_shadow(tmp_path: Path) -> None:
    broken = tmp_path / "definitions.py"
    broken.write_text(story._broken(DEFINITIONS.read_text(encoding="utf-8")), encoding="utf-8")
    bad = project.load(broken, "desk").applications["desk"]
    good = project.load(DEFINITIONS, "desk").applications["desk"]
    entity = {"origin": "EWR", "carrier": "UA", "dest": "ORD"}

    def asked(application: project.ApplicationSpec) -> str:
        assert application.fine_tune is not None
        assert application.fine_tune.prompt is not None
        names = prompts.variables(application, PRINTS, entity, None)
        return prompts.render(application.fine_tune.prompt.template, names, "prompt")

    assert "25 minutes late" in asked(good)
    assert "10 minutes late" in asked(bad)
    assert "25 mph" in asked(bad)
    assert (good.rollout.shadow, bad.rollout.shadow, bad.rollout.shadow_pairs) == (1.0, 0.0, 0)
