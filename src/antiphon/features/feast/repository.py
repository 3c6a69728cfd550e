"""A Feast feature repository as frozen values, however it was read: by the user's own Feast, or from its syntax.

Types are those of Feast's protocol (``INT64``, ``FLOAT``, ``STRING``, …); one that is not among them is kept as it is
written. Places are files below the repository and lines counted from 1; line 0 is not known.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SETTINGS = "feature_store.yaml"

SourceKind = Literal["file", "push", "stream", "request", "other"]
ViewKind = Literal["FeatureView", "BatchFeatureView", "StreamFeatureView", "LabelView", "other"]


class Location(msgspec.Struct, frozen=True, order=True):
    """A file below the repository and a line of it."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class FeastField(msgspec.Struct, frozen=True):
    """A feature's name and type."""

    name: str
    type: str


class FeastEntity(msgspec.Struct, frozen=True):
    """An entity; Feast has one join key each."""

    name: str
    join_keys: tuple[str, ...]
    at: Location = Location()


class FeastSource(msgspec.Struct, frozen=True):
    """A data source.

    Attributes:
        kind: ``file`` is read by us as well; ``push`` and ``stream`` have a ``batch`` source behind them; ``request``
            is the request itself; ``other`` is a warehouse.
        type: Feast's class, for messages.
        format: class of a file's format, empty for Parquet.
        mapping: column of the file to what Feast calls it.
    """

    name: str
    kind: SourceKind
    type: str
    path: str = ""
    format: str = ""
    timestamp: str = ""
    created: str = ""
    mapping: dict[str, str] = {}
    batch: str = ""
    fields: tuple[FeastField, ...] = ()
    at: Location = Location()


class FeastView(msgspec.Struct, frozen=True):
    """A feature view: the latest row of a source for each entity.

    ``fields`` may be empty, then every column of the source is one; ``ttl`` is in seconds, 0 is none; ``computed`` says
    what Feast computes before it stores a row (a function, aggregations), empty for nothing.
    """

    name: str
    kind: ViewKind
    type: str
    entities: tuple[str, ...]
    fields: tuple[FeastField, ...]
    source: str
    ttl: float = 0.0
    online: bool = True
    computed: str = ""
    owner: str = ""
    description: str = ""
    at: Location = Location()


class FeastOnDemand(msgspec.Struct, frozen=True):
    """An on-demand view: a Python function over other views' features and the request; ``code`` is its source, without
    decorators, empty when it is not found."""

    name: str
    sources: tuple[str, ...]
    fields: tuple[FeastField, ...]
    mode: str = "pandas"
    code: str = ""
    at: Location = Location()


class FeastUse(msgspec.Struct, frozen=True):
    """Features that a service takes from a view; ``features`` is ``None`` for all of them."""

    view: str
    features: tuple[str, ...] | None = None


class FeastService(msgspec.Struct, frozen=True):
    """A named choice of features, as one model reads them."""

    name: str
    uses: tuple[FeastUse, ...]
    at: Location = Location()


class UnreadObject(msgspec.Struct, frozen=True):
    """An object that could not be read, or is of a kind that has no counterpart."""

    noun: str
    name: str
    reason: str
    at: Location = Location()


class FeastRepository(msgspec.Struct, frozen=True):
    """Declarations of a repository; ``read_by`` names the way it was read."""

    project: str
    read_by: Literal["feast", "syntax"]
    feast_version: str = ""
    entities: tuple[FeastEntity, ...] = ()
    sources: tuple[FeastSource, ...] = ()
    views: tuple[FeastView, ...] = ()
    on_demand: tuple[FeastOnDemand, ...] = ()
    services: tuple[FeastService, ...] = ()
    unread: tuple[UnreadObject, ...] = ()
