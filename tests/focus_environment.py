"""The validator of FOCUS for tests: the environment that ``scripts/focus-environment`` makes, never our own.

Where it is absent, tests are skipped and say so. ``ANTIPHON_FOCUS=1`` makes it; with it and
``ANTIPHON_REQUIRE_SERVERS=1`` a test that cannot have it fails.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "focus-environment"


def focus_python() -> Path:
    """The Python that has it."""
    found = _found()
    if isinstance(found, Path):
        return found
    if os.environ.get("ANTIPHON_FOCUS") == "1" and os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
        pytest.fail(found)
    pytest.skip(found)


@functools.cache
def _found() -> Path | str:
    asked = [] if os.environ.get("ANTIPHON_FOCUS") == "1" else ["--if-there"]
    ended = subprocess.run([str(SCRIPT), *asked], capture_output=True, text=True, timeout=900)
    if ended.returncode == 0:
        return Path(ended.stdout.strip())
    return (
        f"The validator of FOCUS is not there; `scripts/focus-environment` installs it. {ended.stderr.strip()}".strip()
    )
