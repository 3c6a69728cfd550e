"""The part of the game day that needs a trained model: trained in seconds and damaged, or skipped with the reason."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks.operations import game_day, trained_project

from antiphon.core.errors import SetupError


async def test_without_the_libraries_it_is_skipped_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise SetupError("Fine-tuning needs torch.", next_step="Install the extra.")

    monkeypatch.setattr(trained_project, "require_libraries", absent)
    ((one,),) = [report["experiments"] for report in await game_day.with_trained(3)]
    assert (one["experiment"], one["status"]) == ("bad-adapter", "refused")
    assert "Fine-tuning needs torch." in one["reason"]


async def test_a_model_is_trained_released_damaged_and_released_again(tmp_path: Path) -> None:
    if why := trained_project.obstacle():
        pytest.skip(why)
    async with trained_project.trained_project(tmp_path) as project:
        for _ in range(2):  # The watch of live releases may have rolled it back meanwhile.
            await asyncio.to_thread(project.release_trained)
            quick = [word for one in ("duration=4s", "window=2s", "rate=5") for word in ("--var", one)]
            report = await game_day.reported(project, ["chaos", "run", "bad-adapter", *quick, "--json"])
            (one,) = report["experiments"]
            assert (one["status"], one["broken_seconds"]) == ("held", 0), one
            assert one["faults"][0]["touched"][0].startswith("weights.gguf of desk.v1")
            assert one["outside_seconds"] > 0, "the damage was not met at all"
            assert one["questions"]["refused"] > 0
