"""An experiment that damages the model of a live release, run over a real project."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from tests.integration.services.test_apply_learning import Project
from tests.integration.services.test_served_models import model_version

from antiphon.catalog.learning.models import ModelFile
from antiphon.cli.project import at_terminal
from antiphon.core.errors import ForbiddenError
from antiphon.operations.chaos.model_injector import original_of
from antiphon.services.chaos.project_chaos import ProjectChaos

# The steady state looks at the file itself: it is away while the fault lasts.
EXPERIMENT = {
    "title": "It is gone",
    "description": "Until it is there again.",
    "steady-state-hypothesis": {
        "title": "The file is there",
        "probes": [
            {
                "type": "probe",
                "name": "file",
                "tolerance": 0,
                "provider": {"type": "process", "path": "ls", "arguments": ".antiphon/models/desk/FILE"},
            }
        ],
    },
    "method": [
        {
            "type": "action",
            "name": "damage",
            "provider": {
                "type": "python",
                "module": "antiphon.chaos",
                "func": "damage_model",
                "arguments": {"model": "*", "duration": "1s", "damage": "gone", "file": "FILE"},
            },
        }
    ],
    "runtime": {"hypothesis": {"strategy": "continuously", "frequency": 0.1}},
    "extensions": [{"name": "antiphon", "blast-radius": {"models": ["*"]}, "recovery": "10s", "settle": "10s"}],
}


@pytest.mark.parametrize("file", ["weights", "adapter"])
async def test_the_file_of_the_live_version_is_away_and_there_again(tmp_path: Path, file: str) -> None:
    project = Project(tmp_path)
    project.apply()
    store, chaos = project.store, ProjectChaos(project.store)
    (tmp_path / "chaos").mkdir()
    (tmp_path / "chaos" / "gone.json").write_text(json.dumps(EXPERIMENT).replace("FILE", file))
    experiments = chaos.find(["gone"], {})
    with pytest.raises(ForbiddenError, match="no live release of this project uses a trained model"):
        await chaos.run(experiments, by=at_terminal(store), reason="")

    folder = store.paths.models / "desk"
    folder.mkdir(parents=True)
    for name in ("weights", "adapter"):
        (folder / name).write_text(name)
    files = {name: ModelFile(f"desk/{name}", "aa" * 32, 7) for name in ("weights", "adapter")}
    version = msgspec.structs.replace(model_version("desk.v1", "desk", 1), scope=project.scope, **files)
    store.models.add(version)
    project.train()

    report = await chaos.run(experiments, by=at_terminal(store), reason="a look")
    (one,) = report.experiments
    assert one.faults[0].touched == (f"{file} of desk.v1 ({folder.resolve() / file})",)
    assert 0.5 < one.outside_seconds < 3
    assert {each.name: each.read_text() for each in folder.iterdir()} == {"weights": "weights", "adapter": "adapter"}

    (folder / file).rename(original_of(folder / file))  # As a guardian leaves it that is killed.
    again = await chaos.run(experiments, by=at_terminal(store), reason="a look")
    assert again.experiments[0].status != "unsteady"
    assert (folder / file).read_text() == file
    store.close()
