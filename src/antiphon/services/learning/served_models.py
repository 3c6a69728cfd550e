"""Tells the engine which trained models it has to serve.

Invariant: a model is served while a release that pins it is live, is what a rollback would return to, takes part in a
rollout, or is the newest one that waits for its evaluation; and for a while longer, because a request finishes on the
release it began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.releases.releases import Activation, Release, Releases, activation_stack
from antiphon.catalog.releases.rollouts import RolloutRecord, Rollouts
from antiphon.core.clock import Clock, parse_duration
from antiphon.core.errors import AntiphonError, NotFoundError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import ServedModel
from antiphon.engine.api.port import Engine
from antiphon.services.project.store import Store

_log = logging.getLogger("antiphon.worker")

LINGER_SECONDS = 150.0
"""Time for which a model that is needed no more is still served: longer than a request may take."""

RETRY_SECONDS = 30.0
"""Delay before the engine is asked again for a model that it could not load."""


def needed(
    releases: Sequence[Release], moves: Mapping[str, Sequence[Activation]], rollouts: Sequence[RolloutRecord]
) -> tuple[str, ...]:
    """The model versions that must be served, by name: of one scope's releases (of every application the latest first),
    the moves of each application's live pointer (first to last), and the rollouts under way."""
    models = {release for rollout in rollouts for release in (rollout.candidate, rollout.control)}
    for history in moves.values():
        models.update(activation_stack(history)[-2:])
    waiting: set[str] = set()
    for release in releases:
        application = release.bundle.application.name
        if release.stage in ("draft", "validated") and application not in waiting:
            waiting.add(application)
            models.add(release.id)
    versions = {release.bundle.model.version for release in releases if release.id in models}
    return tuple(sorted(version for version in versions if version is not None))


@dataclass
class ServedModels:
    """Keeps the engine's set of models what the catalog needs.

    Attributes:
        folder: where the files of model versions lie.
        every: seconds until what failed is tried again.
        poll: seconds between looks at the catalog when it does not ring, and at what the engine serves.
        wakeup: rings when a release or a rollout moves.
        publish: makes a model's weights reachable for engines elsewhere; ``None`` where the folder is enough.
    """

    scope: Scope
    releases: Releases
    models: ModelVersions
    rollouts: Rollouts
    engine: Engine
    folder: Path
    clock: Clock
    _: KW_ONLY
    every: float = 2.0
    poll: float = 10.0
    wakeup: Wakeup = field(default_factory=Wakeup)
    linger: float = LINGER_SECONDS
    publish: Callable[[ServedModel], None] | None = None
    _needed_at: dict[ServedModel, float] = field(init=False, default_factory=dict)
    _declared: tuple[ServedModel, ...] | None = field(init=False, default=None)
    _again_at: float = field(init=False, default=0.0)
    _one_at_a_time: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    @classmethod
    def of(cls, store: Store, engine: Engine, publish: Callable[[ServedModel], None] | None = None) -> ServedModels:
        """For one project's stores."""
        poll = parse_duration(store.settings.worker.poll).total_seconds()
        return cls(
            store.scope,
            store.releases,
            store.models,
            store.rollouts,
            engine,
            store.paths.models,
            store.database.clock,
            poll=poll,
            wakeup=store.database.doorbell.wakeup(store.scope.environment, "releases"),
            publish=publish,
        )

    async def reconcile(self) -> None:
        """Have the engine serve what is needed. It is asked only when that changed or when it lacks a model.

        Raises:
            UnavailableError: the engine is away. What :meth:`Engine.serve` raises when a model cannot be loaded; the
                others are served, and the same set is not tried again for half a minute.
        """
        async with self._one_at_a_time:
            models = await asyncio.to_thread(self._needed)
            now = self.clock.monotonic()
            self._needed_at |= dict.fromkeys(models, now)
            self._needed_at = {model: at for model, at in self._needed_at.items() if at > now - self.linger}
            declared = tuple(sorted(self._needed_at, key=lambda model: model.name))
            if declared == self._declared:
                served = {model.name for model in (await self.engine.describe()).models}
                if now < self._again_at or all(model.name in served for model in declared):
                    return
            self._declared, self._again_at = declared, now + RETRY_SECONDS
            failure = await asyncio.to_thread(self._published, declared)
            try:
                await self.engine.serve(declared)
            except UnavailableError:
                self._declared = None
                raise
            if failure is not None:
                self._declared = None
                raise failure
            self._again_at = 0.0
            _log.info("The engine serves %s.", ", ".join(model.name for model in declared) or "no trained model")

    async def require(self, version: str) -> None:
        """Return once the engine serves this version; raises ``UnavailableError`` when no release that needs it is on
        its way or the engine does not serve it, and as :meth:`reconcile` unless it is served nevertheless."""
        failure: AntiphonError | None = None
        try:
            await self.reconcile()
        except AntiphonError as error:
            failure = error
        if version in {model.name for model in (await self.engine.describe()).models}:
            return
        raise failure or UnavailableError(
            "The engine does not serve this model.",
            where=version,
            next_step="Make a release that pins it, and try again in a moment.",
        )

    async def run_until(self, stop: asyncio.Event) -> None:
        """Reconcile again and again until ``stop``; a failure is said once and tried again."""
        said = ""
        with self.wakeup as wakeup:
            while not stop.is_set():
                try:
                    await self.reconcile()
                    said = ""
                except AntiphonError as error:
                    if str(error) != said:
                        said = str(error)
                        _log.warning("Not every model that is needed is served: %s", said)
                await wakeup.wait_until(stop, self.every if said else self.poll, found=False)

    def _published(self, models: Sequence[ServedModel]) -> AntiphonError | None:
        """Publish the weights, and return what kept any of them from it: an engine that has the file serves it."""
        failure: AntiphonError | None = None
        if self.publish is not None:
            for model in models:
                try:
                    self.publish(model)
                except AntiphonError as error:
                    failure = failure or error
        return failure

    def _needed(self) -> list[ServedModel]:
        releases = self.releases.list(self.scope)
        applications = {release.bundle.application.name for release in releases}
        moves = {name: self.releases.history(self.scope, name) for name in applications}
        models = []
        for name in needed(releases, moves, self.rollouts.list_active(self.scope)):
            try:
                weights = self.models.get(self.scope, name).weights
            except NotFoundError:
                _log.error("A release pins the model %s, which is not registered.", name)
                continue
            models.append(ServedModel(name, str(self.folder.resolve() / weights.path), weights.sha256))
        return models
