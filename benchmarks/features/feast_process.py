"""Feast beside us: starts ``benchmarks/features/feast_peer.py`` in Feast's own environment and asks it for one thing
after another.

::

    with FeastProcess() as feast:
        feast.ask("repository", name="bench", folder=str(folder), store="sqlite", views=[…])
        feast.ask("materialize", repository="bench")["seconds"]

The operations are in the docstring of ``benchmarks/features/feast_peer.py``. A process of its own for each measure of
memory is cleanest; timings may share one.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from antiphon.core.child_process import start_child

ROOT = Path(__file__).parents[2]


class FeastMissing(Exception):
    """Feast's environment is not there; ``scripts/feast-environment`` makes it."""


class FeastFailed(Exception):
    """Feast answered with an error, or ended."""


def feast_python() -> str:
    """The Python that has Feast; raises :class:`FeastMissing`."""
    found = subprocess.run(
        [str(ROOT / "scripts/feast-environment"), "--if-there"], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        raise FeastMissing("Run scripts/feast-environment first, which installs Feast into an environment of its own.")
    return found.stdout.strip()


class FeastProcess:
    """One process with Feast, until the block ends. What Feast prints goes to ``log``."""

    def __init__(self, log: Path | None = None) -> None:
        self._log = (log or Path("/dev/null")).open("ab")
        self._process = start_child(
            [feast_python(), str(ROOT / "benchmarks/features/feast_peer.py"), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.versions = self.ask("versions")

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """What Feast answered; raises :class:`FeastFailed`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": operation, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise FeastFailed(f"{operation}: the process with Feast ended ({self._process.wait(30)})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FeastFailed(f"{operation}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        self._log.close()

    def __enter__(self) -> FeastProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
