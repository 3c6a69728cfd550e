"""Weights of trained models in the lake, by their hash, for engines that do not share the project's folder.

Invariant: a file under its final name in the cache was written whole and has the hash of its name; one that is damaged
later is noticed when it is looked up, and fetched again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from antiphon.core.disk import file_lock, file_sha256
from antiphon.core.errors import CorruptionError, SetupError
from antiphon.core.scope import Scope
from antiphon.definitions.granted import model_owner
from antiphon.engine.api.messages import ServedModel
from antiphon.features.lake.content import Lake, path_of
from antiphon.services.project.store import Store

_log = logging.getLogger("antiphon.engine")

SUFFIX = ".gguf"


def weights_path(scope: Scope, sha256: str) -> str:
    """The place of weights in the lake."""
    return path_of(scope, sha256, SUFFIX)


class WeightsFiles:
    """Puts weights into the lake and gets them from there, those of each tenant from its own part.

    Args:
        cache: folder of fetched files on this machine; processes may share it.
    """

    def __init__(self, lake: Lake, environment: str, cache: Path) -> None:
        self._lake = lake
        self._environment = environment
        self._cache = cache
        self._published: set[str] = set()

    def publish(self, model: ServedModel) -> None:
        """Put a model's weights into the lake, unless they are there.

        Raises:
            CorruptionError: the file is not the one that was registered.
            SetupError: it cannot be read, or the lake cannot be written. UnavailableError: the lake is away.
        """
        if model.sha256 in self._published:
            return
        scope = self._owner(model)
        if not self._lake.has(weights_path(scope, model.sha256)):
            if file_sha256(_readable(model)) != model.sha256:
                raise CorruptionError(
                    f"The weights of {model.name} are not those that were registered; other engines do not get them.",
                    where=model.path,
                    next_step=f"Make them again: {_rebuild(model)}.",
                )
            self._lake.put(scope, SUFFIX, Path(model.path))
            _log.info("The weights of %s are in the lake.", model.name)
        self._published.add(model.sha256)

    def locate(self, model: ServedModel) -> ServedModel:
        """The model with a path of this machine: its own where that exists, else that of a copy from the lake.

        Raises:
            CorruptionError: the lake has lost the weights, or what it has is damaged.
            StorageFullError: no room for them. SetupError, UnavailableError: the lake cannot be read.
        """
        if Path(model.path).is_file():
            return model
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self._cache / f"{model.sha256}{SUFFIX}"
        with file_lock(self._cache / ".lock"):
            if not (target.is_file() and file_sha256(target) == model.sha256):
                self._fetch(model, target)
        return ServedModel(model.name, str(target.absolute()), model.sha256)

    def prune(self, needed: Collection[str]) -> None:
        """Remove copies of weights other than those of these hashes: another tenant's do not stay when they are needed
        no more."""
        for copy in self._cache.glob(f"*{SUFFIX}"):
            if copy.stem not in needed:
                copy.unlink(missing_ok=True)
                _log.info("The copy of the weights %s is removed.", copy.stem)

    def _owner(self, model: ServedModel) -> Scope:
        return Scope(str(model_owner(model.name)), self._environment)

    def _fetch(self, model: ServedModel, target: Path) -> None:
        where = weights_path(self._owner(model), model.sha256)
        try:
            self._lake.fetch(where, model.sha256, target, f"weights of {model.name}")
        except CorruptionError as error:
            raise CorruptionError(
                f"The weights of {model.name} cannot be had from the lake: {error.what}",
                where=where,
                next_step="Delete that file in the lake if it is there, and restart the worker, which puts it there "
                f"again; if its own is gone too: {_rebuild(model)}.",
            ) from error
        _log.info("The weights of %s were fetched from the lake.", model.name)


def weights_files(store: Store, lake: Lake) -> WeightsFiles | None:
    """For one project, whose lake is an object store; ``None`` where it lies in the project's folder like the weights
    themselves."""
    if store.settings.features.lake is None:
        return None
    return WeightsFiles(lake, store.scope.environment, store.paths.models / "fetched")


def _readable(model: ServedModel) -> Path:
    path = Path(model.path)
    if not path.is_file():
        raise SetupError(
            f"The weights of {model.name} are gone.",
            where=model.path,
            next_step=f"Make them again: {_rebuild(model)}.",
        )
    return path


def _rebuild(model: ServedModel) -> str:
    return f"`antiphon models rebuild {model.name.rpartition('/')[2]}`"
