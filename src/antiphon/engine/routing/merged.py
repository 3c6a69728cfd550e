"""One description of several engines, and the loads in it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from antiphon.engine.api.messages import (
    EmbedderDescription,
    EngineDescription,
    EngineInstance,
    EngineLoad,
    ModelDescription,
)


def merged(
    request: str, descriptions: Sequence[EngineDescription], instances: Sequence[EngineInstance]
) -> EngineDescription:
    """The description of all models that any of them serves, with their loads added up.

    A model is described as the first one describes it, with the smallest context of all: a prompt must fit wherever it
    goes. An answer names the fingerprint it was made under, whatever stands here.
    """
    models: dict[str, ModelDescription] = {}
    embedders: dict[str, EmbedderDescription] = {}
    missing: dict[str, str] = {}
    for one in descriptions:
        for model in one.models:
            known = models.setdefault(model.name, model)
            least = min(known.context_tokens, model.context_tokens)
            models[model.name] = msgspec.structs.replace(known, context_tokens=least)
        for embedder in one.embedders:
            embedders.setdefault(embedder.name, embedder)
        missing |= one.missing
    return EngineDescription(
        request,
        tuple(models.values()),
        total([one.load for one in descriptions]),
        tuple(embedders.values()),
        {name: reason for name, reason in missing.items() if name not in models and name not in embedders},
        tuple(instances),
        stopped=descriptions[0].stopped if all(one.stopped is not None for one in descriptions) else None,
    )


def loads_by_host(description: EngineDescription, unknown: str) -> dict[str, EngineLoad]:
    """The load on each machine; ``unknown`` stands for one that an engine does not name."""
    found: dict[str, list[EngineLoad]] = {}
    for one in description.instances:
        found.setdefault(one.host or unknown, []).append(one.load)
    return {host: total(loads) for host, loads in found.items()} or {description.host or unknown: description.load}


def total(loads: Sequence[EngineLoad]) -> EngineLoad:
    """The sum of loads, field by field; the most GPUs that one of them has, for a request is in one engine."""
    sums = {name: sum(getattr(load, name) for load in loads) for name in EngineLoad.__struct_fields__}
    return EngineLoad(**sums | {"gpus": max((load.gpus for load in loads), default=0)})
