"""Reads a Feast repository from its syntax: nothing of it runs, and Feast is not needed.

What is declared is read; what is computed (a loop that makes views, a path from the environment) is told with its
place, so that the reader knows to let the user's own Feast read the repository instead. The same reading finds the
places of objects that Feast told about, for Feast does not keep them.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.features.feast.repository import (
    SETTINGS,
    FeastEntity,
    FeastField,
    FeastOnDemand,
    FeastRepository,
    FeastService,
    FeastSource,
    FeastUse,
    FeastView,
    Location,
    SourceKind,
    UnreadObject,
)
from antiphon.features.feast.static_values import FeastCall, FeatureSelection, ModuleScope, UndeclaredError

_VIEWS = ("FeatureView", "BatchFeatureView", "StreamFeatureView", "LabelView", "SortedFeatureView")
_DECORATORS = {
    "on_demand_feature_view": "OnDemandFeatureView",
    "stream_feature_view": "StreamFeatureView",
    "batch_feature_view": "BatchFeatureView",
}
_SOURCES: dict[str, SourceKind] = {
    "FileSource": "file",
    "PushSource": "push",
    "RequestSource": "request",
    "KafkaSource": "stream",
    "KinesisSource": "stream",
}
_TYPES = {
    "Int32": "INT32", "Int64": "INT64", "Float32": "FLOAT", "Float64": "DOUBLE", "String": "STRING", "Bool": "BOOL",
    "Bytes": "BYTES", "UnixTimestamp": "UNIX_TIMESTAMP",
}  # fmt: skip
_NOUNS = {
    "entities": "entity", "sources": "source", "views": "view", "on_demand": "on-demand view", "services": "service",
}  # fmt: skip
"""Parts of a repository to the noun of each of its objects."""
_SKIPPED = {"__pycache__", "node_modules", "venv", "site-packages"}
_MOST_BYTES = 2_000_000


def read_syntax(root: Path) -> FeastRepository:
    """Read a repository from its files; raises ``NotFoundError`` without ``feature_store.yaml``,
    ``InvalidInputError`` when it, or a file, cannot be read."""
    project = project_of(root)
    scopes, broken = _scopes(root)
    found: defaultdict[str, list[Any]] = defaultdict(list, unread=list(broken))
    seen: set[Location] = set()
    for call in _declared(scopes.values()):
        seen.add(call.at)
        try:
            part, value = _read(call)
        except UndeclaredError as unknown:
            part, value = "unread", UnreadObject(call.kind, _name_of(call), f"{unknown.what}, at {unknown.at}", call.at)
        if part:
            found[part].append(value)
    found["unread"] += _hidden(scopes.values(), seen)
    parts: dict[str, Any] = {part: tuple(values) for part, values in found.items()}
    return FeastRepository(project=project, read_by="syntax", **parts)


def project_of(root: Path) -> str:
    """The project that ``feature_store.yaml`` names, which is all of it that is needed; raises ``NotFoundError`` when
    there is none, ``InvalidInputError`` when it cannot be read."""
    file = root / SETTINGS
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no {SETTINGS} here.", where=str(root), next_step="Name the folder of a Feast feature repository."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}.", where=str(file)) from None
    project = re.search(r"^project:\s*[\"']?([^\s\"'#]+)", text, re.MULTILINE)
    if project is None:
        raise InvalidInputError(f"{file} names no project.", where=str(file))
    return project[1]


def places(root: Path) -> dict[tuple[str, str], Location]:
    """Locations of declarations by (noun, name), as far as the syntax tells."""
    scopes, _ = _scopes(root)
    found: dict[tuple[str, str], Location] = {}
    for call in _declared(scopes.values()):
        name = _name_of(call)
        if name:
            found.setdefault((_noun(call.kind), name), call.at)
    return found


def with_places(repository: FeastRepository, root: Path) -> FeastRepository:
    """The repository with its objects' places."""
    known = places(root)
    unknown = Location() if known else Location(SETTINGS, 0)
    placed: dict[str, Any] = {
        part: tuple(
            msgspec.structs.replace(value, at=known.get((noun, value.name), unknown))
            for value in getattr(repository, part)
        )
        for part, noun in _NOUNS.items()
    }
    return msgspec.structs.replace(repository, **placed)


def _scopes(root: Path) -> tuple[dict[str, ModuleScope], list[UnreadObject]]:
    """Every Python file of the repository, by module name."""
    scopes: dict[str, ModuleScope] = {}
    broken: list[UnreadObject] = []
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if any(part.startswith(".") or part in _SKIPPED for part in relative.parts[:-1]):
            continue
        try:
            if file.stat().st_size > _MOST_BYTES:
                raise ValueError("it is too large for declarations")
            tree = ast.parse(file.read_bytes(), str(relative))
        except (SyntaxError, ValueError, OSError, RecursionError) as error:
            line = getattr(error, "lineno", None) or 0
            broken.append(
                UnreadObject("file", str(relative), f"it is not Python: {error}", Location(str(relative), line))
            )
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        scope = ModuleScope(str(relative), tree, scopes)
        _bind(scope)
        scopes[module] = scope
    return scopes, broken


def _bind(scope: ModuleScope) -> None:
    for node in scope.tree.body:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    package = alias.name.partition(".")[0]
                    scope.modules[alias.asname or package] = alias.name if alias.asname else package
            case ast.ImportFrom(module=module, names=names) if module is not None:
                for alias in names:
                    name = alias.asname or alias.name
                    if module.partition(".")[0] == "feast":
                        scope.feast[name] = alias.name
                    else:
                        scope.imported[name] = (module, alias.name)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                _assign(scope, name, value)
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                _assign(scope, name, value)
            case ast.FunctionDef(name=name, decorator_list=decorators):
                for decorator in decorators:
                    called = decorator.func if isinstance(decorator, ast.Call) else decorator
                    kind = _DECORATORS.get(scope.feast_name(called) or "")
                    if kind is not None:
                        given = decorator.keywords if isinstance(decorator, ast.Call) else []
                        keywords = {each.arg: each.value for each in given if each.arg}
                        code = ast.unparse(ast.FunctionDef(**{**vars(node), "decorator_list": []}))
                        scope.bound[name] = FeastCall(kind, (), keywords, scope.at(node), scope, name, code)


def _assign(scope: ModuleScope, name: str, value: ast.expr) -> None:
    if name in scope.bound:
        scope.rebound.add(name)
    scope.bound[name] = value


def _declared(scopes: Iterable[ModuleScope]) -> Iterator[FeastCall]:
    """Objects that Feast would collect: those bound at the top of a file, and the sources inside them."""
    seen: set[int] = set()
    for scope in scopes:
        for name, bound in scope.bound.items():
            if name in scope.rebound:
                continue
            try:
                value = bound if isinstance(bound, FeastCall) else scope.value(bound)
            except UndeclaredError:
                # A call of Feast's with something unknown inside is told when it is read; the rest is the user's own.
                value = None
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, FeastCall):
                    yield from _with_inner(each, seen)


def _with_inner(call: FeastCall, seen: set[int]) -> Iterator[FeastCall]:
    if id(call) in seen:
        return
    seen.add(id(call))
    yield call
    for name in ("source", "batch_source", "stream_source"):
        try:
            inner = call.value(name)
        except UndeclaredError:
            continue
        if isinstance(inner, FeastCall):
            yield from _with_inner(inner, seen)


def _hidden(scopes: Iterable[ModuleScope], seen: set[Location]) -> Iterator[UnreadObject]:
    """Objects that are made, but the syntax does not show which: in a loop, a function, a condition, a name reused."""
    kinds = {*_VIEWS, *_SOURCES, "Entity", "FeatureService"}
    for scope in scopes:
        for node in ast.walk(scope.tree):
            if not isinstance(node, ast.Call) or scope.feast_name(node.func) not in kinds or scope.at(node) in seen:
                continue
            call = scope.call(node)
            if call is not None:
                why = "it is made where only running the file tells what becomes of it"
                yield UnreadObject(call.kind, _name_of(call), why, call.at)


def _source_name(call: FeastCall) -> str:
    """A source without a name goes by its path, as in Feast."""
    return str(call.value("name", place=0 if call.kind == "PushSource" else None) or call.value("path") or "")


def _read(call: FeastCall) -> tuple[str, Any]:
    if call.kind == "Entity":
        name = str(call.value("name", place=0))
        keys = call.value("join_keys") or [call.value("join_key", default=name)]
        return "entities", FeastEntity(name, tuple(str(key) for key in keys), call.at)
    if call.kind.endswith("Source"):
        return "sources", _source(call)
    if call.kind == "OnDemandFeatureView":
        sources = call.value("sources", default=[])
        listed = list(sources.values()) if isinstance(sources, dict) else sources
        return "on_demand", FeastOnDemand(
            name=str(call.value("name", default=call.function)),
            sources=tuple(_referred(each) for each in listed),
            fields=_fields(call),
            mode=str(call.value("mode", default="pandas")),
            code=call.code,
            at=call.at,
        )
    if call.kind in _VIEWS:
        return "views", _view(call)
    if call.kind == "FeatureService":
        uses = [
            FeastUse(_referred(each), each.features if isinstance(each, FeatureSelection) else None)
            for each in call.value("features", place=1, default=[])
        ]
        return "services", FeastService(str(call.value("name", place=0)), tuple(uses), call.at)
    if call.kind in ("Permission", "SavedDataset"):
        return "unread", UnreadObject(call.kind, _name_of(call), "it has no counterpart among definitions", call.at)
    return "", None


def _source(call: FeastCall) -> FeastSource:
    batch = call.value("batch_source")
    format_ = call.value("file_format")
    kind = _SOURCES.get(call.kind, "other")
    return FeastSource(
        name=_source_name(call),
        kind=kind,
        type=call.kind,
        path=str(call.value("path", default="")) if kind == "file" else "",
        format=format_.kind if isinstance(format_, FeastCall) and format_.kind != "ParquetFormat" else "",
        timestamp=str(call.value("timestamp_field", "event_timestamp_column", default="")),
        created=str(call.value("created_timestamp_column", default="")),
        mapping={str(key): str(value) for key, value in (call.value("field_mapping") or {}).items()},
        batch=_source_name(batch) if isinstance(batch, FeastCall) else "",
        fields=_fields(call) if kind == "request" else (),
        at=call.at,
    )


def _view(call: FeastCall) -> FeastView:
    ttl = call.value("ttl")
    source = call.value("source", "stream_source", "batch_source")
    entities = [
        each if isinstance(each, str) else str(each.value("name", place=0)) for each in call.value("entities") or []
    ]
    computed = "a function" if call.function or "udf" in call.keywords else ""
    if "aggregations" in call.keywords:
        computed = f"{computed} and aggregations" if computed else "aggregations"
    return FeastView(
        name=str(call.value("name", place=0, default=call.function)),
        kind="other" if call.kind == "SortedFeatureView" else call.kind,  # type: ignore[arg-type]
        type=call.kind,
        entities=tuple(entities),
        fields=_fields(call),
        source=_source_name(source) if isinstance(source, FeastCall) else "",
        ttl=ttl.total_seconds() if isinstance(ttl, timedelta) else 0.0,
        online=bool(call.value("online", default=True)),
        computed=computed,
        owner=str(call.value("owner", default="")),
        description=str(call.value("description", default="")),
        at=call.at,
    )


def _fields(call: FeastCall) -> tuple[FeastField, ...]:
    found = []
    for each in call.value("schema", "features", default=[]):
        if not isinstance(each, FeastCall):
            continue
        dtype = each.keywords.get("dtype") or (each.arguments[1] if len(each.arguments) > 1 else None)
        written = ast.unparse(dtype) if dtype is not None else ""
        if not isinstance(dtype, ast.Call):
            written = written.rpartition(".")[2]
        found.append(FeastField(str(each.value("name", place=0)), _TYPES.get(written, written.upper())))
    return tuple(found)


def _referred(value: Any) -> str:
    """The name of a view or source that another object refers to."""
    if isinstance(value, FeatureSelection):
        value = value.call
    if isinstance(value, FeastCall):
        return str(value.value("name", place=0, default=value.function))
    return str(value)


def _noun(kind: str) -> str:
    if kind.endswith("Source"):
        return "source"
    nouns = {"Entity": "entity", "OnDemandFeatureView": "on-demand view", "FeatureService": "service"}
    return nouns.get(kind, "view" if kind in _VIEWS else kind)


def _name_of(call: FeastCall) -> str:
    for keyword, place, default in (("name", 0, call.function), ("path", None, "")):
        with suppress(UndeclaredError):
            name = call.value(keyword, place=place, default=default)
            if isinstance(name, str) and name:
                return name
    return ""
