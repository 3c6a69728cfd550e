"""Pins the model that an application names: a configured one, or one that another tenant grants."""

from __future__ import annotations

from collections.abc import Iterable

from antiphon.catalog.releases.releases import ModelPin
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.degradation import MAIN
from antiphon.engine.api.address import is_engine_url
from antiphon.services.governance.granted import not_granted
from antiphon.services.project.store import Store


def pin_model(store: Store, application: ApplicationSpec) -> ModelPin:
    """Pin the model that an application names.

    Raises:
        InvalidInputError: the engine is not given it, it is not granted, or a fallback names no declared engine.
        SetupError: its weights were not pulled.
    """
    engine = store.settings.engine
    require_named_engines(store, application.fallback, f"application {application.name}, fallback")
    if store.granted.is_model(store.scope, application.model):
        return _pin_granted(store, application)
    if engine.kind == "remote":
        return ModelPin(application.model, None)
    if application.model not in engine.models:
        raise InvalidInputError(
            f"The application names the model {application.model!r}, which the engine is not given.",
            where=f"application {application.name}",
            next_step=f"Add it to [engine] models in antiphon.toml (now: {', '.join(engine.models)}).",
        )
    if engine.kind == "simulated":
        return ModelPin(application.model, None)
    from antiphon.engine import weights

    return ModelPin(application.model, weights.resolve(application.model).sha256)


def _pin_granted(store: Store, application: ApplicationSpec) -> ModelPin:
    """The pin of another tenant's model, as it is granted now; each answer is decided again."""
    where, engine = f"application {application.name}", store.settings.engine
    granted = store.granted.model(store.scope, application.model)
    if granted is None:
        raise not_granted(application.model, where)
    if engine.kind == "remote" and not is_engine_url(engine.url or ""):
        raise InvalidInputError(
            f"{application.model} was trained here, and a server at a URL cannot be given it.",
            where=where,
            next_step='Take an engine of ours: [engine] kind = "llamacpp", or a url of antiphon+tls.',
        )
    return ModelPin(application.model, granted.version.weights.sha256, purposes=(granted.purpose,))


def purpose_notes(application: ApplicationSpec, pin: ModelPin) -> list[str]:
    """Says of an application that its model was trained for something else."""
    if pin.version is not None or pin.purposes is None or application.purpose in pin.purposes:
        return []
    trained = " and ".join(map(repr, pin.purposes))
    return [
        f"{application.name}: {pin.name} was trained for {trained}, and the default policies let it answer for nothing "
        f"else than that; the application is for {application.purpose!r}."
    ]


def require_named_engines(store: Store, fallback: Iterable[str], where: str) -> None:
    """Refuse a fallback to an engine that the settings do not declare: an ``InvalidInputError`` that names it."""
    for named in fallback:
        engine = named.partition("/")[0]
        if engine != MAIN and engine not in store.settings.engines:
            raise InvalidInputError(
                f"The fallback names the engine {engine!r}, which is not declared.",
                where=where,
                next_step=f"Add [engines.{engine}] with a url to antiphon.toml, or take it out of the fallback.",
            )
