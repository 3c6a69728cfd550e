"""Checkpoints of a training.

Invariant: a checkpoint counts when its SHA-256 stands beside it and matches. The hash is written after the checkpoint
is on disk under its name, so a crash in between leaves one that does not count, and the one before is used. Nothing
random happens after the initial values, and the order is a function of the step: matrices, moments and step are all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.disk import file_sha256, replace_file
from antiphon.core.errors import CorruptionError
from antiphon.training.folder_seal import PLAIN, FolderSeal

KEPT = 2
FOLDER = "checkpoints"
"""The folder of checkpoints in that of a training."""

_UNREADABLE = (CorruptionError, KeyError, TypeError, msgspec.DecodeError)
_NAME = re.compile(r"step-(\d{6})\.safetensors")


class CheckpointState(msgspec.Struct, frozen=True):
    """State of a training in a checkpoint, beside its tensors.

    Attributes:
        identity: of the order.
        step: updates done.
        losses: (step, loss) of each.
        seconds: of training, pauses left out.
        notices: what was told before.
    """

    identity: str
    step: int
    losses: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    notices: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one training in a folder, those of its ``identity``; ``notice`` is told what is wrong."""

    def __init__(self, folder: Path, identity: str, notice: Callable[[str], None], seal: FolderSeal = PLAIN) -> None:
        self._seal = seal
        self._folder = folder
        self._identity = identity
        self._notice = notice

    def save(self, state: CheckpointState, tensors: dict[str, Any]) -> Path:
        """Write a checkpoint and remove all but the two latest; an ``OSError`` (no space) leaves the earlier ones
        untouched."""
        from safetensors.torch import save

        # One key alone: safetensors writes several in an order that differs from process to process.
        return self.put(state.step, save(tensors, {"standing": msgspec.json.encode(state).decode()}))

    def put(self, step: int, clear: bytes) -> Path:
        """As :meth:`save`, for the clear content of a checkpoint."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:06d}.safetensors"
        content = self._seal.seal(path.name, clear)
        _hash_file(path).unlink(missing_ok=True)
        replace_file(path, content)
        replace_file(_hash_file(path), hashlib.sha256(content).hexdigest().encode())
        for old in self._paths()[KEPT:]:
            _remove(old)
        return path

    def load(self) -> tuple[CheckpointState, dict[str, Any]] | None:
        """The latest checkpoint that is whole, and its tensors; ``None`` when there is none: from the start."""
        for left_over in self._folder.glob("*.partial"):
            left_over.unlink(missing_ok=True)
        wrong = False
        for path in self._paths():
            found = self._read(path)
            if isinstance(found, str):
                wrong = True
                self._notice(f"The checkpoint {path.name} {found}: it is not used.")
                _remove(path)
                continue
            if wrong:
                self._notice(f"Training goes on from the checkpoint of step {found[0].step}.")
            return found
        if wrong:
            self._notice("No checkpoint is left: training begins from the start.")
        return None

    def newest(self, after: int = 0) -> tuple[int, bytes] | None:
        """Step and clear content of the latest whole checkpoint after a step; ``None`` when there is none. Another
        process may write and remove checkpoints meanwhile: one that is half there, or gone, is passed over."""
        for path in self._paths():
            if int(path.stem.removeprefix("step-")) <= after:
                return None
            with suppress(OSError, UnicodeDecodeError, *_UNREADABLE):
                stored, expected = path.read_bytes(), _hash_file(path).read_text().strip()
                content = self._seal.open(path.name, stored)
                state = _state_of(content)
                if hashlib.sha256(stored).hexdigest() == expected and state.identity == self._identity:
                    return state.step, content
        return None

    def _read(self, path: Path) -> tuple[CheckpointState, dict[str, Any]] | str:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            expected = _hash_file(path).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return "has no hash (it was being written)"
        if file_sha256(path) != expected:
            return "does not match its hash"
        try:
            content = self._seal.open(path.name, path.read_bytes())
            tensors = load(content)
            state = _state_of(content)
        except (SafetensorError, *_UNREADABLE) as error:
            return f"cannot be read ({error})"
        if state.identity != self._identity:
            return "is of another order or of other code"
        return state, tensors

    def _paths(self) -> list[Path]:
        """The checkpoints' files, latest first."""
        return sorted((path for path in self._folder.glob("step-*") if _NAME.fullmatch(path.name)), reverse=True)


def _state_of(content: bytes) -> CheckpointState:
    # The format's first eight bytes give the length of a JSON header.
    header = msgspec.json.decode(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return msgspec.json.decode(header["__metadata__"]["standing"], type=CheckpointState)


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _remove(path: Path) -> None:
    _hash_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
