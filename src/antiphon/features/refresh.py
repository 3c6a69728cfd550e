"""Refresh: the durable workflow materialise → gate → publish, for one or several views at once.

Every step is idempotent: a snapshot's id and files follow from its content, and publishing what is current
changes nothing. So a run that is killed anywhere goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.core.clock import Clock, utc
from antiphon.core.errors import InvalidInput
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.durable.context import RunContext
from antiphon.features.compute import ComputeLimits
from antiphon.features.gate import GateRules, gate
from antiphon.features.materialize import Materialisation, materialize
from antiphon.features.ports import DefinitionReader, Lake, LogReader, PublicationReader, SnapshotStore
from antiphon.features.publish import Publisher

WORKFLOW = "refresh"
"""The workflow's name in the registry."""


class RefreshArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to refresh.

    Attributes:
        views: ``view@definition_version`` each.
        as_of: the moment; when the run starts by default.
        reason: why, kept with the publication.
        principal: who asked.
    """

    views: tuple[str, ...]
    as_of: datetime | None = None
    reason: str = "refresh"
    principal: str = "worker"
    kind: str = "batch"


class Refreshed(msgspec.Struct, frozen=True):
    """What came of it: the publication current afterwards (``None``: still nothing is published), the snapshot of
    each view, and for each view that a gate stopped the reasons. Those keep their previous snapshot."""

    publication: int | None
    snapshots: dict[str, str]
    blocked: dict[str, tuple[str, ...]]


class Refresher:
    """The workflow with what it needs, for one scope."""

    def __init__(
        self,
        scope: Scope,
        *,
        definitions: DefinitionReader,
        snapshots: SnapshotStore,
        publications: PublicationReader,
        publisher: Publisher,
        lake: Lake,
        log: LogReader,
        clock: Clock,
        limits: ComputeLimits | None = None,
        rules: Mapping[str, GateRules] | None = None,
    ) -> None:
        self._scope = scope
        self._definitions = definitions
        self._snapshots = snapshots
        self._publications = publications
        self._publisher = publisher
        self._lake = lake
        self._log = log
        self._clock = clock
        self._limits = limits
        self._rules = dict(rules or {})

    async def refresh(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """The workflow: ``arguments`` is a :class:`RefreshArguments`, the result a :class:`Refreshed`, as JSON.

        Raises:
            InvalidInput: the arguments or a source do not fit.
            NotFound: a definition version is unknown.
        """
        try:
            wanted = msgspec.convert(arguments, RefreshArguments)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{error}.", where="refresh arguments") from None
        if not wanted.views:
            raise InvalidInput("No view is named.", where="refresh arguments")
        if run.scope != self._scope:
            raise InvalidInput(f"The run belongs to {run.scope}, not to {self._scope}.", where="refresh arguments")
        start = await run.step("pin", self._pin, wanted)
        total = len(wanted.views) + 1
        passed: list[dict[str, Any]] = []
        blocked: dict[str, tuple[str, ...]] = {}
        for done, key in enumerate(wanted.views):
            run.progress(done, total, f"materialise {key}")
            made = await run.step(f"materialise {key}", self._materialise, wanted, start, key, run.id)
            judged = await run.step(f"gate {key}", self._gate, key, made)
            if judged["passed"]:
                passed.append(made)
            else:
                blocked[key] = tuple(judged["reasons"])
        run.progress(total - 1, total, "publish")
        number = await run.step("publish", self._publish, wanted, passed)
        run.progress(total, total, "published")
        snapshots = {f"{made['view']}@{made['definition_version']}": made["id"] for made in passed}
        found: dict[str, Any] = msgspec.to_builtins(Refreshed(number, snapshots, blocked))
        return found

    def _pin(self, wanted: RefreshArguments) -> dict[str, Any]:
        """Fix the moment and the log offsets, so that a resumed run continues the same refresh."""
        streams = {spec.source.name for spec in map(self._spec, wanted.views) if spec.source.kind == "stream"}
        as_of = utc(wanted.as_of) if wanted.as_of is not None else self._clock.now()
        through = {stream: self._log.end(self._scope, stream) for stream in sorted(streams)}
        return {"as_of": as_of.isoformat(), "through": through}

    def _materialise(self, wanted: RefreshArguments, start: dict[str, Any], key: str, run: str) -> dict[str, Any]:
        spec = self._spec(key)
        manifest = materialize(
            Materialisation(
                scope=self._scope,
                spec=spec,
                as_of=datetime.fromisoformat(start["as_of"]),
                through=start["through"].get(spec.source.name),
                kind=wanted.kind,
                run=run,
            ),
            lake=self._lake,
            log=self._log,
            clock=self._clock,
            limits=self._limits,
        )
        found: dict[str, Any] = msgspec.to_builtins(manifest)
        return found

    def _gate(self, key: str, made: dict[str, Any]) -> dict[str, Any]:
        spec = self._spec(key)
        current = self._publications.current(self._scope)
        known = current.snapshots.get(key) if current is not None else None
        previous = self._snapshots.get(self._scope, known) if known is not None else None
        judged = gate(spec, msgspec.convert(made, SnapshotManifest), previous, self._rules.get(spec.name))
        found: dict[str, Any] = msgspec.to_builtins(judged)
        return found

    def _publish(self, wanted: RefreshArguments, passed: list[dict[str, Any]]) -> int | None:
        snapshots = [
            (manifest, self._definitions.get(self._scope, manifest.view, manifest.definition_version))
            for manifest in (msgspec.convert(made, SnapshotManifest) for made in passed)
        ]
        publication = self._publisher.publish(snapshots, reason=wanted.reason, principal=wanted.principal)
        return None if publication is None else publication.number

    def _spec(self, key: str) -> FeatureViewSpec:
        view, _, version = key.partition("@")
        return self._definitions.get(self._scope, view, version)
