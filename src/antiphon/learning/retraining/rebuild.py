"""Trains a registered version again and compares the weights.

Invariant: nothing that is registered changes. A file of the version that was lost is put back only when it came out
the same.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.learning.models import ModelVersion
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.learning.retraining.plan import ExamplesSummary, converted, plain
from antiphon.learning.retraining.steps import RetrainingServices, clear, order_for, refusals, train, write_examples
from antiphon.training.recipe import Recipe, code_identity, libraries, require_libraries

WORKFLOW = "rebuild-model"
"""The workflow's name in the registry."""


class RebuildArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of the workflow ``rebuild-model``."""

    model: str
    principal: str = "worker"


class RebuildResult(msgspec.Struct, frozen=True):
    """The result of a rebuild.

    Attributes:
        equal: whether adapter and weights are the registered ones, to the byte.
        differences: which inputs are not what they were, in words; empty when all are.
        restored: files of the version that were gone or changed and are back.
    """

    model: str
    equal: bool
    weights_sha256: str | None
    registered_sha256: str
    differences: tuple[str, ...]
    restored: tuple[str, ...]
    seconds: float


class ModelRebuild:
    """The workflow ``rebuild-model``; :meth:`run` is registered."""

    def __init__(self, services: RetrainingServices) -> None:
        self._services = services

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Build the datasets from their specifications, train by the version's recipe, compare the hashes.

        Args:
            arguments: :class:`RebuildArguments` as plain values.

        Returns:
            A :class:`RebuildResult` as plain values. When a dataset cannot come out the same nothing is trained.

        Raises:
            NotFoundError: there is no such version.
            InvalidInputError: no release says what its examples looked like.
            RetrainingError: memory, disk or a library is missing, or the parent's adapter is gone.
            UnavailableError: the engine, whose chat template the examples need, is away.
        """
        request = converted(arguments, RebuildArguments, "rebuild arguments")
        services = self._services
        with refusals():
            require_libraries()
            version = await asyncio.to_thread(services.versions.get, run.scope, request.model)
            release = await asyncio.to_thread(self._release, run.scope, version)
            differences = list(await run.step("compare", self._differences, version))
            run.progress(0, None, "building the datasets again")
            differences += await run.step("rebuild datasets", self._rebuild_datasets, version)
            made = None
            if not any(difference.startswith("dataset") for difference in differences):
                made = await self._train(run, version, release)
            return plain(_rebuilt(version, made, differences))

    def _release(self, scope: Scope, version: ModelVersion) -> Release:
        """The first release of the version: it pins the prompt and the targets that its examples were made with."""
        found = [
            release
            for release in self._services.releases.list(scope, version.application)
            if release.bundle.model.version == version.id
        ]
        if not found:
            raise InvalidInputError(
                f"No release pins {version.id}, so nothing says how its examples were written.",
                where=str(scope),
                next_step=f"Train again: `antiphon train {version.application}`.",
            )
        return min(found, key=lambda release: release.number)

    def _differences(self, version: ModelVersion) -> list[str]:
        """Inputs beside the datasets that are not what they were."""
        installed = libraries()
        inputs = [
            ("the base model's weights", version.base_sha256, self._services.base_weights(version.base)[1]),
            ("the training code", version.code, code_identity()),
        ]
        for name in sorted(installed.keys() & version.environment.keys()):
            inputs.append((f"the library {name}", version.environment[name], installed[name]))
        return [f"{name}: {_short(then)} then, {_short(now)} now" for name, then, now in inputs if then != now]

    def _rebuild_datasets(self, version: ModelVersion) -> list[str]:
        differences = []
        for dataset in (version.dataset, *version.replay_datasets):
            try:
                self._services.builder.rebuild(dataset)
            except ConflictError as error:
                differences.append(f"dataset {dataset}: {error.what}")
        return differences

    async def _train(self, run: RunContext, version: ModelVersion, release: Release) -> dict[str, Any]:
        services = self._services
        folder = services.folder / run.id
        training, *replays = await asyncio.to_thread(services.learned, run.scope, version)
        application = release.bundle.application
        written = await write_examples(services, run, application, version.base, training, replays)
        made: dict[str, Any] = await run.step("fine-tune", self._fine_tune, run, version, written, folder)
        await clear(services, run)
        return made

    async def _fine_tune(
        self, run: RunContext, version: ModelVersion, written: ExamplesSummary, folder: Path
    ) -> dict[str, Any]:
        services = self._services
        parent = None
        if version.parent is not None:
            parent = await asyncio.to_thread(services.versions.get, run.scope, version.parent)
        settings = converted(version.recipe, Recipe, f"recipe of {version.id}")
        order = await asyncio.to_thread(
            partial(
                order_for, services, folder, f"{version.id} again ({run.id})",
                base=services.base_weights(version.base), examples_sha256=written.sha256, settings=settings,
                parent=parent,
            )
        )  # fmt: skip
        trained = await train(services, order, run)
        restored: list[str] = []
        if (trained.adapter.sha256, trained.weights.sha256) == (version.adapter.sha256, version.weights.sha256):
            restored = await asyncio.to_thread(self._restore, version, trained)
        return {
            "adapter": trained.adapter.sha256,
            "weights": trained.weights.sha256,
            "seconds": trained.seconds,
            "restored": restored,
        }

    def _restore(self, version: ModelVersion, trained: Any) -> list[str]:
        files, missing = self._services.model_files, []
        for file in (version.adapter, version.weights):
            try:
                files.verify(version.scope, file, version.id)
            except CorruptionError:
                missing.append(file.path)
        if missing:
            files.keep(version.scope, str(Path(version.weights.path).parent), trained)
        return missing


def _rebuilt(version: ModelVersion, made: dict[str, Any] | None, differences: list[str]) -> RebuildResult:
    equal = made is not None and (made["adapter"], made["weights"]) == (version.adapter.sha256, version.weights.sha256)
    if made is not None and not equal and not differences:
        differences = ["nothing that is recorded: the machine computes otherwise than the one that trained it"]
    return RebuildResult(
        model=version.id,
        equal=equal,
        weights_sha256=None if made is None else made["weights"],
        registered_sha256=version.weights.sha256,
        differences=tuple(differences),
        restored=() if made is None else tuple(made["restored"]),
        seconds=0.0 if made is None else made["seconds"],
    )


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}…"
