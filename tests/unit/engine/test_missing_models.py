"""One configured model that is missing: the others are served, and it is told by name."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest

from antiphon.core.errors import NotFoundError, SetupError, UnavailableError
from antiphon.engine.__main__ import load_configured
from antiphon.engine.api.messages import GenerationRequest
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout, Runtime
from antiphon.engine.weights import Weights

LOG = logging.getLogger("test")


def options(*models: str) -> argparse.Namespace:
    return argparse.Namespace(model=list(models), embedding_model=[], simulated=False, cache=None)


def loaded(_: argparse.Namespace, name: str, weights: Weights) -> Runtime:
    assert weights.path.is_file()
    return SimulatedRuntime(name, Layout(64, 4, 1024))


def gguf(folder: Path) -> str:
    file = folder / "there.gguf"
    file.write_bytes(b"GGUF and the rest")
    return f"there={file}"


async def test_the_models_that_are_there_are_served(tmp_path: Path) -> None:
    found = load_configured(options(f"gone={tmp_path / 'gone.gguf'}", gguf(tmp_path)), LOG, loaded)
    assert (list(found.runtimes), list(found.missing)) == (["there"], ["gone"])
    engine = await LocalEngine(found.runtimes, digests=found.digests, missing=found.missing).start()
    try:
        assert list((await engine.describe()).missing) == ["gone"]
        with pytest.raises(UnavailableError, match="'gone' is configured and could not be loaded"):
            async for _ in engine.generate(GenerationRequest("r", "gone", "About this.", 4)):
                pass
        with pytest.raises(NotFoundError):
            async for _ in engine.generate(GenerationRequest("r", "never", "About this.", 4)):
                pass
        answered = [event async for event in engine.generate(GenerationRequest("r", "there", "About this.", 4))]
        assert answered
    finally:
        await engine.close()


def test_without_any_model_there_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="neither a registered model nor a file"):
        load_configured(options(f"gone={tmp_path / 'gone.gguf'}"), LOG, loaded)
