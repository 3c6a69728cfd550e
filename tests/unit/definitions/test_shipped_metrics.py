from __future__ import annotations

from typing import Any

import pytest

from antiphon import Application, Gates, JudgeMetric, MetricGate, Prompt, metrics
from antiphon.definitions.learning_check import learning_mistakes
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.definitions.shipped_metrics import is_shipped, shipped_metric_mistakes

FORMS, PROPERTIES = {"reply": "reference", "urgency": "label"}, ("reply", "urgency")


def test_shipped_metrics_are_declared_with_their_arguments() -> None:
    assert metrics.groundedness("reply").arguments == {"property": "reply"}
    assert not metrics.refusals().higher
    similar = metrics.similarity("reply", name="alike")
    assert (similar.name, similar.arguments) == ("alike", {"reference": "reply", "model": "minilm-l6-v2"})
    assert is_shipped(similar)
    assert not is_shipped(OwnMetric("a", "shop:f"))
    assert list(shipped_metric_mistakes(similar, FORMS, PROPERTIES)) == []
    assert list(shipped_metric_mistakes(OwnMetric("a", "shop:f"), {}, ())) == []


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (metrics.groundedness("summary"), "the output has no property 'summary'"),
        (metrics.similarity("urgency"), "no outcome named 'urgency' is a text; known: reply"),
        (metrics.similarity("reply", model="bert"), "the embedding model 'bert' is unknown"),
        (
            OwnMetric("a", metrics.refusals().function.replace("refused", "declined")),
            "there is no shipped metric 'declined'",
        ),
    ],
)
def test_mistakes_are_said(metric: OwnMetric, said: str) -> None:
    assert said in next(shipped_metric_mistakes(metric, FORMS, PROPERTIES))


def assistant(gates: Gates, *declared: Any) -> Application:
    return Application(
        "assistant", features=[], model="smollm2-135m", purpose="help", prompt=Prompt("{{ question }}"),
        metrics=list(declared), gates=gates,
    )  # fmt: skip


@pytest.mark.parametrize(("sampled", "said"), [(3, "from 4 to 400"), (1_000, "from 4 to 400"), (4, ""), (400, "")])
def test_so_many_requests_may_be_sampled(sampled: int, said: str) -> None:
    assert said in " ".join(learning_mistakes(assistant(Gates(sampled=sampled)), ()))
    assert bool(said) == bool(list(learning_mistakes(assistant(Gates(sampled=sampled)), ())))


def test_a_judge_as_a_gate_needs_as_many_requests_as_scores() -> None:
    judge, bounds = JudgeMetric("kind", rubric="Is it kind?", least=30), {"kind": MetricGate(value=3.0)}
    (said,) = learning_mistakes(assistant(Gates(metrics=bounds), judge), ())
    assert "12 requests are asked: set gates.sampled to 30 or more" in said
    assert list(learning_mistakes(assistant(Gates(metrics=bounds, sampled=30), judge), ())) == []
    assert list(learning_mistakes(assistant(Gates(), judge), ())) == []
