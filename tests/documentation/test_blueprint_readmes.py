"""Every command that a blueprint's README tells its reader to run runs, in order, against a simulated engine.

What takes minutes is not marked ``run`` there, and has its reason here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from tests.documentation.test_snippets import execute, snippets
from tests.harness.ports import free_port
from tests.integration.cli.conftest import run_in

from antiphon.engine import weights

NOT_RUN = {
    "antiphon train": "it trains for minutes: tests/integration/training, `make bench-applications`",
}
"""How a command that is not run begins, and the reason."""

GATED = {"desk", "enrichment"}
"""Blueprints whose first release is held against gates, which a simulated model's words do not pass."""


@pytest.fixture(autouse=True, scope="module")
def model() -> None:
    """A training reads the base model, which `antiphon up` fetches unless its engine is simulated."""
    weights.pull("smollm2-135m")


@pytest.mark.parametrize("blueprint", ["desk", "triage", "extraction", "enrichment", "assistant"])
def test_the_commands_of_a_blueprint_run_as_its_readme_says(blueprint: str, tmp_path: Path) -> None:
    made = run_in(tmp_path)("init", "mine", "--blueprint", blueprint, "--port", str(free_port()), "--json")
    assert made.code == 0, made.err
    root = tmp_path / "mine"
    _simulate(root, ungated=blueprint in GATED)
    readme = (root / "README.md").read_text(encoding="utf-8")
    _require_reasons(readme)
    ended = execute(f"{blueprint}/README.md", snippets(readme), root)
    logs = "\n".join(log.read_text(errors="replace") for log in root.rglob("background.log"))
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{logs}"


def _simulate(root: Path, *, ungated: bool) -> None:
    """Take a simulated engine, which needs no weights, and for ``ungated`` no gates."""
    settings, definitions = root / "antiphon.toml", root / "definitions.py"
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    text = definitions.read_text()
    # Simulated words end a text by chance: one of a hundred was cut off at what a real model needs.
    text = re.sub(r"max_tokens=\d+", "max_tokens=1_000", text)
    if ungated:
        assert text.count("    purpose=") == 1
        text = text.replace("    purpose=", '    ungated="its words are simulated",\n    purpose=')
    definitions.write_text(text)


def _require_reasons(readme: str) -> None:
    """Each command of a fence that is not marked is one of :data:`NOT_RUN`."""
    fences = [token for token in MarkdownIt().parse(readme) if token.type == "fence" and " " not in token.info]
    left = [line for fence in fences for line in fence.content.splitlines() if line.strip()]
    assert [line for line in left if not line.startswith(tuple(NOT_RUN))] == []
