"""The lives that the feature platform's kill harness begins and ends: told what to do, and listened to line by line."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from antiphon.core.child_process import start_child

ROOT = Path(__file__).parents[3]
"""The repository, below which children find this package."""

_LONGEST = 60.0
"""Seconds that a life may be silent."""


class Aim:
    """When to strike: in an operation, ``skipped`` of its kind being passed over, and there in a phase, ``passed`` of
    its kind being passed over while there are more."""

    def __init__(self, operation: str, phase: str | None, skipped: int, passed: int) -> None:
        self._operation, self._phase, self._skipped, self._passed = operation, phase, skipped, passed
        self._inside = False

    def reached(self, line: str) -> bool:
        """Whether it is time to count down, after the next line that was said."""
        if line == f"begin {self._operation}":
            self._skipped -= 1
            self._inside = self._skipped < 0
            return self._inside and self._phase is None
        if not self._inside:
            return False
        if line == f"in {self._phase}":
            self._passed -= 1
            return self._passed < 0
        return line.startswith(("end ", "done"))


class Voice:
    """What begins lives one after the other and is listened to: a zygote, or one of its forks."""

    def __init__(self, ears: IO[bytes], mouth: IO[bytes]) -> None:
        self._ears, self._mouth = ears, mouth
        self._alive: int | None = None
        self._early: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        assert self.hear() == "ready"

    def _listen(self) -> None:
        for line in self._mouth:
            if said := line.decode().rstrip("\n"):
                self._lines.put(said)
        self._lines.put("")

    def hear(self, longest: float = _LONGEST) -> str:
        """The next line; an assertion when there is none."""
        if self._early:
            return self._early.pop(0)
        try:
            line = self._lines.get(timeout=longest)
        except queue.Empty:
            raise AssertionError(f"nothing was said for {longest} s") from None
        assert line, "the zygote ended"
        return line

    def heard(self) -> list[str]:
        """What was said and not yet listened to; waits for nothing."""
        lines: list[str] = []
        while self._early or not self._lines.empty():
            lines.append(self.hear())
        return lines

    def begin(self, order: dict[str, Any]) -> int:
        """Start a life; its process id."""
        self._tell(json.dumps(order))
        early = []
        while not (line := self.hear()).startswith("pid "):
            early.append(line)  # The life may be faster than what began it.
        self._early = early
        self._alive = int(line.split()[1])
        return self._alive

    def whole(self, order: dict[str, Any]) -> tuple[list[str], int]:
        """A life that is not killed: what it said, and its exit code."""
        self.begin(order)
        return self.rest()

    def rest(self) -> tuple[list[str], int]:
        """What the life says until it has ended, and how it ended."""
        said: list[str] = []
        while not (line := self.hear()).startswith("ended "):
            said.append(line)
        self.reap()
        return said, int(line.split()[1])

    def reap(self) -> None:
        """Let go of a life that has ended; only then its process id may be another's."""
        self._alive = None
        self._tell("")

    def _tell(self, line: str) -> None:
        self._ears.write(line.encode() + b"\n")
        self._ears.flush()

    def hang_up(self) -> None:
        """Say that there will be no more lives, end the one there is, and listen to the end."""
        if self._alive is not None:
            os.kill(self._alive, signal.SIGKILL)
        self._ears.close()
        self._listening.join(_LONGEST)
        self._mouth.close()


class Lives(Voice):
    """The zygote and the lives it forks, one at a time."""

    def __init__(self, folder: Path) -> None:
        """Start the zygote; what its lives complain of goes to a file in ``folder``."""
        self.log = folder / "lives.log"
        with self.log.open("ab") as log:
            self._process = start_child(
                [sys.executable, "-m", "tests.chaos.harness.feature_chaos_child"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        super().__init__(self._process.stdin, self._process.stdout)

    def close(self) -> None:
        """End the zygote."""
        self.hang_up()
        self._process.wait(_LONGEST)


class Crowd:
    """Lives of several names at once: a zygote that imported everything forks one voice for each."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Start the voices; what their lives complain of goes to a file in ``folder``."""
        self.log = folder / "lives.log"
        pipes = [(os.pipe(), os.pipe()) for _ in names]
        theirs = [(ears[0], mouth[1]) for ears, mouth in pipes]
        with self.log.open("ab") as log:
            self._process = start_child(
                [sys.executable, "-m", "tests.chaos.harness.feature_crowd_child", *(f"{a},{b}" for a, b in theirs)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[one for pair in theirs for one in pair],
            )  # fmt: skip
        for pair in theirs:
            for one in pair:
                os.close(one)
        self.voices = {
            name: Voice(os.fdopen(ears[1], "wb"), os.fdopen(mouth[0], "rb"))
            for name, (ears, mouth) in zip(names, pipes, strict=True)
        }

    def close(self) -> None:
        """End every voice and the zygote."""
        for voice in self.voices.values():
            voice.hang_up()
        self._process.wait(_LONGEST)


def phase_of(said: list[str]) -> str:
    """Which operation, and which part of it, was under way when the last line was said."""
    operation = "between operations"
    inside: list[str] = []
    for line in said:
        word, _, rest = line.partition(" ")
        if word == "begin":
            operation, inside = rest, []
        elif word == "end":
            operation, inside = "between operations", []
        elif word == "in":
            inside.append(rest)
        elif word == "after" and inside:
            inside.pop()
    return f"{operation}: {inside[-1]}" if inside else operation
