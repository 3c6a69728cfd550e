"""Run by the Python that has the user's Feast, never by ours: prints what a repository declares as one JSON document.

``python dump.py REPOSITORY``. Only the standard library and Feast are there. The document has the shape of
``repository.FeastRepository``; places are added by the caller, for Feast does not keep them. Whatever the repository's
own code prints goes to stderr.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any


def main() -> int:
    """Exit code 0 with the document on stdout, 3 without Feast, 4 when the repository's own code fails."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    root = Path(sys.argv[1]).resolve()
    os.chdir(root)
    sys.path.insert(0, str(root))
    try:
        import feast
    except ImportError as error:
        sys.stderr.write(f"{sys.executable} has no Feast: {error}\n")
        return 3
    try:
        document = _Dump(feast, root).document()
    except Exception as error:
        import traceback

        traceback.print_exc()
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 4
    json.dump(document, out)
    out.close()
    return 0


class _Dump:
    def __init__(self, feast: Any, root: Path) -> None:
        self.feast = feast
        self.root = root
        self.found: dict[str, list[dict[str, Any]]] = {
            "entities": [], "sources": [], "views": [], "on_demand": [], "services": [], "unread": [],
        }  # fmt: skip
        self.seen: list[Any] = []

    def document(self) -> dict[str, Any]:
        from feast.repo_config import load_repo_config

        config = load_repo_config(self.root, self.root / "feature_store.yaml")
        for module in self._modules():
            for value in list(vars(module).values()):
                self._add(value)
        return {
            "project": str(config.project),
            "read_by": "feast",
            "feast_version": str(getattr(self.feast, "__version__", "")),
            **self.found,
        }

    def _modules(self) -> list[Any]:
        from feast.repo_operations import get_repo_files

        modules = []
        for file in sorted(get_repo_files(self.root)):
            parts = Path(file).resolve().relative_to(self.root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts:
                modules.append(importlib.import_module(".".join(parts)))
        return modules

    def _add(self, value: Any) -> None:
        names = [each.__name__ for each in type(value).__mro__ if each.__module__.split(".")[0] == "feast"]
        if isinstance(value, type) or not names or any(value is known for known in self.seen):
            return
        kind = type(value).__name__
        if "DataSource" in names:
            self._source(value)
            return
        self.seen.append(value)
        if "Entity" in names:
            keys = list(getattr(value, "join_keys", None) or [value.join_key])
            if value.name != "__dummy":
                self.found["entities"].append({"name": value.name, "join_keys": keys})
        elif "OnDemandFeatureView" in names:
            sources = [*value.source_feature_view_projections.values(), *value.source_request_sources.values()]
            self.found["on_demand"].append(
                {
                    "name": value.name,
                    "sources": [source.name for source in sources],
                    "fields": _fields(value.features),
                    "mode": str(getattr(value, "mode", "pandas")),
                    "code": _code(value),
                }
            )
        elif "BaseFeatureView" in names or "LabelView" in names:
            self._view(value, kind)
        elif "FeatureService" in names:
            uses = [
                {"view": each.name, "features": [feature.name for feature in each.features]}
                for each in value.feature_view_projections
            ]
            self.found["services"].append({"name": value.name, "uses": uses})
        elif "Permission" in names or kind in ("SavedDataset", "ValidationReference"):
            self.found["unread"].append(
                {"noun": kind, "name": str(value.name), "reason": "it has no counterpart among definitions"}
            )

    def _source(self, value: Any) -> str:
        """Add a source, and those behind it; the name it goes by."""
        if any(value is known for known in self.seen):
            return str(value.name)
        self.seen.append(value)
        kind = type(value).__name__
        batch = getattr(value, "batch_source", None)
        path = str(getattr(value, "path", "") or "") if kind == "FileSource" else ""
        format_ = type(getattr(value, "file_format", None)).__name__
        fields = getattr(value, "schema", None) or []
        # Two views may share a source that is equal and not the same object.
        name = str(value.name or path or f"{kind.lower()}_{len(self.found['sources'])}")
        self.found["sources"].append(
            {
                "name": name,
                "kind": {
                    "FileSource": "file", "PushSource": "push", "RequestSource": "request",
                    "KafkaSource": "stream", "KinesisSource": "stream",
                }.get(kind, "other"),
                "type": kind,
                "path": path,
                "format": "" if format_ in ("NoneType", "ParquetFormat") else format_,
                "timestamp": str(getattr(value, "timestamp_field", "") or ""),
                "created": str(getattr(value, "created_timestamp_column", "") or ""),
                "mapping": dict(getattr(value, "field_mapping", None) or {}),
                "batch": self._source(batch) if batch is not None else "",
                "fields": _fields(fields) if kind == "RequestSource" else [],
            }
        )  # fmt: skip
        return name

    def _view(self, value: Any, kind: str) -> None:
        source = getattr(value, "stream_source", None) or getattr(value, "batch_source", None)
        source = source or getattr(value, "source", None)
        ttl = getattr(value, "ttl", None)
        ways = {
            "udf": "a function", "feature_transformation": "a transformation", "aggregations": "aggregations",
            "source_views": "other views",
        }  # fmt: skip
        computed = " and ".join(said for attribute, said in ways.items() if getattr(value, attribute, None))
        known = ("FeatureView", "BatchFeatureView", "StreamFeatureView", "LabelView")
        keys = {str(getattr(each, "name", each)) for each in (getattr(value, "entity_columns", None) or [])}
        entities = [str(each) for each in (getattr(value, "entities", None) or []) if str(each) != "__dummy"]
        self.found["views"].append(
            {
                "name": value.name,
                "kind": kind if kind in known else "other",
                "type": kind,
                "entities": entities,
                "fields": [field for field in _fields(value.features) if field["name"] not in keys],
                "source": self._source(source) if source is not None else "",
                "ttl": ttl.total_seconds() if ttl is not None else 0.0,
                "online": bool(getattr(value, "online", True)),
                "computed": computed,
                "owner": str(getattr(value, "owner", "") or ""),
                "description": str(getattr(value, "description", "") or ""),
            }
        )


def _code(view: Any) -> str:
    """The source of an on-demand view's function, without decorators; empty when Feast does not have it."""
    text = str(getattr(getattr(view, "feature_transformation", None), "udf_string", "") or "")
    try:
        (function,) = ast.parse(textwrap.dedent(text)).body
    except (SyntaxError, ValueError):
        return ""
    if not isinstance(function, ast.FunctionDef):
        return ""
    function.decorator_list = []
    return ast.unparse(function)


def _fields(fields: Any) -> list[dict[str, str]]:
    found = []
    for field in fields:
        dtype: Any = getattr(field, "dtype", None)
        name = str(dtype)
        if hasattr(dtype, "to_value_type"):
            name = dtype.to_value_type().name
        elif hasattr(dtype, "name"):
            name = dtype.name
        found.append({"name": str(field.name), "type": name})
    return found


if __name__ == "__main__":
    sys.exit(main())
