"""Vectors in a lookup: an embedded feature is read as its text, and leaves as its vector or not at all."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

import msgspec

from antiphon.definitions.embedding import EmbeddingModel
from antiphon.features.embedding.ports import VectorSource
from antiphon.features.ports import OpenedSnapshot


class ReadValue(Protocol):
    """A feature as it was read; of an embedded one the value is the text."""

    @property
    def value(self) -> object: ...
    @property
    def event_time(self) -> datetime | None: ...
    @property
    def stream_offset(self) -> int | None: ...


Read = TypeVar("Read", bound=ReadValue)


class TextVector(msgspec.Struct, frozen=True):
    """One feature that is a vector: float32 numbers, of length 1 together, ``None`` without a text; the rest as of any
    other value."""

    value: tuple[float, ...] | None
    model: EmbeddingModel
    event_time: datetime | None
    snapshot: str
    stream_offset: int | None
    definition_version: str


def texts_apart(
    opened: Mapping[str, OpenedSnapshot], rows: Sequence[MutableMapping[str, Read]], source: VectorSource | None
) -> list[dict[str, TextVector]]:
    """Take the texts of embedded features out of rows, and make vectors of them where somebody makes some.

    Raises:
        OtherModel, FeatureUnavailable: as :class:`VectorSource` does.
    """
    apart: list[dict[str, TextVector]] = [{} for _ in rows]
    for view, snapshot in opened.items():
        meta = snapshot.meta
        for name, model in meta.spec.models.items():
            texts = [row.pop(f"{view}.{name}") for row in rows]
            if source is None:
                continue
            asked = [read.value if isinstance(read.value, str) else None for read in texts]
            made = source.vectors(meta.snapshot, name, model, asked)
            for found, read, vector in zip(apart, texts, made, strict=True):
                found[f"{view}.{name}"] = TextVector(
                    value=None if vector is None else tuple(vector.tolist()),
                    model=model,
                    event_time=read.event_time,
                    snapshot=meta.snapshot,
                    stream_offset=read.stream_offset,
                    definition_version=meta.spec.definition_version,
                )
    return apart
