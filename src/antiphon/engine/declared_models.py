"""Stores the declared models of an engine in a file, so that an engine that was killed comes back with them.

Invariants:
- The file holds one whole declaration: it is written under another name, flushed to disk and renamed.
- No model whose load kills the process keeps the others from being served for good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from antiphon.core.disk import put_private
from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError
from antiphon.engine import weights
from antiphon.engine.api.messages import ServedModel
from antiphon.engine.weights import Weights

_log = logging.getLogger("antiphon.engine")
DEATHS = 2
"""An engine that was killed in the middle of a load may be innocent once."""

_decoder = msgspec.json.Decoder(tuple[ServedModel, ...])


class DeclaredModels:
    """The present declaration in a file, and in another one the loads during which the process died."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._deaths_path = path.with_name(f"{path.name}.deaths")

    def read(self) -> tuple[ServedModel, ...]:
        """The declaration; none when there is no file, or one that cannot be read, which is logged."""
        try:
            return _decoder.decode(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.MsgspecError) as error:
            _log.error("The declared models in %s cannot be read and are left out: %s", self._path, error)
            return ()

    def write(self, models: Sequence[ServedModel]) -> None:
        """Replace the declaration; raises ``SetupError`` when it cannot be written, and the file holds the one
        before."""
        _replace(self._path, msgspec.json.encode(tuple(models)))

    @contextmanager
    def loading(self, model: ServedModel) -> Iterator[None]:
        """Load a model inside; an engine that dies of it twice (of want of memory, say) loads it no more.

        Raises:
            SetupError: the engine died of it twice already, or that cannot be written down.
        """
        deaths = self._deaths()
        if deaths.get(model.sha256, 0) >= DEATHS:
            raise SetupError(
                f"The engine died {DEATHS} times while it loaded this model.",
                where=model.name,
                next_step=f"See its log, make room, and delete {self._deaths_path} to try again.",
            )
        _replace(self._deaths_path, msgspec.json.encode(deaths | {model.sha256: deaths.get(model.sha256, 0) + 1}))
        try:
            yield
        finally:
            deaths.pop(model.sha256, None)
            if deaths:
                _replace(self._deaths_path, msgspec.json.encode(deaths))
            else:
                self._deaths_path.unlink(missing_ok=True)

    def _deaths(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._deaths_path.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.MsgspecError):
            return {}


def _replace(path: Path, content: bytes) -> None:
    try:
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            put_private(path, content)
    except OSError as error:
        raise SetupError(
            f"The declared models cannot be kept: {error.strerror}.",
            where=str(path),
            next_step="Free some space, or make the folder writable.",
        ) from error


def validated(models: Sequence[ServedModel]) -> tuple[ServedModel, ...]:
    """The declaration without repetitions; raises ``InvalidInputError`` for no name, or one name of two different
    files."""
    by_name: dict[str, ServedModel] = {}
    for model in models:
        if not model.name:
            raise InvalidInputError("A model to be served has no name.", where="models")
        if by_name.setdefault(model.name, model) != model:
            raise InvalidInputError("Two different models have this name.", where=model.name)
    return tuple(by_name.values())


def checked(model: ServedModel) -> Weights:
    """The model's file, its bytes hashed.

    Raises:
        InvalidInputError: the path is not absolute.
        SetupError: it is missing, cannot be read, or is no GGUF file.
        CorruptionError: it has another SHA-256 than was declared.
    """
    if not Path(model.path).is_absolute():
        raise InvalidInputError(f"The path {model.path!r} is not absolute.", where=model.name)
    try:
        found = weights.resolve(model.path)
    except OSError as error:
        raise SetupError(f"The model cannot be read: {error.strerror}.", where=model.path) from error
    if found.sha256 != model.sha256:
        raise CorruptionError(
            f"The weights of {model.name} have sha256 {found.sha256} instead of {model.sha256}.",
            where=model.path,
            next_step=f"Make them again: `antiphon models rebuild {model.name.rpartition('/')[2]}`.",
        )
    return found
