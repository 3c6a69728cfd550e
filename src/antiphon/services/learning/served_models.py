"""Tells the engine which trained models it has to serve: those of every tenant of the environment.

Invariants:
- A model is served while a release that pins it is live, is what a rollback would return to, takes part in a rollout,
  or is the newest one that waits for its evaluation, while it is granted, or while somebody wants it
  (``wanted_models``); and for a while longer, because a request finishes on the release it began with.
- Workers of several tenants that share engines declare the same set, so that none takes away what another needs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.releases.releases import Activation, Release, Releases, activation_stack
from antiphon.catalog.releases.rollouts import RolloutRecord, Rollouts
from antiphon.core.clock import Clock, parse_duration
from antiphon.core.errors import AntiphonError, NotFoundError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.granted import model_owner
from antiphon.engine.api.address import is_engine_url
from antiphon.engine.api.messages import ServedModel
from antiphon.engine.api.port import Engine
from antiphon.governance.identity.grants import Grants
from antiphon.governance.identity.tenants import Tenants
from antiphon.services.learning.wanted_models import required_versions
from antiphon.services.learning.weights_files import WeightsFiles
from antiphon.services.project.store import Store

_log = logging.getLogger("antiphon.worker")

LINGER_SECONDS = 150.0
"""Time for which a model that is needed no more is still served: longer than a request may take."""

RETRY_SECONDS = 30.0
"""Delay before the engine is asked again for a model that it could not load."""


def needed(
    releases: Sequence[Release], moves: Mapping[str, Sequence[Activation]], rollouts: Sequence[RolloutRecord]
) -> tuple[str, ...]:
    """The model versions that one scope's releases need to be served, by id: of the releases (of every application the
    latest first), the moves of each application's live pointer (first to last), and the rollouts under way."""
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
        scope: of the project, whose models are served whether their files are here or not.
        folder: where the files of model versions lie.
        every: seconds until what failed is tried again.
        poll: seconds between looks at the catalog when it does not ring, and at what the engine serves.
        wakeup: rings when a release or a rollout moves, or a grant.
        lake: makes weights reachable for engines elsewhere, and has those of other projects; ``None`` where the folder
            is enough.
        shared: the engine serves other projects too, which have files that are not here.
        leases: of the environment; they say what is wanted.
    """

    scope: Scope
    releases: Releases
    models: ModelVersions
    rollouts: Rollouts
    grants: Grants
    tenants: Tenants
    engine: Engine
    folder: Path
    clock: Clock
    leases: ProcessLeases
    _: KW_ONLY
    every: float = 2.0
    poll: float = 10.0
    wakeup: Wakeup = field(default_factory=Wakeup)
    linger: float = LINGER_SECONDS
    lake: WeightsFiles | None = None
    shared: bool = False
    _needed_at: dict[ServedModel, float] = field(init=False, default_factory=dict)
    _declared: tuple[ServedModel, ...] | None = field(init=False, default=None)
    _again_at: float = field(init=False, default=0.0)
    _copies: dict[ServedModel, ServedModel] = field(init=False, default_factory=dict)
    _one_at_a_time: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    @classmethod
    def of(cls, store: Store, engine: Engine, lake: WeightsFiles | None = None) -> ServedModels:
        """For one project's stores."""
        poll, section = parse_duration(store.settings.worker.poll).total_seconds(), store.settings.engine
        return cls(
            store.scope,
            store.releases,
            store.models,
            store.rollouts,
            Grants(store.database),
            store.keys.principals.tenants,
            engine,
            store.paths.models,
            store.database.clock,
            ProcessLeases(store.database, store.scope.environment),
            poll=poll,
            wakeup=store.database.doorbell.wakeup(store.scope.environment, "releases"),
            lake=lake,
            shared=section.join or is_engine_url(section.url or ""),
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
            if self.lake is not None:
                await asyncio.to_thread(self.lake.prune, {model.sha256 for model in declared})
            _log.info("The engine serves %s.", ", ".join(model.name for model in declared) or "no trained model")

    async def require(self, name: str) -> None:
        """Return once the engine serves the version of this name (``TENANT/APPLICATION.vN``); raises
        ``UnavailableError`` when no release that needs it is on its way or the engine does not serve it, and as
        :meth:`reconcile` unless it is served nevertheless."""
        failure: AntiphonError | None = None
        try:
            await self.reconcile()
        except AntiphonError as error:
            failure = error
        if name in {model.name for model in (await self.engine.describe()).models}:
            return
        raise failure or UnavailableError(
            "The engine does not serve this model.",
            where=name,
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
                await wakeup.wait_until(stop, self.every if said else wakeup.rested(self.poll), found=False)

    def _published(self, models: Sequence[ServedModel]) -> AntiphonError | None:
        """Publish the weights, and return what kept any of them from it: an engine that has the file serves it."""
        failure: AntiphonError | None = None
        if self.lake is not None:
            for model in models:
                if model_owner(model.name) != self.scope.tenant:
                    continue
                try:
                    self.lake.publish(model)
                except AntiphonError as error:
                    failure = failure or error
        return failure

    def _needed(self) -> list[ServedModel]:
        return [model for scope in self._served_scopes() for model in self._needed_of(scope)]

    def _served_scopes(self) -> Iterator[Scope]:
        """The scopes of the tenants whose models may be needed: the project's own, and every other that has some."""
        yield self.scope
        for tenant in self.models.tenants(self.scope.environment):
            if tenant != self.scope.tenant and self.tenants.state(tenant) == "active":
                yield Scope(tenant, self.scope.environment)

    def _needed_of(self, scope: Scope) -> Iterator[ServedModel]:
        releases, now = self.releases.list(scope), self.clock.now()
        applications = {release.bundle.application.name for release in releases}
        moves = {name: self.releases.history(scope, name) for name in applications}
        grants = [one for one in self.grants.given(scope) if one.kind == "model" and one.holds(now)]
        granted = {one.name for one in grants if self.tenants.state(one.grantee) == "active"}
        to_us = {one.name for one in grants if one.grantee == self.scope.tenant}
        required = required_versions(self.leases, scope)
        for name in sorted(granted.union(required, needed(releases, moves, self.rollouts.list_active(scope)))):
            try:
                version = self.models.get(scope, name)
            except NotFoundError:
                _log.error("The model %s of %s is needed, and is not registered.", name, scope)
                continue
            path = self.folder.resolve() / version.weights.path
            model = ServedModel(version.served_name, str(path), version.weights.sha256)
            if name in to_us:
                model = self._located(model)
            if scope == self.scope or name in to_us or self.shared or path.exists():
                yield model

    def _located(self, model: ServedModel) -> ServedModel:
        """A model of another tenant with a path of this machine. One whose file cannot be had stays as it is, and the
        engine says so."""
        if self.lake is None:
            return model
        known = self._copies.get(model)
        if known is None or not Path(known.path).is_file():
            try:
                known = self._copies[model] = self.lake.locate(model)
            except AntiphonError as error:
                _log.warning("The weights of %s, which is granted, cannot be had: %s", model.name, error)
                return model
        return known
