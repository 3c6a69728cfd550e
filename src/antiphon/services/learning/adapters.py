"""Exports and imports of adapters, on the audit record."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.learning.models import ModelVersion
from antiphon.catalog.releases.releases import ModelPin
from antiphon.core.clock import utc
from antiphon.core.disk import file_sha256, replace_file
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.learning.registry.adapters import ExportedAdapter, export_peft, read_peft
from antiphon.learning.registry.files import StoredModelFiles
from antiphon.learning.retraining.examples import declared_tuning, served_application
from antiphon.learning.retraining.registration import LATEST
from antiphon.releases import bundle as bundles
from antiphon.services.learning.training import LearningPlatform
from antiphon.training.base import Base
from antiphon.training.convert import convert
from antiphon.training.order import ADAPTER, WEIGHTS, TrainedFile, TrainingResult
from antiphon.training.recipe import code_identity, libraries


class ImportResult(msgspec.Struct, frozen=True):
    """The version and the draft release that an adapter became."""

    model: str
    release: str
    stage: str


def export_adapter(learning: LearningPlatform, version: ModelVersion, folder: Path, principal: str) -> ExportedAdapter:
    """Writes a version's adapter in peft's format and records who did; raises as ``export_peft``."""
    made = export_peft(version, learning.model_files, folder)
    detail = {"format": "peft", "sha256": made.sha256}
    learning.store.audit.append(version.scope, principal, "model.export", version.id, detail)
    return made


def import_adapter(
    learning: LearningPlatform, application: str, folder: Path, *, learned_until: datetime, principal: str, reason: str
) -> ImportResult:
    """Makes a version and a draft release of an adapter in peft's format; importing it again gives the same version.

    Args:
        learned_until: nothing later was learned from: what is evaluated must come after it.

    Raises:
        NotFoundError: there is no such application.
        InvalidInputError: it is not fine-tuned, the adapter is no plain LoRA or one of another base model, or the
            moment lies in the future.
        SetupError: the extra ``train`` is not installed, or the base model was not pulled.
    """
    store, services = learning.store, learning.services
    spec = services.application(store.scope, application)
    tune = declared_tuning(spec)
    if utc(learned_until) > store.database.clock.now():
        raise InvalidInputError(
            "The moment lies in the future.", where="learned_until", next_step="Say until when its examples reach."
        )
    path, sha256 = services.base_weights(tune.base)
    given = read_peft(folder)
    made_of = {"alpha": given.alpha, "base_sha256": sha256, "rank": given.rank}
    from safetensors.torch import save

    working = services.folder / f"import_{content_hash([str(store.scope), application, str(folder.resolve())])[:20]}"
    working.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        adapter, merged = working / ADAPTER, working / WEIGHTS
        replace_file(adapter, save(given.tensors, {"adapter": json.dumps(made_of)}))
        adapter_sha256 = file_sha256(adapter)
        try:
            weights_sha256 = convert(Base(path, sha256), adapter, merged, tune.precision, adapter_sha256=adapter_sha256)
        except (KeyError, ValueError) as error:
            raise InvalidInputError(
                f"The adapter does not fit {tune.base} ({error}).",
                where=str(folder),
                next_step="Import one that was trained on the application's base model.",
            ) from error
        identity = content_hash({"imported": adapter_sha256, "base": sha256, "precision": tune.precision})
        trained = TrainingResult(
            identity=identity,
            code=code_identity(),
            adapter=TrainedFile(str(adapter), adapter_sha256, adapter.stat().st_size),
            weights=TrainedFile(str(merged), weights_sha256, merged.stat().st_size),
            losses=(),
            seconds=0.0,
            environment=libraries(),
        )
        kept = services.model_files.keep(store.scope, f"{application}/{identity[:20]}", trained)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    recipe = {"rank": given.rank, "alpha": given.alpha, "precision": tune.precision}
    made = partial(_register, learning, spec, tune.base, sha256, trained, kept, recipe, utc(learned_until))
    with store.database.transaction() as connection:
        return made(principal, reason or "imported", connection)


def _register(
    learning: LearningPlatform, spec: Any, base: str, base_sha256: str, trained: TrainingResult, kept: StoredModelFiles,
    recipe: dict[str, Any], learned_until: datetime, principal: str, reason: str, connection: Any,
) -> ImportResult:  # fmt: skip
    store, scope, name = learning.store, learning.store.scope, spec.name
    versions = store.models.list(scope, name, within=connection)
    version = next((one for one in versions if one.identity == trained.identity), None)
    if version is None:
        number = store.models.next_number(scope, name, within=connection)
        version = store.models.add(
            ModelVersion(
                id=f"{name}.v{number}", scope=scope, application=name, number=number, base=base,
                base_sha256=base_sha256, dataset="", dataset_hash="", replay_datasets=(), parent=None, recipe=recipe,
                identity=trained.identity, code=trained.code, adapter=kept.adapter, weights=kept.weights, losses=(),
                seconds=0.0, environment=trained.environment, run=None, created_at=store.database.clock.now(),
                learned_until=learned_until,
            ),
            within=connection,
        )  # fmt: skip
    store.models.alias(scope, name, LATEST, version.id, principal, reason, within=connection)
    pin = ModelPin(version.id, version.weights.sha256, version.id, (spec.purpose,))
    bundle = bundles.build(served_application(spec, version.id), pin, learning.services.policy_digest)
    release = store.releases.add(bundle, scope, principal, reason, within=connection)
    detail = {"application": name, "release": release.id, "adapter": kept.adapter.sha256}
    store.audit.append(scope, principal, "model.import", version.id, detail, within=connection)
    return ImportResult(version.id, release.id, release.stage)
