"""Trainings that nothing interrupted, to hold the others against."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.harness.base_model import few_layers, model_path
from tests.integration.training.tiny import flights, order, train_here, write_base

from antiphon.core.clock import SystemClock
from antiphon.training.order import TrainingOrder, TrainingResult
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import Recipe

__all__ = ["few_layers", "model_path"]

TINY = Recipe(rank=4, alpha=8, batch=4, steps=40, learning_rate=0.01, checkpoint_every=1, precision="f16")


SHARE = {"floor": 0.5, "window": 5.0}
"""Beside other tests a training gets its part of the machine, or its bound would measure them."""


class Reference(msgspec.Struct, frozen=True):
    order: TrainingOrder
    trained: TrainingResult


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny.gguf")


@pytest.fixture(scope="session")
def reference(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """In a process of its own."""
    ordered = order(tmp_path_factory.mktemp("reference"), base, flights(12), TINY)
    run = TrainingProcesses(SystemClock(), **SHARE).run(ordered, lambda _: None, lambda: False)
    return Reference(ordered, asyncio.run(asyncio.wait_for(run, 400)))


@pytest.fixture(scope="session")
def trained_here(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """The same without a process of its own, which takes seconds to import torch."""
    trained = train_here(order(tmp_path_factory.mktemp("here"), base, flights(12), TINY))
    assert trained is not None
    return trained
