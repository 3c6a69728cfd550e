"""The graph of assets, as it follows from what is declared: what is made, of what, and by which schedule.

Invariants: the graph holds no cycle, and its assets stand inputs first. Keys are those of lineage, ``KIND/NAME``,
without the version: this graph is of what is declared, that of lineage of what there is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from antiphon.core.ids import content_hash
from antiphon.core.suggestions import nearest
from antiphon.definitions.application import Application, ApplicationSpec
from antiphon.definitions.conditions import Condition
from antiphon.definitions.export_schedules import Export
from antiphon.definitions.exports import ExportWork
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.objects import is_objects, object_mistakes
from antiphon.definitions.partitions import Partitions, gaps
from antiphon.definitions.place import CodeLocation
from antiphon.definitions.schedules import (
    DeclaredSchedule,
    EvaluateWork,
    Precompute,
    PrecomputeWork,
    RetrainWork,
    ScheduledWork,
    ScheduleSpec,
    WorkflowWork,
    answers_key,
)
from antiphon.definitions.triggers import NewStaleness, needs, simple_triggers
from antiphon.definitions.workflows import WorkflowSpec

_PLACEHOLDERS = {"{day}": "daily", "{key}": "keyed"}


class AssetPart(NamedTuple):
    """One partition of an asset, or with an empty ``partition`` all of one that has none."""

    asset: str
    partition: str = ""

    def __str__(self) -> str:
        for placeholder in _PLACEHOLDERS if self.partition else ():
            if placeholder in self.asset:
                return self.asset.replace(placeholder, self.partition)
        return f"{self.asset} {self.partition}".strip()


class Asset(msgspec.Struct, frozen=True):
    """Something that is made, or that is there to be read.

    Attributes:
        key: ``KIND/NAME``.
        reads: keys of what it is made from.
        partitions: of it; of files with a placeholder those of its readers.
        schedule: the one that makes it; ``None`` of what applies, refreshes, trainings or others make.
        definition: hash of the definition that it is made by.
        by_staleness: its schedule makes it whenever it is stale.
    """

    key: str
    reads: tuple[str, ...] = ()
    partitions: Partitions | None = None
    schedule: str | None = None
    definition: str = ""
    by_staleness: bool = False

    @property
    def kind(self) -> str:
        """The first part of its key."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """The rest of its key."""
        return self.key.partition("/")[2]

    def parts(self, now: datetime) -> tuple[AssetPart, ...]:
        """Its partitions as of an instant, the oldest first."""
        if self.partitions is None:
            return (AssetPart(self.key),)
        return tuple(AssetPart(self.key, name) for name in self.partitions.names(now))

    def file(self, partition: str) -> str:
        """The path, or pattern, of files with a partition in the place of ``{day}`` or ``{key}``."""
        return (
            self.name if self.partitions is None else self.name.replace(f"{{{self.partitions.parameter}}}", partition)
        )


class AssetGraph(msgspec.Struct, frozen=True):
    """Assets by key, inputs before what is made of them."""

    assets: dict[str, Asset] = {}

    def of_schedule(self, schedule: str) -> Asset | None:
        """The asset that a schedule makes."""
        return next((asset for asset in self.assets.values() if asset.schedule == schedule), None)


def asset_graph(
    views: Mapping[str, FeatureViewSpec],
    applications: Mapping[str, ApplicationSpec],
    schedules: Mapping[str, ScheduleSpec],
    root: Path | None = None,
) -> AssetGraph:
    """The graph of declarations that were checked.

    Args:
        root: the folder of the definitions: files below it are named without it.
    """
    found: dict[str, Asset] = {}
    for view in views.values():
        sources = [f"source/{one.name}" for one in view.source.over or (view.source,)]
        found |= {key: Asset(key) for key in sources}
        found[f"view/{view.name}"] = Asset(f"view/{view.name}", tuple(sources), definition=view.definition_version)
    for application in applications.values():
        found |= {asset.key: asset for asset in _of_application(application, views)}
    repeated = _repeated(spec.work for spec in schedules.values())
    for spec in schedules.values():
        if isinstance(spec.work, WorkflowWork) and spec.work.workflow.name in repeated:
            continue
        asset = _scheduled(spec, applications, views, root)
        if asset is not None:
            found[asset.key] = asset
    for asset in list(found.values()):
        for key in asset.reads:
            if key.startswith("file/"):
                found[key] = _file(key, asset, found.get(key))
            elif key.startswith("predictions/"):
                found[key] = Asset(key)
    return AssetGraph({key: found[key] for key in _sorted(found)})


def workflow_definition(function: str, code: str, arguments: Mapping[str, Any]) -> str:
    """The hash of what a workflow's output is made by: its code and its arguments."""
    return content_hash([function, code, dict(arguments)])[:32]


def asset_mistakes(
    schedules: Sequence[DeclaredSchedule],
    views: Set[str],
    applications: Mapping[str, Application],
    now: datetime | None = None,
) -> Iterator[tuple[CodeLocation, str]]:
    """Yields the mistakes of the graph: names that are no assets, partitions that do not fit, and cycles.

    Args:
        views: names of the project's feature views and documents.
        now: the instant as of which a first day may be in the future; ``None``: that is not checked.
    """
    repeated = _repeated(one.work for one in schedules)
    made = {one.work.workflow.name: one for one in schedules if isinstance(one.work, WorkflowWork)}
    known = _known(schedules, views, applications)
    for schedule in schedules:
        own = list(_staleness_mistakes(schedule))
        if isinstance(schedule.work, WorkflowWork):
            if schedule.work.workflow.name in repeated and _names_staleness(schedule.when):
                own.append("when: what several schedules run is no asset that could be stale; leave all but one out.")
            own += _workflow_mistakes(schedule.work.workflow, made, known, repeated, now)
        yield from ((schedule.place, f"schedule {schedule.name!r}: {text}") for text in own)
    reads = {name: one.work.workflow.reads for name, one in made.items() if isinstance(one.work, WorkflowWork)}
    for cycle in _cycles(reads):
        way = " reads ".join(f"workflow/{name}" for name in (*cycle, cycle[0]))
        yield made[cycle[0]].place, f"schedule {made[cycle[0]].name!r}: {way}: a cycle; leave one of the reads out."


def _known(
    schedules: Iterable[DeclaredSchedule], views: Set[str], applications: Mapping[str, Application]
) -> frozenset[str]:
    """The keys that a workflow may read."""
    tuned = [name for name, one in applications.items() if one.fine_tune is not None]
    keys = [f"view/{name}" for name in views] + [f"release/{name}" for name in applications]
    keys += [f"evaluation/{name}" for name in applications]
    keys += [key for name in tuned for key in (f"model/{name}", f"dataset/{name}/training")]
    for one in schedules:
        if isinstance(one, Precompute):
            keys.append(answers_key(one.name, one.application_name))
        elif isinstance(one, Export):
            keys.append(f"export/{one.name}")
        elif isinstance(one.work, WorkflowWork):
            keys.append(one.work.workflow.key)
    return frozenset(keys)


def _workflow_mistakes(
    spec: WorkflowSpec,
    made: Mapping[str, DeclaredSchedule],
    known: Set[str],
    repeated: Set[str],
    now: datetime | None,
) -> Iterator[str]:
    if spec.name in repeated and (spec.reads or spec.partitions is not None):
        yield f"several schedules run {spec.name!r}, which has assets of its own; one makes them: leave the others out."
    parts = spec.partitions
    if now is not None and parts is not None and not list(parts.mistakes()):
        yield from parts.mistakes(now)
    for key in spec.reads:
        if key.startswith("file/"):
            yield from _file_mistakes(spec, key.removeprefix("file/"))
            continue
        name = key.removeprefix("workflow/")
        if key not in known:
            is_workflow = key.startswith("workflow/")
            advice = "No schedule runs it: declare Schedule(…)." if is_workflow else "Declare it, or mend the key."
            yield f"{spec.name!r} reads {key!r}, which is no asset of this project. {nearest(key, known, advice)}"
        elif name in repeated and key.startswith("workflow/"):
            yield f"{spec.name!r} reads {key!r}, which several schedules run; leave all but one out."
        elif key.startswith("workflow/"):
            work = made[name].work
            read = work.workflow.partitions if isinstance(work, WorkflowWork) else None
            if not any(list(one.mistakes()) for one in (parts, read) if one is not None):
                why = gaps(parts, read)
                if why is not None:
                    yield f"{spec.name!r} reads {key!r} partition by partition, and {why}."


def _file_mistakes(spec: WorkflowSpec, path: str) -> Iterator[str]:
    if is_objects(path):
        yield from (f"files({path!r}): {text}" for text in object_mistakes(path, folder=True))
    for placeholder, noun in _PLACEHOLDERS.items():
        parameter = None if spec.partitions is None else f"{{{spec.partitions.parameter}}}"
        if placeholder in path and placeholder != parameter:
            yield f"files({path!r}) has {placeholder}, and {spec.name!r} is not partitioned by {noun}(…)."


def _staleness_mistakes(schedule: DeclaredSchedule) -> Iterator[str]:
    when, work = schedule.when, schedule.work
    if isinstance(work, RetrainWork) and _names_staleness(when):
        yield "when: a training is not made stale; write outcomes(…), drift() or published(…)."
    if isinstance(work, RetrainWork) and _names_staleness(work.full_when):
        yield "full_when: a training is not made stale; write every(…) or outcomes(…)."
    if not isinstance(work, WorkflowWork) or work.workflow.partitions is None:
        return
    if schedule.ready_by is not None or (when is not None and not needs(when, NewStaleness)):
        yield (
            f"{work.workflow.name!r} is partitioned: a run makes a part that is stale. Write when=stale(), alone or "
            "joined by &."
        )


def _names_staleness(trigger: Condition | None) -> bool:
    return trigger is not None and any(isinstance(one, NewStaleness) for one in simple_triggers(trigger))


def _repeated(works: Iterable[ScheduledWork]) -> frozenset[str]:
    """Names of workflows that several schedules run."""
    names = Counter(work.workflow.name for work in works if isinstance(work, WorkflowWork))
    return frozenset(name for name, count in names.items() if count > 1)


def _cycles(reads: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Cycles of workflows by name, each once, beginning with the one that is declared first."""
    inputs = {name: [key.removeprefix("workflow/") for key in keys] for name, keys in reads.items()}
    done: set[str] = set()
    for begin in inputs:
        path, ways = [begin], [iter(inputs[begin])]
        while path:
            following = next(ways[-1], None)
            if following is None:
                done.add(path.pop())
                ways.pop()
            elif following in path:
                yield tuple(path[path.index(following) :])
            elif following in inputs and following not in done:
                path.append(following)
                ways.append(iter(inputs[following]))


def _of_application(application: ApplicationSpec, views: Mapping[str, FeatureViewSpec]) -> Iterator[Asset]:
    name = application.name
    read = tuple(f"view/{view}" for view in application.pinned if view in views)
    model: tuple[str, ...] = ()
    if application.fine_tune is not None:
        yield Asset(f"dataset/{name}/training", read)
        yield Asset(f"model/{name}", (f"dataset/{name}/training",))
        model = (f"model/{name}",)
    yield Asset(f"release/{name}", (*read, *model))
    yield Asset(f"evaluation/{name}", (f"release/{name}",))


def _scheduled(
    spec: ScheduleSpec,
    applications: Mapping[str, ApplicationSpec],
    views: Mapping[str, FeatureViewSpec],
    root: Path | None,
) -> Asset | None:
    by_staleness = _names_staleness(spec.when)
    match spec.work:
        case WorkflowWork(workflow=workflow, arguments=arguments):
            definition = workflow_definition(workflow.function, workflow.code, arguments)
            return Asset(workflow.key, workflow.reads, workflow.partitions, spec.name, definition, by_staleness)
        case PrecomputeWork(entities=entities):
            application = applications.get(spec.application)
            pinned = () if application is None else application.pinned
            reads = [f"release/{spec.application}", *(f"view/{view}" for view in pinned if view in views)]
            below = root is not None and not is_objects(entities) and Path(entities).is_relative_to(root)
            reads.append(f"file/{Path(entities).relative_to(root) if below and root is not None else entities}")
            key = answers_key(spec.name, spec.application)
            definition = content_hash([spec.application, entities])[:32]
            return Asset(key, tuple(reads), None, spec.name, definition, by_staleness)
        case EvaluateWork():
            reads = [f"release/{spec.application}"]
            return Asset(f"evaluation/{spec.application}", tuple(reads), None, spec.name, by_staleness=by_staleness)
        case ExportWork() as work:
            definition = content_hash(msgspec.to_builtins(work))[:32]
            return Asset(f"export/{spec.name}", (work.asset,), None, spec.name, definition, by_staleness)
    return None


def _file(key: str, reader: Asset, known: Asset | None) -> Asset:
    """Files as they are read; of several readers the partitions that begin first, or those of all keys."""
    parts = reader.partitions
    if parts is None or f"{{{parts.parameter}}}" not in key:
        return known or Asset(key)
    if known is None or known.partitions is None:
        return Asset(key, partitions=parts)
    both: Any = known.partitions
    return Asset(key, partitions=both.joined(parts))


def _sorted(assets: Mapping[str, Asset]) -> list[str]:
    """Keys with inputs first, in the order of declaration otherwise. A key that is read and not there is left out."""
    left = {key: len({one for one in asset.reads if one in assets}) for key, asset in assets.items()}
    readers: dict[str, list[str]] = {key: [] for key in assets}
    for key, asset in assets.items():
        for one in set(asset.reads):
            if one in readers:
                readers[one].append(key)
    ready, found = deque(key for key, count in left.items() if count == 0), []
    while ready:
        key = ready.popleft()
        found.append(key)
        for reader in readers[key]:
            left[reader] -= 1
            if left[reader] == 0:
                ready.append(reader)
    return found
