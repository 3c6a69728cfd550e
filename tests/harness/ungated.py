"""A project of `antiphon init` whose desk answers as soon as it is applied, for what is not about gates."""

from __future__ import annotations

from pathlib import Path


def declare_ungated(project: Path, reason: str = "a test asks at once") -> None:
    """Declare the blueprint's application ungated, before it is applied."""
    definitions = project / "definitions.py"
    text, declared = definitions.read_text(encoding="utf-8"), 'Application(\n    "desk",\n'
    assert declared in text
    definitions.write_text(text.replace(declared, f'{declared}    ungated="{reason}",\n'), encoding="utf-8")
