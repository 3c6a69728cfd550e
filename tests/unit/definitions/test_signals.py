"""Signals as they are declared, and what is wrong with a declaration."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from antiphon.definitions import shipped_metrics as metrics
from antiphon.definitions.application import Application
from antiphon.definitions.learning import Gates, Outcome, Rollout
from antiphon.definitions.learning_check import learning_mistakes
from antiphon.definitions.own_metrics import JudgeMetric
from antiphon.definitions.prompt import Prompt
from antiphon.definitions.signals import THUMBS, Signal
from antiphon.releases.evidence import CLOCKS

SHADOW = Rollout(shadow=0.1, shadow_pairs=10, metric="groundedness")


def declared(**fields: Any) -> list[str]:
    application = Application(
        "desk", features=[], prompt=Prompt("{{ question }}"), model="small", purpose="answer", **fields
    )
    return list(learning_mistakes(application, ()))


def test_one_value_and_several_are_declared_alike() -> None:
    assert Signal("copied", good="yes") == Signal("copied", good=("yes",))
    assert Signal("stars", good=("4", "5"), bad=("1", "2"), neutral="3").values == ("4", "5", "1", "2", "3")
    assert msgspec.json.decode(msgspec.json.encode(THUMBS), type=Signal) == THUMBS


def test_declared_signals_have_no_mistakes() -> None:
    assert declared(signals=[Signal("copied", good="yes")], rollout=Rollout(canary=(5,), signals=("copied",))) == []
    assert declared(metrics=[metrics.groundedness()], rollout=SHADOW) == []
    assert declared(signals=[Signal("thumbs", bad="down")], rollout=Rollout(canary=(5,), signals=("thumbs",))) == []


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"signals": ["copied"]}, "signals[0] must be a Signal, not 'copied'."),
    ({"signals": Signal("copied")}, "name the values that are good"),
    ({"signals": [Signal("copied", good=(1,))]}, "signals[0]: Expected `str`"),  # type: ignore[arg-type]
    ({"signals": [Signal("to copy", good="yes")]}, "must be a name such as 'copied'"),
    ({"signals": [Signal("copied", good="yes"), Signal("copied", bad="no")]}, "is that of something else"),
    ({"signals": [Signal("text", good="yes")], "outcome": Outcome()}, "is that of something else"),
    ({"signals": [Signal("copied", good="yes", bad="yes")]}, "different texts"),
    ({"signals": [Signal("copied", good=("yes", ""))]}, "different texts"),
    ({"signals": [Signal("thumbs", bad="sideways")]}, "thumbs are up or down"),
    ({"signals": [Signal("copied", good="yes", window="soon")]}, "signals[0].window"),
    ({"rollout": Rollout(canary=(5,), signals=("copied",))}, "no signal is named 'copied'; there are thumbs."),
    ({"rollout": Rollout(signals=("thumbs",))}, "declare rollout.canary"),
    ({"rollout": Rollout(canary=(5,), signals=("thumbs", "thumbs"))}, "are different ones"),
    ({"rollout": Rollout(canary=(5,), cost_margin=0.0)}, "rollout.cost_margin is above 0"),
    ({"rollout": Rollout(shadow=0.1, shadow_pairs=10)}, "no release would ever leave the shadow"),
    ({"rollout": SHADOW, "metrics": [metrics.refusals()]}, "is named 'groundedness'; there are refusals."),
    ({"rollout": SHADOW}, "is named 'groundedness'; there are none."),
    ({"gates": Gates(toxicity_judge="kind"), "metrics": [JudgeMetric("good", "Is it?")]}, "there are good."),
    ({"rollout": SHADOW, "metrics": [JudgeMetric("groundedness", "Is it?")]}, "is a judge model's"),
    (
        {"rollout": SHADOW, "metrics": [metrics.similarity("text", name="groundedness")], "outcome": Outcome()},
        "compares with an outcome",
    ),
    ({"rollout": Rollout(metric="groundedness"), "metrics": [metrics.groundedness()]}, "declare rollout.shadow"),
]


@pytest.mark.parametrize(("fields", "mistake"), MISTAKES)
def test_mistakes_are_said_by_plan(fields: dict[str, Any], mistake: str) -> None:
    assert any(mistake in one for one in declared(**fields)), declared(**fields)


@pytest.mark.parametrize("metric", [name for clock in CLOCKS for name in clock])
def test_no_signal_takes_the_name_of_another_metric_of_a_rollout(metric: str) -> None:
    assert any("is that of something else" in one for one in declared(signals=[Signal(metric, bad="no")]))
