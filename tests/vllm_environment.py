"""vLLM for tests: the environment that ``scripts/vllm-environment`` makes, never our own.

Where it is absent, tests are skipped and say so. ``ANTIPHON_VLLM=1`` (``make test-vllm``) makes it, 3.4 GB, and a
test that cannot have it then fails. It is no part of ``make test``: it would not fit into CI's time.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "vllm-environment"


def vllm_python() -> Path:
    """The Python that has vLLM."""
    found = _found()
    if isinstance(found, Path):
        return found
    if os.environ.get("ANTIPHON_VLLM") == "1":
        pytest.fail(found)
    pytest.skip(found)


@functools.cache
def _found() -> Path | str:
    asked = [] if os.environ.get("ANTIPHON_VLLM") == "1" else ["--if-there"]
    ended = subprocess.run([str(SCRIPT), *asked], capture_output=True, text=True, timeout=1800)
    if ended.returncode == 0:
        return Path(ended.stdout.strip())
    return f"vLLM is not there; `make test-vllm` installs it. {ended.stderr.strip()}".strip()
