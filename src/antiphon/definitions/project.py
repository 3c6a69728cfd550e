"""A project: everything its ``definitions.py`` declares, loaded and checked as a whole."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from antiphon.core.errors import InvalidDefinitionsError, SetupError
from antiphon.definitions.application import Application, ApplicationSpec
from antiphon.definitions.application_check import application_mistakes, application_spec
from antiphon.definitions.assets import AssetGraph, asset_graph, asset_mistakes
from antiphon.definitions.documents import Documents
from antiphon.definitions.entity import Entity
from antiphon.definitions.export_schedules import Export
from antiphon.definitions.exports import ExportWork
from antiphon.definitions.feature_view import FeatureView, FeatureViewSpec
from antiphon.definitions.granted import GrantedView
from antiphon.definitions.learning import Outcome
from antiphon.definitions.objectives import Objective, ObjectiveSpec
from antiphon.definitions.objects import ObjectStore
from antiphon.definitions.on_demand import OnDemandSpec, OnDemandView
from antiphon.definitions.place import CodeLocation, collecting
from antiphon.definitions.playbooks import Playbook, PlaybookSpec
from antiphon.definitions.quality import Quality
from antiphon.definitions.schedules import DeclaredSchedule, Evaluate, Precompute, Retrain, Schedule, ScheduleSpec
from antiphon.definitions.schedules_check import measured_applications, schedule_mistakes, window_mistakes
from antiphon.definitions.shipped_playbooks import chain_mistakes
from antiphon.definitions.source import Source, SourceSpec
from antiphon.definitions.watches import Watch, WatchSpec
from antiphon.definitions.windows import Window, WindowSpec


class ProjectSpec(msgspec.Struct, frozen=True):
    """Declarations of a project, by name."""

    name: str
    views: dict[str, FeatureViewSpec]
    applications: dict[str, ApplicationSpec]
    sources: dict[str, SourceSpec]
    schedules: dict[str, ScheduleSpec] = {}
    windows: dict[str, WindowSpec] = {}
    objectives: dict[str, ObjectiveSpec] = {}
    watches: dict[str, WatchSpec] = {}
    playbooks: dict[str, PlaybookSpec] = {}

    @property
    def on_demand(self) -> dict[str, OnDemandSpec]:
        """The on-demand views of its applications, by name."""
        return {view.name: view for application in self.applications.values() for view in application.on_demand}

    def assets(self, root: Path | None = None) -> AssetGraph:
        """The graph of what is made of what; files below ``root`` are named without it."""
        return asset_graph(self.views, self.applications, self.schedules, root)


def load(
    path: Path,
    name: str | None = None,
    objects: ObjectStore | None = None,
    *,
    with_files: bool = False,
    granted: Callable[[str], FeatureViewSpec | None] | None = None,
    now: datetime | None = None,
) -> ProjectSpec:
    """Run a project's ``definitions.py`` and check everything it declares.

    Args:
        path: the project's folder, or the file itself. Relative source paths start at its folder.
        name: the project's name; the folder's by default.
        objects: the store of sources that name objects and no store.
        with_files: a history of outcomes whose local file is missing is a mistake. (A view's own file is looked for
            by its refresh, which publishes nothing without it.)
        granted: finds the definition of a view that another tenant grants, by ``OWNER/VIEW``; without it versions of
            such views are empty.
        now: the instant as of which a partition's first day may be in the future; without it that is no mistake.

    Raises:
        SetupError: there is no such file.
        InvalidDefinitionsError: every mistake at once, each with file and line.
    """
    root, items, problems = _run(path)
    problems += _mistakes(items, now)
    if granted is not None:
        problems += list(_resolve_granted(items, granted))
    if with_files:
        problems += list(_missing_histories(items, root))
    if problems:
        # A mistake in a part that several declarations share is reported once, in the order of the file.
        raise InvalidDefinitionsError([f"{place}: {what}" for place, what in sorted(dict.fromkeys(problems))])
    for source in items:
        if isinstance(source, Source) and objects is not None:
            source.objects = objects
    applications = {app.name: application_spec(app, root) for app in items if isinstance(app, Application)}
    return ProjectSpec(
        name=name or root.name,
        views={view.name: view.spec(root) for view in items if isinstance(view, FeatureView)},
        applications=applications,
        sources={source.name: source.spec(root) for source in items if isinstance(source, Source)},
        schedules={item.name: item.spec(root) for item in items if isinstance(item, DeclaredSchedule)},
        windows={window.name: window.spec for window in items if isinstance(window, Window)},
        objectives={item.name: item.spec(applications) for item in items if isinstance(item, Objective)},
        watches={item.name: item.spec for item in items if isinstance(item, Watch)},
        playbooks={item.name: item.spec for item in items if isinstance(item, Playbook)},
    )


def functions(path: Path) -> dict[str, dict[str, Any]]:
    """View to what its Python rules of quality call, by the rule's name; runs the file, as :func:`load` does. Raises
    ``SetupError`` when there is no such file, ``InvalidDefinitionsError`` when it cannot be run."""
    _, items, problems = _run(path)
    if problems:
        raise InvalidDefinitionsError([f"{place}: {what}" for place, what in problems])
    return {
        item.name: item.options["quality"].functions()
        for item in items
        if isinstance(item, FeatureView) and isinstance(item.options.get("quality"), Quality)
    }


def _run(path: Path) -> tuple[Path, list[object], list[tuple[CodeLocation, str]]]:
    """Execute the file as a module of its own; its folder, what it declared, and what it raised with its line."""
    file = (path / "definitions.py" if path.is_dir() else path).resolve()
    try:
        text = file.read_bytes()
    except OSError as error:
        raise SetupError(
            f"{file} cannot be read: {error.strerror}.", next_step="Run `antiphon init NAME` to make a project."
        ) from None
    module = ModuleType("antiphon_project_definitions")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(file.parent))
    problems: list[tuple[CodeLocation, str]] = []
    with collecting() as items:
        try:
            exec(compile(text, str(file), "exec"), module.__dict__)
        except SyntaxError as error:
            problems = [(CodeLocation(error.filename or str(file), error.lineno or 1), f"syntax: {error.msg}.")]
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), None)
            problems = [(CodeLocation(str(file), line or 1), f"{type(error).__name__}: {error}")]
        finally:
            sys.path.remove(str(file.parent))
            del sys.modules[module.__name__]
    return file.parent, items, problems


def _mistakes(items: list[object], now: datetime | None) -> list[tuple[CodeLocation, str]]:
    problems: list[tuple[CodeLocation, str]] = []
    for item in items:
        match item:
            case Entity() | Source() | Playbook():
                problems += [(item.place, text) for text in item.mistakes()]
            case FeatureView() | GrantedView() | OnDemandView():
                problems += list(item.mistakes())
            case Application():
                problems += [(item.place, text) for text in application_mistakes(item)]
    problems += list(_schedule_mistakes(items, now))
    problems += list(_objective_mistakes(items))
    problems += list(chain_mistakes([item for item in items if isinstance(item, Playbook)]))
    problems += list(_clashes(items))
    return problems


def _objective_mistakes(items: list[object]) -> Iterator[tuple[CodeLocation, str]]:
    applications = {str(item.name): item for item in items if isinstance(item, Application)}
    for item in items:
        if isinstance(item, Objective | Watch):
            yield from ((item.place, text) for text in item.mistakes(applications))


def _schedule_mistakes(items: list[object], now: datetime | None) -> Iterator[tuple[CodeLocation, str]]:
    applications = {str(item.name): item for item in items if isinstance(item, Application)}
    views = {item.name for item in items if isinstance(item, FeatureView)}
    blackouts: list[WindowSpec] = []
    for window in (item for item in items if isinstance(item, Window)):
        found = list(window_mistakes(window))
        yield from ((window.place, text) for text in found)
        if not found and window.kind == "blackout":
            blackouts.append(window.spec)
    learning = measured_applications(items)
    for item in items:
        if isinstance(item, DeclaredSchedule):
            found = list(schedule_mistakes(item, applications, views, blackouts, learning))
            yield from ((item.place, text) for text in found)
    yield from asset_mistakes([one for one in items if isinstance(one, DeclaredSchedule)], views, applications, now)
    yield from _shared_places(items)


def _shared_places(items: list[object]) -> Iterator[tuple[CodeLocation, str]]:
    first: dict[str, Export] = {}
    for item in items:
        if isinstance(item, Export) and isinstance(item.work, ExportWork):
            known = first.setdefault(str(item.work.to), item)
            if known is not item:
                yield (
                    item.place,
                    (f"schedule {item.name!r}: to: {known.name!r} writes to {item.work.to!r} too; name another place."),
                )


def _resolve_granted(
    items: list[object], granted: Callable[[str], FeatureViewSpec | None]
) -> Iterator[tuple[CodeLocation, str]]:
    for item in items:
        if isinstance(item, GrantedView) and not list(item.mistakes()):
            item.spec = granted(item.name)
            yield from item.differences(item.spec)


def _missing_histories(items: list[object], root: Path) -> Iterator[tuple[CodeLocation, str]]:
    for item in items:
        if isinstance(item, Application) and isinstance(item.outcome, Outcome):
            history: Any = item.outcome.history  # written as a Source
            text = history.missing_file(root) if isinstance(history, Source) else None
            if text is not None:
                yield history.place, text


def _clashes(items: list[object]) -> Iterator[tuple[CodeLocation, str]]:
    first: dict[tuple[str, str], _Named] = {}
    for item in items:
        if not isinstance(item, _Named):
            continue
        noun = _NOUNS[type(item)]
        known = first.setdefault((noun, str(item.name)), item)
        if known is item:
            continue
        if isinstance(item, Entity) and isinstance(known, Entity) and item.keys == known.keys:
            continue
        advice = " Give one of them another name." if isinstance(item, DeclaredSchedule) else ""
        yield item.place, f"{noun} {item.name!r} is declared already, at {known.place}.{advice}"


_Named = Entity | Source | FeatureView | OnDemandView | Application | DeclaredSchedule | Playbook | Watch | Window
_NOUNS: dict[type, str] = {
    Entity: "entity",
    Source: "source",
    FeatureView: "view",
    Documents: "view",
    OnDemandView: "view",
    Application: "application",
    Retrain: "schedule",
    Schedule: "schedule",
    Precompute: "schedule",
    Evaluate: "schedule",
    Export: "schedule",
    Playbook: "playbook",
    Watch: "watch",
    Window: "window",
}
