"""Answers of both paths are counted by their receipts; online ones are timed by who sends them."""

from __future__ import annotations

import msgspec
from prometheus_client import generate_latest
from tests.harness import fakes

from antiphon.catalog.serving.receipt import Path, Receipt, Timing
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.serving.answer_metrics import AnswerMetrics
from antiphon.serving.request import AnswerRequest

ASKER = Principal(id="asker", tenant="default", role="service")


def receipt(path: Path = "online", application: str = "desk") -> Receipt:
    request = AnswerRequest(Scope(), ASKER, application, {"flight": "AA"}, path=path)
    made, _ = fakes.make_receipt(request, "Yes.", SystemClock())
    return msgspec.structs.replace(made, timing=Timing(total=3.0))


def test_tokens_of_both_paths_are_counted_and_batch_rows_timed() -> None:
    metrics = AnswerMetrics()
    for path in ("online", "batch", "batch"):
        metrics.answered(receipt(path))
    metrics.sent("default", "desk", "generated", 0.02, 0.4)
    text, usage = generate_latest(metrics.registry).decode(), receipt().usage
    for path, count in (("online", 1), ("batch", 2)):
        labels = f'application="desk",origin="generated",path="{path}"'
        assert f'antiphon_answers_total{{{labels},role="live",tenant="default"}} {count}.0' in text
        tokens = float(usage.completion_tokens * count)
        assert (
            f'antiphon_tokens_total{{application="desk",kind="completion",path="{path}",tenant="default"}} {tokens}'
            in text
        )
    assert (
        'antiphon_answer_seconds_sum{application="desk",origin="generated",path="batch",tenant="default"} 6.0' in text
    )
    assert (
        'antiphon_answer_seconds_sum{application="desk",origin="generated",path="online",tenant="default"} 0.4' in text
    )
    assert (
        'antiphon_first_byte_seconds_count{application="desk",origin="generated",path="online",tenant="default"} 1.0'
        in text
    )


def test_names_that_look_like_keys_are_no_labels() -> None:
    metrics = AnswerMetrics()
    metrics.answered(receipt(application="ak_" + "a" * 40))
    assert "aaaa" not in generate_latest(metrics.registry).decode()
