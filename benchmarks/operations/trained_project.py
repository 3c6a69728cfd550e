"""A small project on llama.cpp with a model that was trained a moment ago, from 100,000 random values: for experiments
that damage its weights.

It makes what the test of a whole training makes, by the commands that a user has.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.operations.faults.project import FaultyProject, antiphon
from tests.harness.ports import free_port

from antiphon.core.errors import SetupError
from antiphon.engine.backends.llamacpp.library import find_library
from antiphon.training.recipe import require_libraries

APPLICATION = "desk"


def obstacle() -> str:
    """The reason why no model can be trained and served here; empty without one."""
    try:
        require_libraries()
        find_library()
    except SetupError as error:
        return str(error)
    return ""


class TrainedProject(FaultyProject):
    """The project; its releases of a trained model are drafts at first."""

    def release_trained(self) -> None:
        """Make the newest release live, also again after the watch of live releases has rolled it back."""
        listed = json.loads(antiphon(self.root, "releases", "list", APPLICATION, "--json"))
        newest = max(listed, key=lambda one: int(one["number"]))["release"]
        antiphon(self.root, "releases", "activate", APPLICATION, newest, "--reason", "game day", "--force", "--json")


@asynccontextmanager
async def trained_project(folder: Path) -> AsyncIterator[TrainedProject]:
    """The project while it runs, with its model trained.

    Raises:
        RuntimeError: a command on the way failed.
    """
    from tests.integration.learning.test_retraining_real import project  # Needs torch.

    root = folder / "trained"
    root.mkdir()
    settings = project(root) / "antiphon.toml"
    port = f"\n[gateway]\nport = {free_port()}\n[worker]\nnice = 0\n"
    settings.write_text(settings.read_text(encoding="utf-8") + port, encoding="utf-8")
    made = TrainedProject(root)
    async with made.running():
        antiphon(root, "features", "refresh", "--wait")
        antiphon(root, "train", APPLICATION, "--rows", "8", "--texts", "1", "--reason", "game day", "--json")
        yield made
