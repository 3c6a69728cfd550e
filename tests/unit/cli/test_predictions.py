"""The explanation on one screen, of receipts of several kinds."""

from __future__ import annotations

from typing import Any

from antiphon.cli.predictions import brief

EXPLAINED: dict[str, Any] = {
    "prediction": "pred_1", "path": "online", "role": "live", "as_of": "2026-01-01T00:00:00Z",
    "asked_by": {"principal": "bot", "originating_user": "ada"},
    "entity": {"shop": "tea"}, "question": None, "inputs": None, "hints": None,
    "answer": "word " * 200, "finish_reason": "stop",
    "release": {"id": "rel_1", "application": "desk", "number": 3, "model": {"name": "tiny"}},
    "policy": {"decision": "allow", "policies": ["services-answer"]},
    "features": [
        {"name": f"today.f{n}", "value": n, "printed": None, "age_seconds": 60.0, "contract": "fresh", "snapshot": None}
        for n in range(30)
    ],
    "generations": [{"model": "tiny", "temperature": 0.0, "seed": 7, "fingerprint": "f" * 32, "prompt": "secret"}],
    "guards": [{"guard": "figures:notice", "action": "retry", "reason": "40 is no figure"}],
    "cache": {"origin": "generated", "prediction": None},
    "fallback": None, "degraded": None,
    "usage": {"prompt_tokens": 1_234, "cached_prompt_tokens": 0, "completion_tokens": 5},
    "timing": {"total": 0.25}, "cost": {"amount": 0.001, "currency": "USD"},
}  # fmt: skip


def test_it_fits_a_screen_whatever_the_answer_and_the_features() -> None:
    told = brief(EXPLAINED)
    assert len(told.splitlines()) < 40
    assert max(map(len, told.splitlines())) < 420
    for part in ("shop=tea", "bot for ada", "desk 3, rel_1", "seed 7", "retry (40 is no figure)", "1,234 tokens"):
        assert part in told
    assert "… 30 features" in told
    assert "secret" not in told, "prompts are for --full"


def test_a_stored_answer_of_a_plain_model_without_features_and_an_erased_text() -> None:
    told = brief(
        EXPLAINED
        | {"answer": None, "features": [], "generations": [], "guards": [], "entity": {}}
        | {"cache": {"origin": "stored", "prediction": "pred_0"}, "degraded": {"policy": "precomputed", "why": None}}
    )
    assert "(erased)" in told
    assert "stored as pred_0" in told
    assert "instead   policy precomputed" in told
    assert "model     tiny" in told
