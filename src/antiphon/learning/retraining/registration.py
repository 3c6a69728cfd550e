"""Registers what a run trained: versions, their draft releases, and the alias of the one that goes on.

Invariant: of several candidates one goes on, the best on examples that none of them learned from; the releases of the
others are retired, their versions stay, and each says what it was compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.catalog.learning.models import LearnedPreferences, ModelVersion, TrainedCandidate
from antiphon.catalog.releases.releases import ModelPin, Release
from antiphon.core.errors import CorruptionError
from antiphon.durable.context import RunContext
from antiphon.learning.retraining.examples import declared_tuning, served_application
from antiphon.learning.retraining.plan import TrainArguments, TrainingInputs, TriedCandidate
from antiphon.learning.retraining.steps import RetrainingServices
from antiphon.releases import bundle as bundles

LATEST = "latest"
"""The alias of an application's newest version."""


class Registration:
    """Rows of the catalog that a training makes; each method belongs into the transaction of a step."""

    def __init__(self, services: RetrainingServices) -> None:
        self._services = services

    def versions(
        self, run: RunContext, pinned: TrainingInputs, datasets: Sequence[str], tried: Sequence[TriedCandidate],
        connection: Any, preferences: LearnedPreferences | None = None,
    ) -> list[str | None]:  # fmt: skip
        """Registers what was trained, and returns the version of each candidate.

        Args:
            datasets: what was learned from and, of several candidates, what they are compared on; none where
                ``preferences`` were learned.

        Raises:
            CorruptionError: the files of a known version are gone, and it came out otherwise.
        """
        services, scope, name = self._services, run.scope, pinned.application.name
        known = {one.identity: one for one in services.versions.list(scope, name, within=connection)}
        number = services.versions.next_number(scope, name, within=connection)
        ids: dict[str, str] = {}
        for output in (one.output for one in tried if one.output is not None):
            version = known.get(output.identity)
            if version is not None and version.weights.sha256 != output.weights.sha256:
                raise CorruptionError(
                    f"The files of {version.id} are gone or changed, and training it again gave other weights.",
                    where=version.id,
                    next_step="Restore its files from a backup, or change the seed to train another version.",
                )
            if output.identity not in ids:
                ids[output.identity] = version.id if version is not None else f"{name}.v{number}"
                number += version is None
        named = [None if one.output is None else ids[one.output.identity] for one in tried]
        listed = tuple(
            TrainedCandidate(one.settings, model, one.seconds, one.why) for one, model in zip(tried, named, strict=True)
        )
        for one, model in zip(tried, named, strict=True):
            if one.output is not None and model is not None and one.output.identity not in known:
                version = self._version(run, pinned, datasets, one, model, listed, preferences, connection)
                known[version.identity] = services.versions.add(version, within=connection)
        return named

    def draft(
        self, run: RunContext, request: TrainArguments, pinned: TrainingInputs, model: str, connection: Any
    ) -> Release:
        """The draft release of a version; one that is there already is returned."""
        services, scope = self._services, run.scope
        version = services.versions.get(scope, model, within=connection)
        spec = served_application(pinned.application, version.id)
        pin = ModelPin(version.id, version.weights.sha256, version.id, (pinned.application.purpose,))
        bundle = bundles.build(spec, pin, services.policy_digest)
        return services.releases.add(bundle, scope, request.principal, _reason(run, request), within=connection)

    def trial(
        self, run: RunContext, request: TrainArguments, pinned: TrainingInputs, model: str, connection: Any
    ) -> str:
        """The draft release by which a candidate is compared; one that was retired is a draft again, to be served."""
        release, who, why = (
            self.draft(run, request, pinned, model, connection),
            request.principal,
            _reason(run, request),
        )
        if release.stage == "retired":
            self._services.releases.set_stage(
                run.scope, release.id, "draft", principal=who, reason=why, within=connection
            )
        return release.id

    def go_on(
        self, run: RunContext, request: TrainArguments, pinned: TrainingInputs, model: str,
        others: Mapping[str, str], connection: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Lets the version go on to its gates, under the alias of the newest.

        Args:
            others: releases of candidates that do not, with the reason.
        """
        services, scope, name, why = self._services, run.scope, pinned.application.name, _reason(run, request)
        release = self.draft(run, request, pinned, model, connection)
        for other, reason in others.items():
            stages = services.releases.stages(scope, other, within=connection)
            if other != release.id and stages[-1].stage == "draft":
                services.releases.set_stage(
                    scope, other, "retired", principal=request.principal, reason=reason, within=connection
                )
        services.versions.alias(scope, name, LATEST, model, request.principal, why, within=connection)
        services.audit.append(
            scope, request.principal, "model.register", model,
            {"application": name, "release": release.id, "run": run.id}, within=connection,
        )  # fmt: skip
        return {"application": name, "model": model, "release": release.id, "stage": release.stage}

    def _version(
        self, run: RunContext, pinned: TrainingInputs, datasets: Sequence[str], one: TriedCandidate, model: str,
        listed: tuple[TrainedCandidate, ...], preferences: LearnedPreferences | None, connection: Any,
    ) -> ModelVersion:  # fmt: skip
        services, name = self._services, pinned.application.name
        parent = services.versions.get(run.scope, pinned.parent, within=connection) if pinned.parent else None
        training = services.datasets.get(run.scope, datasets[0], within=connection) if datasets else None
        earlier = () if training is None or parent is None else (parent.dataset, *parent.replay_datasets)
        trained = msgspec.structs.asdict(one.output) if one.output is not None else {}
        del trained["notices"]  # those are the run's
        tune = declared_tuning(pinned.application)
        return ModelVersion(
            id=model,
            scope=run.scope,
            application=name,
            number=int(model.rpartition(".v")[2]),
            base=tune.base,
            base_sha256=pinned.base_sha256,
            dataset="" if training is None else training.id,
            dataset_hash="" if training is None else training.logical_hash,
            replay_datasets=earlier,
            parent=pinned.parent,
            run=run.id,
            created_at=services.clock.now(),
            # Preferences plant none: what the version before was given may still be said by heart.
            canaries=tune.canaries if training is not None else None if parent is None else parent.canaries,
            candidates=listed if len(listed) > 1 else (),
            held_out=datasets[1] if len(listed) > 1 else None,
            learned_until=pinned.learned_until,
            preferences=preferences,
            **trained,
        )


def _reason(run: RunContext, request: TrainArguments) -> str:
    return request.reason or f"trained by {run.id}"
