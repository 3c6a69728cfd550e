"""Real runs on disk, so that hours of them can be made in parts: what ran already is not run again.

A file of JSON lines, one run each, under the engine's sources, the trace, its scaling, the window and the policy. Runs
of other sources stay in the file and are not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
from benchmarks.colocation.outcome import Outcome
from benchmarks.colocation.traces import Scaling

import antiphon.engine


class Key(msgspec.Struct, frozen=True):
    """What decides a run."""

    engine: str
    trace: str
    scaling: Scaling
    window: int
    seconds: float
    policy: str


class _Line(msgspec.Struct, frozen=True):
    key: Key
    outcome: Outcome


class KeptRuns:
    """Runs in a file; without one each is made anew.

    Raises:
        OSError, msgspec.MsgspecError: it cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._engine = sources()
        self._runs: dict[Key, Outcome] = {}
        if path is not None and path.exists():
            for text in path.read_bytes().splitlines():
                line = msgspec.json.decode(text, type=_Line)
                self._runs[line.key] = line.outcome

    def run(
        self, trace: str, scaling: Scaling, window: int, seconds: float, policy: str, make: Callable[[], Outcome]
    ) -> Outcome:
        """The kept run, or one that is made and kept."""
        key = Key(self._engine, trace, scaling, window, seconds, policy)
        if key not in self._runs:
            self._runs[key] = make()
            if self._path is not None:
                with self._path.open("ab") as file:
                    file.write(msgspec.json.encode(_Line(key, self._runs[key])) + b"\n")
        return self._runs[key]


def sources() -> str:
    """A digest of the engine's source files."""
    digest = hashlib.sha256()
    for path in sorted(Path(antiphon.engine.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
