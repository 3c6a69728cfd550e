"""Usage as entries of the ledger: of answers, from their receipts, and of engines, from readings of counts. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from antiphon.catalog.ledger import MeteredUsage, Resource
from antiphon.catalog.meters import MeterState
from antiphon.catalog.serving.receipt import Receipt, UsageReceipt

MICROSECONDS = 1_000_000


def usages_of(receipt: Receipt) -> list[MeteredUsage]:
    """The usage of an answer, by one rule whatever its form: all that was computed for it. One that is served again
    used nothing, and what it had taken when it was made is told as saved."""
    answer = MeteredUsage(
        resource="answer",
        quantity=1,
        application=receipt.application,
        release=receipt.release,
        path=receipt.path,
        role=receipt.role,
        principal=receipt.principal,
        engine=receipt.engine or "",
        model=receipt.model,
        work=_job_of(receipt),
    )
    found = [answer]
    for resource, quantity in _quantities(receipt.usage):
        found.append(msgspec.structs.replace(answer, resource=resource, quantity=quantity))
    if receipt.cache.saved is not None:
        for resource, quantity in _quantities(receipt.cache.saved):
            saved = _SAVED.get(resource)
            if saved is not None:
                found.append(msgspec.structs.replace(answer, resource=saved, quantity=quantity))
    return found


_SAVED: dict[Resource, Resource] = {
    "engine": "saved_engine",
    "gpu": "saved_gpu",
    "prompt_token": "saved_prompt_token",
    "completion_token": "saved_completion_token",
}


def engine_microseconds(usage: UsageReceipt) -> int:
    """Engine time as the ledger counts it."""
    return round(usage.engine_seconds * MICROSECONDS)


def _quantities(usage: UsageReceipt) -> Iterator[tuple[Resource, int]]:
    # Prompt tokens from a shared prefix took no work as tokens; a server may price them by themselves.
    cached = min(usage.cached_prompt_tokens, usage.prompt_tokens)
    counts: tuple[tuple[Resource, int], ...] = (
        ("engine", engine_microseconds(usage)),
        ("gpu", round(usage.gpu_seconds * MICROSECONDS)),
        ("prompt_token", usage.prompt_tokens - cached),
        ("cached_prompt_token", cached),
        ("completion_token", usage.completion_tokens),
    )
    for resource, quantity in counts:
        if quantity > 0:
            yield resource, quantity


def _job_of(receipt: Receipt) -> str:
    """The batch job whose row it answers, by the id of its request."""
    if receipt.path != "batch" or not receipt.request.startswith(("job_", "batch_")):
        return ""
    return receipt.request.rpartition("_")[0]


class EngineCounts(msgspec.Struct, frozen=True):
    """Counts of an engine's process since it began.

    Attributes:
        engine: as receipts name it; ``process``: names its process among all.
        up_seconds: that it has lived; ``busy_seconds``: those of them in which it worked.
        resident_bytes: of its memory now; 0 where that is not known.
        gpus: that it is declared to use.
    """

    engine: str
    process: str
    up_seconds: float
    busy_seconds: float
    resident_bytes: int = 0
    gpus: int = 0


def engine_usages(last: MeterState | None, reading: MeterState, engine: str, gpus: int = 0) -> list[MeteredUsage]:
    """Engine time between two readings: measured, and of it idle, and the same once for each of its GPUs. Of another
    process than the last one's all counts, and of a reading that is behind the last one nothing."""
    begun = last if last is not None and last.process == reading.process else None
    measured = max(0, reading.total - (begun.total if begun else 0))
    busy = min(measured, max(0, reading.part - (begun.part if begun else 0)))
    idle = measured - busy
    counts: tuple[tuple[Resource, int], ...] = (
        ("engine_measured", measured),
        ("engine_idle", idle),
        ("gpu_measured", measured * gpus),
        ("gpu_idle", idle * gpus),
    )
    return [MeteredUsage(resource, quantity, engine=engine) for resource, quantity in counts if quantity]


def memory_usages(last: MeterState | None, reading: MeterState, engine: str) -> list[MeteredUsage]:
    """Byte-seconds between two readings of an engine's memory: the bytes of the later one for the time that the process
    was up since the one before, or since it began. ``total`` is bytes, ``part`` microseconds of its life."""
    begun = last.part if last is not None and last.process == reading.process else 0
    quantity = reading.total * max(0, reading.part - begun) // MICROSECONDS
    return [MeteredUsage("memory", quantity, engine=engine)] if quantity else []
