"""Names of datasets as OpenLineage's naming conventions have them: of data that other tools see too, the name by its
place; of what only Antiphon has, a kind and a name in the project's own namespace.

Source: https://openlineage.io/docs/spec/naming, as of the client's version 1.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import urlsplit

import msgspec

from antiphon.core.scope import Scope
from antiphon.definitions.feature import COUNTING, SUMMED, FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.following import FileDrop, Followed, PostgresTable
from antiphon.definitions.nodes import ColumnNode
from antiphon.definitions.objects import ObjectPath, is_objects
from antiphon.definitions.source import SourceSpec
from antiphon.services.lineage.values import OUTSIDE, AssetKind, Column, LineageDataset

_POSTGRES_PORT, _NATS_PORT = 5432, 4222


@dataclass(frozen=True)
class DatasetNames:
    """Names datasets of one project.

    Attributes:
        namespace: of what only Antiphon has.
        root: the project's folder; files below it are named without it, so that they are the same on every host.
    """

    namespace: str
    root: Path

    @classmethod
    def of(cls, scope: Scope, root: Path, namespace: str | None) -> DatasetNames:
        """The names of a project whose settings may give a namespace of their own."""
        return cls(namespace or f"antiphon://{scope.tenant}/{scope.environment}", root)

    def own(self, kind: AssetKind, name: str, version: str | None = None) -> LineageDataset:
        """A dataset in the project's own namespace."""
        return LineageDataset(kind, self.namespace, f"{kind}/{name}", version)

    def place(self, kind: AssetKind, path: str) -> LineageDataset:
        """A file, a pattern of files, or objects of a store."""
        if is_objects(path):
            named = ObjectPath.of(path)
            return LineageDataset(kind, f"s3://{named.bucket}", named.pattern)
        for root in (str(self.root), glob.escape(str(self.root))):
            if PurePath(path).is_relative_to(root):
                path = str(PurePath(path).relative_to(root))
                break
        if PurePath(path).is_absolute():
            return LineageDataset(kind, OUTSIDE, path)
        return LineageDataset(kind, self.namespace, f"file/{path}")

    def _followed(self, source: SourceSpec, follow: Followed) -> LineageDataset:
        """The place that another system writes to."""
        if isinstance(follow, FileDrop):
            return self.place("source", follow.path)
        if isinstance(follow, PostgresTable):
            return _table(msgspec.structs.replace(source, url=follow.url, table=follow.table))
        parts = urlsplit(follow.url)
        name = follow.stream if follow.subject is None else f"{follow.stream}.{follow.subject}"
        return LineageDataset("source", f"nats://{parts.hostname}:{parts.port or _NATS_PORT}", name)

    def sources(self, source: SourceSpec) -> Iterator[LineageDataset]:
        """The files, tables and streams of a declared source, each with the source's name as its other name."""
        for part in source.over:
            yield from self.sources(part)
        if source.over:
            return
        alias = (self.namespace, f"source/{source.name}")
        if source.kind == "feast":
            yield self.own("source", f"feast/{source.feast or source.name}")
        if source.kind == "stream":
            yield self.own("source", f"stream/{source.name}")
        if source.url is not None:
            yield msgspec.structs.replace(_table(source), alias=alias)
        if source.follow is not None:
            yield msgspec.structs.replace(self._followed(source, source.follow), alias=alias)
        if source.path is not None:
            yield msgspec.structs.replace(self.place("source", source.path), alias=alias)


def view_columns(spec: FeatureViewSpec, kinds: dict[str, str]) -> tuple[Column, ...]:
    """The columns of a view's values: the keys as texts, then the features.

    Args:
        kinds: column of the source to its kind, as far as they are known.
    """
    keys = (Column(key, "string") for key in spec.entity.keys)
    return (*keys, *(Column(name, _type(feature, kinds)) for name, feature in spec.features.items()))


def _type(feature: FeatureSpec, kinds: dict[str, str]) -> str:
    if feature.aggregation == "embed":
        return "vector"
    if feature.aggregation in ("count", "distinct"):
        return "integer"
    if feature.aggregation in SUMMED | COUNTING or feature.scale is not None:
        return "number"
    known = kinds.get(feature.expression.name) if isinstance(feature.expression, ColumnNode) else None
    return known or "unknown"


def _table(source: SourceSpec) -> LineageDataset:
    parts = urlsplit(source.url or "")
    namespace = f"postgres://{parts.hostname}:{parts.port or _POSTGRES_PORT}"
    database = parts.path.lstrip("/")
    # A query may hold values of rows: its source's name stands for it.
    table = f"query of {source.name}" if source.table is None else source.table
    qualified = table if source.table is None or "." in table else f"public.{table}"
    return LineageDataset("source", namespace, f"{database}.{qualified}")
