"""Feast for tests: the environment that ``scripts/feast-environment`` makes, never our own.

Where it is absent, tests are skipped and say so. ``ANTIPHON_FEAST=1`` makes it (700 MB); with it and
``ANTIPHON_REQUIRE_SERVERS=1`` a test that cannot have it fails.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "feast-environment"


def feast_python() -> Path:
    """The Python that has Feast."""
    found = _found()
    if isinstance(found, Path):
        return found
    if os.environ.get("ANTIPHON_FEAST") == "1" and os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
        pytest.fail(found)
    pytest.skip(found)


@functools.cache
def _found() -> Path | str:
    asked = [] if os.environ.get("ANTIPHON_FEAST") == "1" else ["--if-there"]
    ended = subprocess.run([str(SCRIPT), *asked], capture_output=True, text=True, timeout=900)
    if ended.returncode == 0:
        return Path(ended.stdout.strip())
    return f"Feast is not there; `scripts/feast-environment` installs it. {ended.stderr.strip()}".strip()
