"""Injector of damaged model files: another file lies under the name of a trained model's, and the original beside it.

Invariants: the original's bytes are never written. It gets a second name before anything is exchanged and is renamed
back at the end, so that what is there again is the very file. What a guardian that was killed left is put back by
:func:`restore_left_over`.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from antiphon.core.errors import ConflictError, NotFoundError, UnavailableError
from antiphon.operations.chaos.faults import ModelDamage

_ORIGINAL = ".chaos-original"
_EVERY = 1 << 16
"""Bytes of which one is flipped."""


class ModelInjector:
    """Damages a file of a trained model."""

    def __init__(self, fault: ModelDamage, file: Path) -> None:
        self._fault = fault
        self._file = file
        self._original = original_of(file)
        self._kept = False

    def begin(self) -> tuple[str, ...]:
        """Exchange the file; what was touched, in words.

        Raises:
            NotFoundError: there is no such file. ConflictError: it is damaged already. UnavailableError: the folder
                cannot be written, or has no room for another file.
        """
        damaged = self._file.with_name(f".{self._file.name}.chaos-damaged")
        try:
            if self._original.exists():
                raise FileExistsError
            if self._fault.damage != "gone":
                _write_damaged(self._file, damaged, half=self._fault.damage == "half")
            os.link(self._file, self._original)
            self._kept = True
            if self._fault.damage == "gone":
                self._file.unlink()
            else:
                damaged.replace(self._file)
        except FileNotFoundError:
            raise NotFoundError(
                f"The model {self._fault.model} has no file {self._file.name} here.", where=str(self._file),
                next_step=f"See `antiphon models show {self._fault.model}`.",
            ) from None  # fmt: skip
        except FileExistsError:
            raise ConflictError(
                f"The file {self._file.name} of {self._fault.model} is damaged already.", where=str(self._original),
                next_step="Run any experiment without it: what was left over is put back first.",
            ) from None  # fmt: skip
        except OSError as error:
            raise UnavailableError(
                f"The file {self._file.name} cannot be exchanged: {error.strerror}.", where=str(self._file.parent),
                next_step="Make room, or the folder writable.",
            ) from error  # fmt: skip
        finally:
            damaged.unlink(missing_ok=True)
        return (f"{self._file.name} of {self._fault.model} ({self._file})",)

    def tick(self) -> float:
        return 3_600.0

    def end(self) -> None:
        """Put the original back."""
        if self._kept:
            with suppress(FileNotFoundError):  # The next command put it back.
                self._original.replace(self._file)
            self._kept = False


def original_of(file: Path) -> Path:
    """The name that the original has while another file lies under its own."""
    return file.with_name(f".{file.name}{_ORIGINAL}")


def restore_left_over(folder: Path) -> tuple[Path, ...]:
    """Put originals back that a guardian left, because it was killed itself; the files that they are."""
    found = []
    for original in folder.rglob(f".*{_ORIGINAL}"):
        file = original.with_name(original.name.removesuffix(_ORIGINAL)[1:])
        original.replace(file)
        found.append(file)
    return tuple(found)


def _write_damaged(file: Path, damaged: Path, *, half: bool) -> None:
    """A copy with a byte of every 64 KiB flipped, or of the first half; the beginning, which says what it is, stays."""
    shutil.copyfile(file, damaged)
    size = damaged.stat().st_size
    with damaged.open("r+b") as copy:
        if half:
            copy.truncate(size // 2)
            return
        for at in range(min(_EVERY, size) - 1, size, _EVERY):
            (byte,) = os.pread(copy.fileno(), 1, at)
            os.pwrite(copy.fileno(), bytes([byte ^ 0xFF]), at)
